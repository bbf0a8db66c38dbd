"""SynGen: Rassin et al. 2023, linguistic binding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..guidance import Energy, GradientMethod, Needs, Task
from ..hidden import checked_losses
from ..maps import GroupLike, Groups, Tokens, Word, WordPairs, at_least_float32, groups_and_tokens, outside


@dataclass(frozen=True)
class SynGen(GradientMethod):
    """Draws the maps of a modifier and its noun together and both away from all other words.

    A prompt without modifiers is plain Stable Diffusion, and costs what that costs. The defaults are
    those of the authors' code.

    Attributes:
        step_size: alpha in z - alpha dL/dz.
        guided_steps: model calls that are guided.
    """

    name: ClassVar[str] = "syngen"
    changes: ClassVar[str] = "moves the latent: binds modifiers to nouns by probabilities"
    reference: ClassVar[str] = "Rassin et al. 2023 (SynGen)"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16", gradient=True)

    step_size: float = 20.0
    guided_steps: int | None = 25

    def energy(self, task: Task) -> Energy:
        """`syngen_loss`."""
        pairs = WordPairs.of([_weights(*sample) for sample in zip(task.groups, task.tokens, strict=True)])
        return lambda records, samples, i: _loss(records.mean_probabilities(), pairs[samples])

    def applies_to(self, groups: Sequence[GroupLike]) -> bool:
        """Whether one has a modifier."""
        return any(group.modifiers for group in groups)


def syngen_loss(probabilities: Tensor, groups: Groups, tokens: Tokens) -> Tensor:
    """Loss of each sample, [B], from mean probabilities [B, h, w, key].

    With D(a, b) the symmetric Kullback-Leibler divergence of two columns, each normalised over the pixels, P(x) the
    tokens of a word and O the content positions outside the group of noun n, the sum over its modifiers m of
    max over P(m) x P(n) of D - 1/2 mean over o in O of (max over b in P(n) of D(b, o) + max over a in P(m) of D(a, o));
    the mean over an empty O is 0. Probabilities are clamped to [eps, 1 - eps] inside the logarithm only; unlike the
    published code an exact 0 gives a large divergence, not an infinite one.

    Raises ValueError for lists that do not match the batch and for positions outside the key axis, or hidden ones.
    """
    samples = zip(*groups_and_tokens(groups, tokens, len(probabilities)), strict=True)
    losses = _loss(probabilities, WordPairs.of([_weights(*sample) for sample in samples]))
    return checked_losses(losses, probabilities)


def _loss(probabilities: Tensor, pairs: WordPairs) -> Tensor:
    columns = pairs.words.columns(at_least_float32(probabilities)).flatten(3).flatten(1, 2)
    return pairs.total(pairs.farthest(symmetric_divergences(columns)))


def _weights(groups: Sequence[GroupLike], tokens: Sequence[int]) -> dict[tuple[Word, Word], float]:
    """The weight of the divergence of each pair of words in the loss of one sample."""
    weights: dict[tuple[Word, Word], float] = defaultdict(float)
    for group in groups:
        unrelated = outside(group, tokens)
        for modifier in group.modifiers:
            weights[modifier, group.object] += 1
            for word in (group.object, modifier):
                for token in unrelated:
                    weights[word, (token,)] -= 1 / (2 * len(unrelated))
    return weights


def symmetric_divergences(columns: Tensor) -> Tensor:
    """1/2 (KL(p || q) + KL(q || p)) of all pairs of columns [B, n, pixels], normalised over pixels: [B, n, n]."""
    eps = torch.finfo(columns.dtype).eps
    p = columns / columns.sum(dim=-1, keepdim=True)
    log_p = p.clamp(eps, 1 - eps).log()
    negative_entropy = (p * log_p).sum(dim=-1, keepdim=True)
    crossed = p @ log_p.mT
    return (negative_entropy + negative_entropy.mT - crossed - crossed.mT) / 2
