"""CONFORM: Meral et al. 2024, contrastive guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ebama.models import AttentionRecords

from ..energy import GroupLike, check_positions
from ..guidance.gradient import Energy, GradientMethod, Refinement
from ..guidance.method import Needs, Task
from ..guidance.options import whole_numbers
from ..smoothing import gaussian_smooth


@dataclass(frozen=True)
class Conform(GradientMethod):
    """Maps of a group's words attract each other, and their own of the call before; those of other groups repel.

    The values are those of the authors' notebook; their function's own differ (25 guided calls). Its option to sharpen
    the maps, which multiplied kept maps by 100 again and again, is left out.

    Attributes:
        step_size: alpha at the first call; it falls as in `ane`. 20 in the code.
        guided_steps: model calls that are guided; 30.
        temperature: of the contrastive loss; 0.5.
        refined_calls: model calls at which `max_refinements` further steps are made, always; (0, 10, 20).
            Those beyond the guided ones are not refined.
        max_refinements: 20.
    """

    name: ClassVar[str] = "conform"
    changes: ClassVar[str] = "moves the latent: contrasts the groups' maps"
    reference: ClassVar[str] = "Meral et al. 2024 (CONFORM)"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16", gradient=True)
    decay_step_size: ClassVar[bool] = True
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"sd-v1": {"step_size": 20.0}, "miniature": {"step_size": 8.0}}

    step_size: float | None = None
    guided_steps: int | None = 30
    temperature: float = 0.5
    refined_calls: tuple[int, ...] = (0, 10, 20)
    max_refinements: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "refined_calls", whole_numbers("refined_calls", self.refined_calls, "(0, 10, 20)"))
        whole_numbers("max_refinements", (self.max_refinements,), "20")
        if not (isinstance(self.temperature, int | float) and 0 < self.temperature < math.inf):
            raise ValueError(f"temperature is {self.temperature!r}; expected a positive number.")

    def energy(self, task: Task) -> Energy:
        """`contrastive_loss` of each sample; it remembers the maps of the call before."""
        kept: dict[int, tuple[int, Tensor]] = {}  # sample -> (call, its maps when last seen in that call)
        before: dict[int, Tensor] = {}

        def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
            losses = []
            for sample, maps in zip(samples, records.mean_probabilities(), strict=True):
                groups = task.prompts[sample].groups
                rows, labels = _embeddings(maps, groups)
                if sample in kept and kept[sample][0] < i:
                    before[sample] = kept[sample][1]
                kept[sample] = (i, rows.detach())
                if sample in before:
                    rows, labels = torch.cat([rows, before[sample]]), labels.repeat(2)
                losses.append(contrastive_loss(rows, labels, self.temperature))
            return torch.stack(losses)

        return energy

    def refinements(self) -> dict[int, Refinement]:
        """Always all rounds, at the refined calls."""
        return {i: Refinement(-math.inf, self.max_refinements) for i in self.refined_calls}


def contrastive_loss(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """NT-Xent of embeddings [n, D] with class labels [n], scalar; NaN where no two have the same label.

    With s the cosine similarities over the temperature, the mean over ordered pairs (a, p) of one class of
    -log(exp s_ap / (exp s_ap + sum of exp s_an over all n of other classes)).
    """
    unit = F.normalize(embeddings, dim=-1)
    similarities = unit @ unit.T / temperature
    same = labels[:, None] == labels
    others = similarities.masked_fill(same, -math.inf).logsumexp(dim=1)
    pairs = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if not pairs.any():
        return similarities.new_full((), math.nan).detach()
    return (torch.logaddexp(similarities, others[:, None]) - similarities)[pairs].mean()


def _embeddings(maps: Tensor, groups: Sequence[GroupLike]) -> tuple[Tensor, Tensor]:
    """Smoothed columns [n, pixels] of every piece of the groups, from maps [h, w, key], and their groups' numbers."""
    words = [(group.object, *group.modifiers) for group in groups]
    pieces = [[piece for word in group for piece in word] for group in words]
    check_positions([piece for group in pieces for piece in group], maps.shape[-1])
    columns = torch.stack([maps[..., piece] for group in pieces for piece in group])
    labels = [label for label, group in enumerate(pieces) for _ in group]
    return rearrange(gaussian_smooth(columns), "n h w -> n (h w)"), torch.tensor(labels, device=maps.device)
