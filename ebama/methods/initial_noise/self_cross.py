"""Self-Cross guidance: Qiu et al. 2025."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...guidance import Losses
from ...guidance.options import option, whole
from ...smoothing import gaussian_smooth
from .method import NoiseMethod
from .regions import otsu_mask
from .terms import Terms, beside, least_attended, overlap, peak_pixels


@dataclass(frozen=True)
class SelfCross(NoiseMethod):
    """Keeps what one object's patches look at away from the other objects' patches; InitNO's search comes first.

    As `initno`, but cross is max over objects of max(0, 1 - mean of the `top` greatest S), and the conflict is the mean
    over ordered pairs i != j of sum min(u_j, S_i), where u_j is the mean, weighted by S_j, of what the pixels above
    Otsu's threshold of S_j look at in self-attention. It counts once cross is at most 0.5. The steps go down
    cross + 0.1 clean + conflict, and that sum is also what refinement holds against `cross_target`, as in the authors'
    code. A round without conflict has nothing added to its score.

    Departures: objects' first tokens instead of positions by hand; a prompt of one object searches too (theirs fails).

    Attributes:
        top: pixels of a map whose mean is its response.
        max_rounds, iterations, final_iterations, learning_rate, cross_target, self_target: see `initno`.
        step_size, guided_steps, refine_calls, max_refinements: see `initno`.
    """

    name: ClassVar[str] = "self-cross"
    changes: ClassVar[str] = "optimises the initial noise, then keeps objects apart"
    reference: ClassVar[str] = "Qiu et al. 2025 (Self-Cross)"

    top: int = option(16, whole(least=1))

    def terms(self, maps: Tensor, self_maps: Tensor, exist: Tensor, *, searching: bool) -> Terms:
        """Cross, clean and conflict; 1e-4 beside the sum of u while sampling, nothing in the search, as published."""
        smoothed, eps = gaussian_smooth(maps), 0 if searching else 1e-4
        flat = smoothed.flatten(2)
        response = flat.topk(min(self.top, flat.shape[-1]), dim=-1).values.mean(dim=-1)
        inside = (smoothed * otsu_mask(smoothed)).flatten(2)
        attended = gaussian_smooth((inside @ self_maps.flatten(1, 2)).unflatten(-1, self_maps.shape[1:3]))
        padded = (exist == 0)[..., None, None]
        attended = attended / (attended.sum(dim=(-2, -1), keepdim=True) + eps + padded)
        others = smoothed
        if max(smoothed.shape[-2:]) > 16:  # published so for finer sites only
            others = smoothed / (smoothed.sum(dim=(-2, -1), keepdim=True) + eps + padded)
        return Terms(
            least_attended(response, exist),
            beside(smoothed, peak_pixels(smoothed), exist),
            overlap(attended, others, exist),
            maps,
        )

    def losses(self, terms: Terms, align: Tensor) -> Losses:
        """Steps down cross + 0.1 clean + conflict, refinement also down align."""
        conflict = terms.conflict_if_seen()
        total = terms.cross + 0.1 * terms.clean + conflict
        return Losses(total, total + 0.1 * align, total, (total > self.cross_target) | (conflict > self.self_target))
