"""CONFORM: Meral et al. 2024, contrastive guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..guidance import Energy, GradientMethod, Needs, Refinement, Task
from ..guidance.options import number, option, whole, whole_numbers
from ..maps import WordPositions
from ..models import AttentionRecords
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

    step_size: float = 20.0
    guided_steps: int | None = 30
    temperature: float = option(0.5, number(lambda x: x > 0, "a positive number"))
    refined_calls: tuple[int, ...] = option((0, 10, 20), whole_numbers("whole numbers of at least 0, as (0, 10, 20)"))
    max_refinements: int = option(20, whole())

    def energy(self, task: Task) -> Energy:
        """`contrastive_loss` of every token of the groups; it remembers the maps of the call before."""
        words = [[(group.object, *group.modifiers) for group in groups] for groups in task.groups]
        grouped = [[[token for word in group for token in word] for group in sample] for sample in words]
        tokens = WordPositions.of([[(token,) for group in sample for token in group] for sample in grouped])
        labels = torch.full(tokens.positions.shape[:2], PADDING, device="cpu")
        for row, sample in zip(labels, grouped, strict=True):
            numbers = [number for number, group in enumerate(sample) for _ in group]
            row[: len(numbers)] = torch.tensor(numbers, device="cpu")
        latest: dict[int, tuple[int, Tensor]] = {}  # sample -> (call, its maps when last seen in that call)
        before: dict[int, Tensor] = {}

        def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
            maps = gaussian_smooth(tokens[samples].means(records.mean_probabilities())).flatten(2)
            for sample, seen in zip(samples, maps.detach(), strict=True):
                if sample in latest and latest[sample][0] < i:
                    before[sample] = latest[sample][1]
                latest[sample] = (i, seen)
            earlier = torch.stack([before.get(sample, latest[sample][1]) for sample in samples])
            remembered = torch.tensor([sample in before for sample in samples], device="cpu")
            label = labels[samples]
            label = torch.cat([label, label.masked_fill(~remembered[:, None], PADDING)], dim=1).to(maps.device)
            return contrastive_loss(torch.cat([maps, earlier], dim=1), label, self.temperature)

        return energy

    def refinements(self) -> dict[int, Refinement]:
        """Always all rounds, at the refined calls."""
        return {i: Refinement(-math.inf, self.max_refinements) for i in self.refined_calls}


PADDING = -1
"""The label of an embedding that does not count."""


def contrastive_loss(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """NT-Xent of embeddings [..., n, D] with class labels [..., n]; NaN where no two have the same label.

    With s the cosine similarities over the temperature, the mean over ordered pairs (a, p) of one class of
    -log(exp s_ap / (exp s_ap + sum of exp s_an over all n of other classes)).
    """
    unit = F.normalize(embeddings, dim=-1)
    similarities = unit @ unit.mT / temperature
    counts = (labels != PADDING)[..., None, :] & (labels != PADDING)[..., None]
    same = labels[..., None, :] == labels[..., None]
    nothing = torch.finfo(similarities.dtype).min  # to exp; of infinities alone logsumexp has no gradient
    others = similarities.masked_fill(same | ~counts, nothing).logsumexp(dim=-1)
    pairs = same & counts & ~torch.eye(labels.shape[-1], dtype=torch.bool, device=labels.device)
    terms = (torch.logaddexp(similarities, others[..., None]) - similarities).masked_fill(~pairs, 0)
    number = pairs.sum(dim=(-2, -1))
    return (terms.sum(dim=(-2, -1)) / number.clamp(min=1)).masked_fill(number == 0, math.nan)
