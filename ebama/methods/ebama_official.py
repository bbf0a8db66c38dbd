"""EBAMA as its authors' published code computes it, which differs from the paper in a dozen places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ebama.models import AttentionRecords

from ..energy import GroupLike, Groups, Tokens, check_positions, per_sample, summed_peaks
from ..prompt import Parsed
from ..token_softmax import object_maps
from .base import Cost, Guide, Method, Needs, Task
from .gradient import check_schedule, constant, gradient_guide, guided_cost


@dataclass(frozen=True)
class EbamaOfficial(Method):
    """The published code: cosines of maps *after* softmax, a sharpened second softmax for intensity, 26 guided calls.

    Its aligner's defects (capitals, repeated words, pieces counted as words of their own) are not reproduced.

    Attributes:
        step_size: alpha in z - alpha dL/dz; 20 in the code.
        intensity_weight: lambda; 0.5 in the code.
        guided_steps: model calls that are guided; 26 in the code (indices 0 to 25).
    """

    name: ClassVar[str] = "ebama-official"
    changes: ClassVar[str] = "moves the latent: as ebama, by probabilities"
    reference: ClassVar[str] = "the code published with EBAMA"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16", gradient=True)
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "sd-v1": {"step_size": 20.0, "intensity_weight": 0.5},
        "miniature": {"step_size": 2.5, "intensity_weight": 1.0},
    }

    step_size: float | None = None
    intensity_weight: float | None = None
    guided_steps: int | None = 26

    def __post_init__(self) -> None:
        check_schedule(self.step_size, self.guided_steps, intensity_weight=self.intensity_weight)

    def guide(self, task: Task) -> Guide:
        """Gradient steps on `official_loss`."""
        assert self.step_size is not None
        assert self.intensity_weight is not None
        weight = self.intensity_weight

        def energy(records: AttentionRecords, samples: Sequence[int], i: int) -> Tensor:
            prompts = [task.prompts[sample] for sample in samples]
            return official_loss(
                records.mean_probabilities(),
                [prompt.groups for prompt in prompts],
                [prompt.tokens for prompt in prompts],
                intensity_weight=weight,
            )

        return gradient_guide(task, energy, constant(self.step_size, self.guided_steps, task.calls))

    def cost(self, prompt: Parsed, calls: int) -> Cost:
        """One pass and one backward a guided call."""
        return guided_cost(calls, len(constant(0, self.guided_steps, calls)))


def official_loss(probabilities: Tensor, groups: Groups, tokens: Tokens, *, intensity_weight: float = 0.5) -> Tensor:
    """Loss of the published code, [B], from mean probabilities [B, h, w, 77].

    With d(a, b) = 1 - cos of two columns, O the content positions outside a group with noun n and k modifiers:
    sum over groups of  sum over modifier pieces a of max over noun pieces b of d(a, b)
    - k * mean over o in O of max over b of d(b, o),  k = 1 without modifiers, 0 where O is empty;
    minus lambda times the sum of the peaks of the smoothed second softmax at each noun's first piece.

    Raises ValueError for lists that do not match the batch and for positions outside the key axis.
    """
    count = len(probabilities)
    columns = F.normalize(rearrange(probabilities, "b h w k -> b k (h w)"), dim=-1)
    each = per_sample(groups, count)
    samples = zip(columns, each, per_sample(tokens, count), strict=True)
    loss = torch.stack([_binding(columns, groups, tokens) for columns, groups, tokens in samples])
    return loss + intensity_weight * summed_peaks(object_maps(probabilities, each), probabilities)


def _binding(columns: Tensor, groups: Sequence[GroupLike], tokens: Sequence[int]) -> Tensor:
    """Binding terms of one sample with normalised columns [key, pixels]."""
    loss = columns.new_zeros(())
    for group in groups:
        pieces = [piece for modifier in group.modifiers for piece in modifier]
        outside = [token for token in tokens if token not in pieces and token not in group.object]
        check_positions((*group.object, *pieces, *outside), len(columns))
        distances = (1 - columns @ columns[list(group.object)].T).amax(dim=1)  # to the farthest piece of the noun
        loss = loss + distances[pieces].sum()
        if outside:
            loss = loss - max(len(group.modifiers), 1) * distances[outside].mean()
    return loss
