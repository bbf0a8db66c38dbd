"""EBAMA as its authors' published code computes it, which differs from the paper in a dozen places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..guidance import Energy, GradientMethod, Needs, Task
from ..guidance.options import number, option, switch
from ..hidden import checked_losses
from ..maps import (
    ContentRange,
    GroupLike,
    Groups,
    Tokens,
    Word,
    WordPairs,
    WordPositions,
    first_tokens,
    groups_and_tokens,
    outside,
)
from ..smoothing import gaussian_peak


@dataclass(frozen=True)
class EbamaOfficial(GradientMethod):
    """The published code: cosines of maps *after* softmax, a sharpened second softmax for intensity, 26 guided calls.

    Its aligner's defects (capitals, repeated words, tokens counted as words of their own) are not reproduced.

    Attributes:
        step_size: alpha in z - alpha dL/dz.
        intensity_weight: lambda.
        guided_steps: model calls that are guided.
        normalize_eot: whether the second softmax leaves out the end of the text and the padding (see `ContentRange`).
    """

    name: ClassVar[str] = "ebama-official"
    changes: ClassVar[str] = "moves the latent: as ebama, by probabilities"
    reference: ClassVar[str] = "the code published with EBAMA"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16", gradient=True)

    step_size: float = 20.0
    intensity_weight: float = option(0.5, number())
    guided_steps: int | None = 26
    normalize_eot: bool = option(False, switch)

    def energy(self, task: Task) -> Energy:
        """`official_loss`."""
        pairs = WordPairs.of([_weights(*sample) for sample in zip(task.groups, task.tokens, strict=True)])
        nouns, content = first_tokens(task.groups), ContentRange.of(task.tokens, self.normalize_eot)
        return lambda records, samples, i: _loss(
            records.mean_probabilities(), pairs[samples], nouns[samples], content[samples], self.intensity_weight
        )


def official_loss(probabilities: Tensor, groups: Groups, tokens: Tokens, *, intensity_weight: float = 0.5) -> Tensor:
    """Loss of the published code, [B], from mean probabilities [B, h, w, key].

    With d(a, b) = 1 - cos of two columns, O the content positions outside a group with noun n and k modifiers:
    sum over groups of  sum over modifier tokens a of max over noun tokens b of d(a, b)
    - k * mean over o in O of max over b of d(b, o),  k = 1 without modifiers, 0 where O is empty;
    minus lambda times the sum of the peaks of the smoothed second softmax (`ContentRange`) at each noun's first token.

    Raises ValueError for lists that do not match the batch and for positions outside the key axis.
    """
    groups_of, tokens_of = groups_and_tokens(groups, tokens, len(probabilities))
    pairs = WordPairs.of([_weights(*sample) for sample in zip(groups_of, tokens_of, strict=True)])
    losses = _loss(probabilities, pairs, first_tokens(groups_of), ContentRange.of(tokens_of), intensity_weight)
    return checked_losses(losses, probabilities)


def _loss(
    probabilities: Tensor, pairs: WordPairs, nouns: WordPositions, content: ContentRange, intensity_weight: float
) -> Tensor:
    columns = F.normalize(pairs.words.columns(probabilities).flatten(3).flatten(1, 2), dim=-1)
    binding = pairs.total(pairs.farthest(1 - columns @ columns.mT))
    peaks = gaussian_peak(nouns.means(content.softmax(probabilities)))
    return binding - intensity_weight * (peaks * nouns.exist(peaks)).sum(dim=1)


def _weights(groups: Sequence[GroupLike], tokens: Sequence[int]) -> dict[tuple[Word, Word], float]:
    """The weight of the distance of each pair of a noun and a token in the binding terms of one sample."""
    weights: dict[tuple[Word, Word], float] = defaultdict(float)
    for group in groups:
        unrelated = outside(group, tokens)
        for token in (token for modifier in group.modifiers for token in modifier):
            weights[group.object, (token,)] += 1
        for token in unrelated:
            weights[group.object, (token,)] -= max(len(group.modifiers), 1) / len(unrelated)
    return weights
