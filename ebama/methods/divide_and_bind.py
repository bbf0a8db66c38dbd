"""Divide & Bind: Li et al. 2023. Written from a description of its mathematics, not from its (AGPL) code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ebama.models import AttentionRecords

from ..energy import GroupLike
from ..guidance.gradient import Energy, GradientMethod, Refinement
from ..guidance.method import Needs, Task
from ..guidance.options import check_thresholds, whole_numbers
from ..smoothing import gaussian_smooth
from .token_softmax import object_maps, token_softmax


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
    """

    name: ClassVar[str] = "divide-and-bind"
    changes: ClassVar[str] = "moves the latent: total variation of object maps, may bind modifiers"
    reference: ClassVar[str] = "Li et al. 2023 (Divide & Bind)"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16 (tv-bind: and finer)", gradient=True)
    decay_step_size: ClassVar[bool] = True
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"sd-v1": {"step_size": 20.0}, "miniature": {"step_size": 12.0}}

    step_size: float | None = None
    guided_steps: int | None = 25
    mode: Literal["tv", "tv-bind"] = "tv"
    thresholds: tuple[tuple[int, float], ...] = ((0, 0.05), (10, 0.2), (20, 0.3))
    max_refinements: tuple[int, int] = (100, 50)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "thresholds", check_thresholds(self.thresholds))
        rounds = whole_numbers("max_refinements", self.max_refinements, "(100, 50)")
        object.__setattr__(self, "max_refinements", rounds)
        if self.mode not in ("tv", "tv-bind"):
            raise ValueError(f"mode is {self.mode!r}; expected 'tv' or 'tv-bind'.")
        if len(rounds) != 2:
            raise ValueError(
                f"max_refinements are {rounds!r}; expected two whole numbers, at call 0 and at later ones."
            )

    def energy(self, task: Task) -> Energy:
        """Minus the least value of an object."""

        def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
            groups = [task.prompts[sample].groups for sample in samples]
            coarse = min(record.site.resolution for record in records)
            base = AttentionRecords([record for record in records if record.site.resolution == coarse])
            finer = [record for record in records if record.site.resolution > coarse]
            maps = [gaussian_smooth(torch.stack(m)) for m in object_maps(base.mean_probabilities(), groups)]
            values = [total_variation(m) for m in maps]
            if self.mode == "tv-bind":
                colours = _resized(AttentionRecords(finer), coarse) if finer else base.mean_probabilities()
                sharpened = rearrange(token_softmax(colours), "b h w k -> b k h w")
                penalties = [_divergences(*sample) for sample in zip(maps, values, groups, sharpened, strict=True)]
                coefficient = 1 if i < 10 else 5 if i < 20 else 10
                values = [v - coefficient * penalty for v, penalty in zip(values, penalties, strict=True)]
            return -torch.stack([v.min() for v in values])

        return energy

    @property
    def finer(self) -> bool:
        """For the modifiers' maps."""
        return self.mode == "tv-bind"

    def refinements(self) -> dict[int, Refinement]:
        """At the thresholds' calls."""
        return {i: Refinement(-threshold, self.max_refinements[i > 0]) for i, threshold in self.thresholds}


def total_variation(maps: Tensor) -> Tensor:
    """Of maps [n, h, w], [n]: mean absolute difference of horizontal neighbours, plus that of the last row and each of
    the rows 1 to h - 1. The second part is what the published code computes in place of vertical neighbours."""
    horizontal = (maps[..., 1:] - maps[..., :-1]).abs().mean(dim=(-2, -1))
    return horizontal + (maps[..., -1:, :] - maps[..., 1:, :]).abs().mean(dim=(-2, -1))


def _divergences(maps: Tensor, variations: Tensor, groups: Sequence[GroupLike], sharpened: Tensor) -> Tensor:
    """For each object with map [h, w] the mean over its modifiers of a truncated Jensen-Shannon divergence, [n].

    A modifier's map is that of its first piece, from `sharpened` [75, h, w], smoothed and scaled to the object's peak.
    Both maps go through a softmax over the pixels; of each pixel only what lies above a share of the object's peak
    counts: 0.3 of it, 0.2 once the object has a total variation of 0.1.
    """
    found = []
    for x, variation, group in zip(maps, variations, groups, strict=True):
        if not group.modifiers:
            found.append(x.new_zeros(()))
            continue
        y = gaussian_smooth(sharpened[[modifier[0] - 1 for modifier in group.modifiers]]).flatten(1)
        y = y * x.max() / y.amax(dim=1, keepdim=True)
        p, q = x.flatten().softmax(dim=0), y.softmax(dim=1)
        threshold = (0.3 if variation < 0.1 else 0.2) * p.max()
        p, q = (F.relu(values - threshold) + 1e-5 for values in (p, q))
        middle = (p + q) / 2
        divergence = (p * (p / middle).log() + q * (q / middle).log()).sum(dim=1) / 2
        found.append(divergence.mean())
    return torch.stack(found)


def _resized(records: AttentionRecords, size: tuple[int, int]) -> Tensor:
    """Mean probabilities [B, h, w, key] of sites of several resolutions, each resized to `size` (nearest)."""
    maps = [
        F.interpolate(
            rearrange(record.probabilities.mean(dim=1), "b (h w) k -> b k h w", h=record.site.resolution[0]), size
        )
        for record in records
    ]
    return rearrange(torch.stack(maps).mean(dim=0), "b k h w -> b h w k")
