"""EBAMA as the paper writes it: Zhang, Yu and Wu 2024, Object-Conditioned Energy-Based Attention Map Alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ebama.models import AttentionRecords

from ..energy import ebama_loss
from .base import Guide, Method, Task
from .gradient import gradient_guide


@dataclass(frozen=True)
class Ebama(Method):
    """The paper's variant: cosines of maps before softmax, plus the intensity of the objects.

    Attributes:
        step_size: alpha in z - alpha dL/dz. The paper gives none; for SD v1 we take the published code's 20.
        intensity_weight: lambda, "hyper-picked" in the paper; 0 is its ablation. For SD v1 the published code's 0.5.
        guided_steps: how many model calls are guided; None for every one, as in the paper.
        center: subtract from each pixel's scores their mean over the keys before the cosine; see `binding_loss`. The
            paper's equations have no such step.

    The miniature's values did best among six settings on 36 pictures each of prompts outside the benchmark
    (`ebama.evaluation.counting --tuning 6`); larger steps and any intensity weight cost it objects.
    """

    name: ClassVar[str] = "ebama"
    needs_groups: ClassVar[bool] = True
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "sd-v1": {"step_size": 20.0, "intensity_weight": 0.5, "center": False},
        "miniature": {"step_size": 3.0, "intensity_weight": 0.0, "center": True},
    }

    step_size: float | None = None
    intensity_weight: float | None = None
    guided_steps: int | None = None
    center: bool | None = None

    def __post_init__(self) -> None:
        check_schedule(self.step_size, self.intensity_weight, self.guided_steps)
        if self.center not in (None, True, False):
            raise ValueError(f"center is {self.center!r}; expected true or false.")

    def guide(self, task: Task) -> Guide | None:
        """Gradient steps on `ebama_loss`."""
        assert self.step_size is not None
        groups = [prompt.groups for prompt in task.prompts]
        tokens = [prompt.tokens for prompt in task.prompts]

        def energy(records: AttentionRecords) -> Tensor:
            assert self.intensity_weight is not None
            return ebama_loss(
                records.mean_scores(),
                records.mean_probabilities(),
                groups,
                tokens,
                intensity_weight=self.intensity_weight,
                center=bool(self.center),
            )

        return gradient_guide(task, energy, self.step_size, self.guided_steps)


def check_schedule(step_size: float | None, intensity_weight: float | None, guided_steps: int | None) -> None:
    """Raise ValueError for values that no run could use; None means undecided."""
    for name, value in (("step_size", step_size), ("intensity_weight", intensity_weight)):
        if value is not None and not (isinstance(value, int | float) and 0 <= value < float("inf")):
            raise ValueError(f"{name} is {value!r}; expected a finite number of at least 0.")
    if guided_steps is not None and (not isinstance(guided_steps, int) or guided_steps < 0):
        raise ValueError(
            f"guided_steps is {guided_steps!r}; expected a whole number of at least 0, or None for every call."
        )
