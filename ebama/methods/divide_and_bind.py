"""Divide & Bind: Li et al. 2023. Written from a description of its mathematics, not from its (AGPL) code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..guidance import Energy, GradientMethod, Needs, Refinement, Task
from ..guidance.options import one_of, option, switch, thresholds, whole_numbers
from ..maps import ContentRange, WordPositions, first_tokens
from ..models import AttentionRecord, AttentionRecords, Site
from ..smoothing import gaussian_smooth


@dataclass(frozen=True)
class DivideAndBind(GradientMethod):
    """Gives every object's map edges (total variation), so that it lies in clear regions; may bind modifiers to it.

    Attributes:
        step_size: alpha at the first call; it falls as in `ane`. 20 in the code.
        guided_steps: model calls that are guided; 25 in the code.
        mode: "tv" moves the object with the least total variation; "tv-bind" also holds the modifiers' maps of the
            finer sites (32x32 and 64x64 on SD v1) to their object's. Where a network has no finer sites, those at
            16x16 stand in.
        thresholds: (call, threshold): refine while the least value is below; ((0, 0.05), (10, 0.2), (20, 0.3)). In
            mode "tv-bind" the value is what the loss has: total variation less the modifiers' penalty.
        max_refinements: rounds at most at call 0, and at later ones; (100, 50).
        normalize_eot: whether the second softmax leaves out the end of the text and the padding (see `ContentRange`).
    """

    name: ClassVar[str] = "divide-and-bind"
    changes: ClassVar[str] = "moves the latent: total variation of object maps, may bind modifiers"
    reference: ClassVar[str] = "Li et al. 2023 (Divide & Bind)"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16 (tv-bind: and finer)", gradient=True)
    decay_step_size: ClassVar[bool] = True

    step_size: float = 20.0
    guided_steps: int | None = 25
    mode: Literal["tv", "tv-bind"] = option("tv", one_of("tv", "tv-bind"))
    thresholds: tuple[tuple[int, float], ...] = option(((0, 0.05), (10, 0.2), (20, 0.3)), thresholds)
    max_refinements: tuple[int, int] = option(
        (100, 50), whole_numbers("two whole numbers of at least 0, at call 0 and at later ones, as (100, 50)", count=2)
    )
    normalize_eot: bool = option(False, switch)

    def energy(self, task: Task) -> Energy:
        """Minus the least value of an object."""
        all_objects, all_content = first_tokens(task.groups), ContentRange.of(task.tokens, self.normalize_eot)
        all_modifiers = WordPositions.of(  # of each object, the first token of every modifier
            [[[modifier[0] for modifier in group.modifiers] for group in groups] for groups in task.groups]
        )

        def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
            if len({record.site.kind for record in records}) > 1:
                raise ValueError(
                    "The energy of divide-and-bind reads cross-attention alone; choose sites of that kind."
                )
            objects, modifiers, content = all_objects[samples], all_modifiers[samples], all_content[samples]
            coarse = min(record.site.resolution for record in records)
            base = records.where(resolution=coarse).mean_probabilities()
            finer = [record for record in records if record.site.resolution > coarse]
            maps = gaussian_smooth(objects.means(content.softmax(base)))
            values = total_variation(maps)
            if self.mode == "tv-bind":
                sharpened = content.softmax(_resized(finer, coarse) if finer else base)
                coefficient = 1 if i < 10 else 5 if i < 20 else 10
                values = values - coefficient * _divergences(maps, values, modifiers, sharpened)
            return -values.masked_fill(objects.exist(values) == 0, torch.inf).amin(dim=1)

        return energy

    def sites(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        """Mode "tv-bind" also reads the finer cross-attention sites, for the modifiers' maps."""
        base = super().sites(task, latent_shape)
        if self.mode == "tv" or not base:
            return base
        cross = [site for site in task.network.sites(latent_shape) if site.kind == "cross"]
        return [site for site in cross if site.resolution >= base[0].resolution]

    def refinements(self) -> dict[int, Refinement]:
        """At the thresholds' calls."""
        return {i: Refinement(-threshold, self.max_refinements[i > 0]) for i, threshold in self.thresholds}


def total_variation(maps: Tensor) -> Tensor:
    """Of maps [..., h, w], [...]: mean absolute difference of horizontal neighbours, plus that of the last row and each
    of the rows 1 to h - 1. The second part is what the published code computes in place of vertical neighbours."""
    horizontal = (maps[..., 1:] - maps[..., :-1]).abs().mean(dim=(-2, -1))
    return horizontal + (maps[..., -1:, :] - maps[..., 1:, :]).abs().mean(dim=(-2, -1))


def _divergences(maps: Tensor, variations: Tensor, modifiers: WordPositions, sharpened: Tensor) -> Tensor:
    """For each object with map [B, object, h, w] the mean over its modifiers of a truncated Jensen-Shannon divergence,
    [B, object]; 0 without modifiers.

    A modifier's map, from `sharpened` [B, h, w, key], is smoothed and scaled to the object's peak. Both maps go through
    a softmax over the pixels; of each pixel only what lies above a share of the object's peak counts: 0.3 of it, 0.2
    once the object has a total variation of 0.1.
    """
    x, y = maps.flatten(2)[:, :, None], gaussian_smooth(modifiers.columns(sharpened)).flatten(3)
    highest = y.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(y.dtype).tiny)  # padding's maps are 0
    y = y * x.amax(dim=-1, keepdim=True) / highest
    p, q = x.softmax(dim=-1), y.softmax(dim=-1)
    share = torch.where(variations < 0.1, 0.3, 0.2).to(maps)[..., None, None]
    threshold = share * p.amax(dim=-1, keepdim=True)
    p, q = (F.relu(values - threshold) + 1e-5 for values in (p, q))
    middle = (p + q) / 2
    divergences = (p * (p / middle).log() + q * (q / middle).log()).sum(dim=-1) / 2
    return (divergences * modifiers.shares.to(maps)).sum(dim=-1)


def _resized(records: Sequence[AttentionRecord], size: tuple[int, int]) -> Tensor:
    """Mean probabilities [B, h, w, key] of sites of several resolutions, each resized to `size` (nearest)."""
    maps = [
        F.interpolate(
            rearrange(record.probabilities.mean(dim=1), "b (h w) k -> b k h w", h=record.site.resolution[0]), size
        )
        for record in records
    ]
    return rearrange(torch.stack(maps).mean(dim=0), "b k h w -> b h w k")
