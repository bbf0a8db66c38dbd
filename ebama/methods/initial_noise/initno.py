"""InitNO: Guo et al. 2024."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...guidance import Losses
from ...smoothing import gaussian_smooth
from .method import NoiseMethod
from .terms import Terms, beside, least_attended, looks_at, peak_pixels, shared_attention


@dataclass(frozen=True)
class InitNO(NoiseMethod):
    """Optimises the initial noise, then guides.

    With S the smoothed second softmax at each object's first token (as in `ane`), p its peak, and r what p looks at in
    self-attention, smoothed:

        cross = max over objects of max(0, 1 - S[p]);
        conflict = mean over pairs of sum min(r_i, r_j) / sum (r_i + r_j);
        clean = sum of the greatest S outside the region of p above Otsu's threshold, where it exceeds the least inside.

    Before sampling, mean and log variance of the noise move down cross + conflict + clean (conflict only once cross is
    at most 0.5) by Adam, held near N(0, 1), until cross and conflict meet their targets. A round has at most
    `iterations` steps; the next one starts from fresh noise. Without a success, the best round's noise gets
    `final_iterations` steps. A round in which the conflict never counted has 1 more to its score, as in the authors'
    code, and so has a prompt of one object.

    While sampling, the latent steps down cross; at `refine_calls` a sample that misses a target first steps down
    cross + 0.1 clean + 0.1 align + conflict until it meets both. align is the distance of S from its running mean.

    Departure: objects' first tokens instead of positions by hand.

    Attributes:
        max_rounds: 0 leaves the noise as it is.
        iterations, final_iterations: steps of a round and of the last one, at most.
        learning_rate: of Adam.
        cross_target, self_target: of cross and conflict.
        step_size: alpha at the first call; it falls as in `ane`.
        guided_steps: model calls that are guided.
        refine_calls: those that may refine.
        max_refinements: rounds at most, at each of them.
    """

    name: ClassVar[str] = "initno"
    changes: ClassVar[str] = "optimises the initial noise, then moves the latent"
    reference: ClassVar[str] = "Guo et al. 2024 (InitNO)"

    def terms(self, maps: Tensor, self_maps: Tensor, exist: Tensor, *, searching: bool) -> Terms:
        """Cross, clean and conflict, of one form in both phases."""
        smoothed = gaussian_smooth(maps)
        pixels = peak_pixels(smoothed)
        peaks = smoothed.flatten(2).gather(2, pixels[..., None])[..., 0]
        return Terms(
            least_attended(peaks, exist),
            beside(smoothed, pixels, exist),
            shared_attention(looks_at(self_maps, pixels), exist),
            maps,
        )

    def judge(self, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """A round in which the conflict never counted has 1 more to its score."""
        lowered, succeeded, score = super().judge(terms)
        return lowered, succeeded, score + (terms.conflict_if_seen() <= 1e-6)

    def losses(self, terms: Terms, align: Tensor) -> Losses:
        """Steps down cross, refinement down all."""
        joint = terms.cross + 0.1 * terms.clean + 0.1 * align + terms.conflict
        unmet = (terms.cross > self.cross_target) | (terms.conflict > self.self_target)
        return Losses(terms.cross, joint, terms.cross, unmet)
