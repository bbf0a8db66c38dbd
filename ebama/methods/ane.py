"""Attend-and-Excite: Chefer et al. 2023."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..energy import Groups, peaks, per_sample
from ..guidance.gradient import Energy, GradientMethod, Refinement
from ..guidance.method import Needs, Task
from ..guidance.options import check_thresholds
from .token_softmax import object_maps


@dataclass(frozen=True)
class AttendAndExcite(GradientMethod):
    """Excites the most neglected object until every object is attended somewhere.

    Attributes:
        step_size: alpha at the first call; it falls as alpha sqrt(r), r from 1 to 0.5 over all calls. 20 in the code.
        guided_steps: model calls that are guided; 25 in the code.
        thresholds: (call, threshold) pairs: at these calls a sample is refined while its loss exceeds 1 - threshold.
            ((0, 0.05), (10, 0.5), (20, 0.8)) in the code; () switches refinement off.
        max_refinements: rounds of refinement at most, at each of them; 20 in the code.
    """

    name: ClassVar[str] = "ane"
    changes: ClassVar[str] = "moves the latent: excites the most neglected object"
    reference: ClassVar[str] = "Chefer et al. 2023 (Attend-and-Excite)"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16", gradient=True)
    decay_step_size: ClassVar[bool] = True
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"sd-v1": {"step_size": 20.0}, "miniature": {"step_size": 3.0}}

    step_size: float | None = None
    guided_steps: int | None = 25
    thresholds: tuple[tuple[int, float], ...] = ((0, 0.05), (10, 0.5), (20, 0.8))
    max_refinements: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "thresholds", check_thresholds(self.thresholds))
        if type(self.max_refinements) is not int or self.max_refinements < 0:
            raise ValueError(f"max_refinements is {self.max_refinements!r}; expected a whole number of at least 0.")

    def energy(self, task: Task) -> Energy:
        """`ane_loss`."""
        return lambda records, samples, i: ane_loss(
            records.mean_probabilities(), [task.prompts[sample].groups for sample in samples]
        )

    def refinements(self) -> dict[int, Refinement]:
        """At the thresholds' calls."""
        return {i: Refinement(1 - threshold, self.max_refinements) for i, threshold in self.thresholds}


def ane_loss(probabilities: Tensor, groups: Groups) -> Tensor:
    """max over objects s of max(0, 1 - v_s), [B], from mean probabilities [B, h, w, 77].

    v_s is the peak of the smoothed second softmax at the object's first piece. Raises ValueError for a sample without
    objects, for lists that do not match the batch and for positions outside the key axis.
    """
    samples = per_sample(groups, len(probabilities))
    if not all(samples):
        raise ValueError("A sample has no object to excite; expected at least one group for each.")
    found = peaks(object_maps(probabilities, samples))
    return torch.stack([(1 - values).clamp(min=0).max() for values in found])
