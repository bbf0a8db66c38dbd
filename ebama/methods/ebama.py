"""EBAMA as the paper writes it: Zhang, Yu and Wu 2024, Object-Conditioned Energy-Based Attention Map Alignment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..energy import EbamaEnergy
from ..guidance import Energy, GradientMethod, Needs, Refinement, Task
from ..guidance.options import number, option, switch, whole


@dataclass(frozen=True)
class Ebama(GradientMethod):
    """The paper's variant: cosines of maps before softmax, plus the intensity of the objects.

    Attributes:
        step_size: alpha in z - alpha dL/dz. The paper gives none; 20 is the published code's.
        intensity_weight: lambda, "hyper-picked" in the paper; 0 is its ablation. 0.5 is the published code's.
        guided_steps: how many model calls are guided, from the first on; None for every one, as in the paper.
        initial_steps: steps of the latent before the first model call, where the layout is decided; 1 in the paper.
        center: compare what sets the words' maps apart instead of the maps themselves; see `binding_loss`. The paper's
            equations have no such step.
        log_intensity: sum logarithms of the objects' peaks, which reach an object that is seen nowhere; see
            `intensity_loss`. The paper sums the peaks themselves.

    The miniature has other values (`presets`): the literal equations bring out and bind less there. docs/methods.md
    says why and has the figures.
    """

    name: ClassVar[str] = "ebama"
    changes: ClassVar[str] = "moves the latent: binds modifiers to objects by scores, brings objects out"
    reference: ClassVar[str] = "Zhang, Yu and Wu 2024 (EBAMA), Eqns 1-6"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16", gradient=True)

    step_size: float = 20.0
    intensity_weight: float = option(0.5, number())
    guided_steps: int | None = None
    initial_steps: int = option(1, whole(least=1))
    center: bool = option(False, switch)
    log_intensity: bool = option(False, switch)

    def energy(self, task: Task) -> Energy:
        """`ebama_loss`."""
        prompts = EbamaEnergy.of(task.groups, task.tokens, len(task.context))
        return lambda records, samples, i: prompts[samples].loss(
            records.mean_scores(),
            records.mean_probabilities(),
            intensity_weight=self.intensity_weight,
            center=self.center,
            log_intensity=self.log_intensity,
        )

    def refinements(self) -> dict[int, Refinement]:
        """The initial steps beyond the ordinary one."""
        return {0: Refinement(-math.inf, self.initial_steps - 1)}
