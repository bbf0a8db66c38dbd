"""Regions of maps: what lies above Otsu's threshold, and the connected part of it around a pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 255
LEAST_SHARE = 2.0**-23  # of the pixels on either side of a threshold


def otsu_mask(maps: Tensor) -> Tensor:
    """Pixels of maps [..., h, w] in [0, 1] with values of at least t / 255, booleans.

    t is the first of the levels of floor(255 map) that separates the pixels up to it from the others best: the variance
    between the two, q (1 - q) (mu_1 - mu_2)^2, is greatest. t is 0 for a map of one level. Pixels of level t itself lie
    in the mask, though it belongs to the lower class (as published).
    """
    levels = (LEVELS * maps.detach()).floor().reshape(-1, maps.shape[-2:].numel()).cpu().long().clamp(0, LEVELS)
    shares = F.one_hot(levels, LEVELS + 1).sum(dim=1).double() / levels.shape[1]
    weighted = shares * torch.arange(LEVELS + 1, dtype=torch.float64, device="cpu")
    below, moment = shares.cumsum(dim=1), weighted.cumsum(dim=1)
    above, total = 1 - below, moment[:, -1:]
    variances = below * above * (moment / below - (total - moment) / above) ** 2
    thresholds = variances.where(torch.minimum(below, above) >= LEAST_SHARE, 0).argmax(dim=1) / LEVELS
    return maps.detach() >= thresholds.view(maps.shape[:-2])[..., None, None].to(maps)


def component(masks: Tensor, pixels: Tensor) -> Tensor:
    """The 4-connected part of each mask [..., h, w] that holds a pixel [...] of it, counted row by row; booleans."""
    allowed = masks.cpu()
    region = F.one_hot(pixels.cpu(), masks.shape[-2:].numel()).bool().view(masks.shape)
    while True:
        padded = F.pad(region, (1, 1, 1, 1))
        grown = padded[..., 1:-1, :-2] | padded[..., 1:-1, 2:] | padded[..., :-2, 1:-1] | padded[..., 2:, 1:-1]
        larger = region | (grown & allowed)
        if torch.equal(larger, region):
            return region.to(masks.device)
        region = larger
