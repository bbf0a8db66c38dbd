"""Terms of InitNO and Self-Cross over the smoothed maps S [B, object, h, w] of objects and self-attention maps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...smoothing import gaussian_smooth
from .regions import component, otsu_mask


class Terms(NamedTuple):
    """Of each sample: how little the least attended object is (cross), how much attention lies beside the objects'
    regions (clean), how much the objects conflict, [B] each; and the objects' maps before smoothing
    [B, object, h, w], 0 where padded."""

    cross: Tensor
    clean: Tensor
    conflict: Tensor
    maps: Tensor

    def conflict_if_seen(self) -> Tensor:
        """The conflict of samples whose objects are all seen somewhat (cross of at most 0.5); 0 for the others."""
        return self.conflict * (self.cross <= 0.5)


def peak_pixels(smoothed: Tensor) -> Tensor:
    """Where each map is highest, counted row by row, the first of ties: [B, object]."""
    return smoothed.detach().flatten(2).argmax(dim=-1)


def least_attended(values: Tensor, exist: Tensor) -> Tensor:
    """max over objects of max(0, 1 - value), [B], from values [B, object]."""
    return ((1 - values).clamp(min=0) * exist).amax(dim=1)


def beside(smoothed: Tensor, pixels: Tensor, exist: Tensor) -> Tensor:
    """Sum over objects of the greatest value outside an object's region, [B], where it exceeds the least inside.

    The region is the part of `otsu_mask` around the peak; no gradient goes through it.
    """
    region = component(otsu_mask(smoothed), pixels)
    outside = smoothed.masked_fill(region, 0).amax(dim=(-2, -1))
    inside = smoothed.detach().masked_fill(~region, 1).amin(dim=(-2, -1))
    return (outside * (outside > inside) * exist).sum(dim=1)


def looks_at(self_maps: Tensor, pixels: Tensor) -> Tensor:
    """What some pixels [B, object] look at, smoothed [B, object, h, w], from self-attention [B, h, w, key]."""
    rows = self_maps.flatten(1, 2).gather(1, pixels[..., None].expand(-1, -1, self_maps.shape[-1]))
    return gaussian_smooth(rows.unflatten(-1, self_maps.shape[1:3]))


def shared_attention(looked: Tensor, exist: Tensor) -> Tensor:
    """Mean over pairs of objects of sum min(r_i, r_j) / sum (r_i + r_j), [B]; 0 without a pair."""
    flat = looked.flatten(2)
    sums = flat.sum(dim=-1)
    shared = torch.minimum(flat[:, :, None], flat[:, None]).sum(dim=-1)
    return _mean_of_pairs(shared / (sums[:, :, None] + sums[:, None] + 1e-6), exist)


def overlap(attended: Tensor, smoothed: Tensor, exist: Tensor) -> Tensor:
    """Mean over ordered pairs i != j of sum min(u_j, S_i), [B]; 0 without a pair."""
    between = torch.minimum(attended.flatten(2)[:, :, None], smoothed.flatten(2)[:, None]).sum(dim=-1)
    return _mean_of_pairs(between, exist)


def _mean_of_pairs(values: Tensor, exist: Tensor) -> Tensor:
    """Mean of values [B, object, object] over ordered pairs of two objects, which for alike ones is that over pairs."""
    pairs = exist[:, :, None] * exist[:, None] * (1 - torch.eye(exist.shape[1], device=exist.device, dtype=exist.dtype))
    return (values * pairs).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)
