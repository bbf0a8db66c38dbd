"""Attend-and-Excite: Chefer et al. 2023."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..guidance import Energy, GradientMethod, Needs, Refinement, Task
from ..guidance.options import option, switch, thresholds, whole
from ..hidden import checked_losses
from ..maps import ContentRange, Groups, Tokens, WordPositions, first_tokens, groups_and_tokens
from ..smoothing import gaussian_peak


@dataclass(frozen=True)
class AttendAndExcite(GradientMethod):
    """Excites the most neglected object until every object is attended somewhere.

    The defaults are those of the authors' code.

    Attributes:
        step_size: alpha at the first call; it falls as alpha sqrt(r), r from 1 to 0.5 over all calls.
        guided_steps: model calls that are guided.
        thresholds: (call, threshold) pairs: at these calls a sample is refined while its loss exceeds 1 - threshold.
            () switches refinement off.
        max_refinements: rounds of refinement at most, at each of them.
        normalize_eot: whether the second softmax leaves out the end of the text and the padding (see `ContentRange`).
    """

    name: ClassVar[str] = "ane"
    changes: ClassVar[str] = "moves the latent: excites the most neglected object"
    reference: ClassVar[str] = "Chefer et al. 2023 (Attend-and-Excite)"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16", gradient=True)
    decay_step_size: ClassVar[bool] = True

    step_size: float = 20.0
    guided_steps: int | None = 25
    thresholds: tuple[tuple[int, float], ...] = option(((0, 0.05), (10, 0.5), (20, 0.8)), thresholds)
    max_refinements: int = option(20, whole())
    normalize_eot: bool = option(False, switch)

    def energy(self, task: Task) -> Energy:
        """`ane_loss`; only samples with an object come here."""
        objects, content = first_tokens(task.groups), ContentRange.of(task.tokens, self.normalize_eot)
        return lambda records, samples, i: _least_excited(
            records.mean_probabilities(), objects[samples], content[samples]
        )

    def refinements(self) -> dict[int, Refinement]:
        """At the thresholds' calls."""
        return {i: Refinement(1 - threshold, self.max_refinements) for i, threshold in self.thresholds}


def ane_loss(probabilities: Tensor, groups: Groups, tokens: Tokens = ()) -> Tensor:
    """max over objects s of max(0, 1 - v_s), [B], from mean probabilities [B, h, w, key].

    v_s is the peak of the smoothed second softmax at the object's first token; `tokens` are the content positions that
    `ContentRange` goes by, CLIP's if none are given. Raises ValueError for a sample without objects, for lists that do
    not match the batch and for positions outside the key axis.
    """
    samples, content = groups_and_tokens(groups, tokens, len(probabilities))
    if not all(samples):
        raise ValueError("A sample has no object to excite; expected at least one group for each.")
    return checked_losses(_least_excited(probabilities, first_tokens(samples), ContentRange.of(content)), probabilities)


def _least_excited(probabilities: Tensor, objects: WordPositions, content: ContentRange) -> Tensor:
    peaks = gaussian_peak(objects.means(content.softmax(probabilities)))
    return (1 - peaks).clamp(min=0).masked_fill(objects.exist(peaks) == 0, -1).amax(dim=1)
