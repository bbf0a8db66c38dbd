"""EBAMA as its authors' published code computes it, which differs from the paper in a dozen places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ebama.models import AttentionRecords

from ..energy import (
    GroupLike,
    Groups,
    Tokens,
    check_positions,
    inside_and_outside,
    per_sample,
    stacked,
    summed_peaks,
)
from ..guidance.gradient import Energy, GradientMethod
from ..guidance.method import Needs, Task
from ..guidance.options import check_amounts
from .token_softmax import object_maps


@dataclass(frozen=True)
class EbamaOfficial(GradientMethod):
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
        "miniature": {"step_size": 10.0, "intensity_weight": 0.5},
    }

    step_size: float | None = None
    intensity_weight: float | None = None
    guided_steps: int | None = 26

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amounts(intensity_weight=self.intensity_weight)

    def energy(self, task: Task) -> Energy:
        """`official_loss`."""
        assert self.intensity_weight is not None
        weight = self.intensity_weight

        def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
            prompts = [task.prompts[sample] for sample in samples]
            return official_loss(
                records.mean_probabilities(),
                [prompt.groups for prompt in prompts],
                [prompt.tokens for prompt in prompts],
                intensity_weight=weight,
            )

        return energy


def official_loss(probabilities: Tensor, groups: Groups, tokens: Tokens, *, intensity_weight: float = 0.5) -> Tensor:
    """Loss of the published code, [B], from mean probabilities [B, h, w, 77].

    With d(a, b) = 1 - cos of two columns, O the content positions outside a group with noun n and k modifiers:
    sum over groups of  sum over modifier pieces a of max over noun pieces b of d(a, b)
    - k * mean over o in O of max over b of d(b, o),  k = 1 without modifiers, 0 where O is empty;
    minus lambda times the sum of the peaks of the smoothed second softmax at each noun's first piece.

    Raises ValueError for lists that do not match the batch and for positions outside the key axis.
    """
    columns = F.normalize(rearrange(probabilities, "b h w k -> b k (h w)"), dim=-1)
    loss = stacked(_binding, columns, groups, tokens)
    nouns = object_maps(probabilities, per_sample(groups, len(probabilities)))
    return loss + intensity_weight * summed_peaks(nouns, probabilities)


def _binding(columns: Tensor, groups: Sequence[GroupLike], tokens: Sequence[int]) -> Tensor:
    """Binding terms of one sample with normalised columns [key, pixels]."""
    loss = columns.new_zeros(())
    for group in groups:
        pieces, outside = inside_and_outside(group, tokens)
        check_positions((*group.object, *pieces, *outside), len(columns))
        distances = (1 - columns @ columns[list(group.object)].T).amax(dim=1)  # to the farthest piece of the noun
        loss = loss + distances[pieces].sum()
        if outside:
            loss = loss - max(len(group.modifiers), 1) * distances[outside].mean()
    return loss
