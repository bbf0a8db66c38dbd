"""The energy of EBAMA over attention maps, as the paper writes it (its Eqns 1-6), one value per sample.

Notation: A_s is the map of token s *before* softmax (a column of QK^T / sqrt(d), flattened over pixels), Ã_s the map
after softmax, S the set of objects, M(s) the modifiers of object s, N the number of content tokens. The maps define an
energy-based model p(l | s) proportional to exp f(A_l, A_s), f the cosine similarity; ascending its likelihood, with the
expectation over unrelated tokens taken uniformly, gives the binding loss.

Where the paper is silent: the map of a word of several tokens is the mean of its tokens' maps, and the unrelated tokens
are the single tokens outside the group (so N counts tokens).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .hidden import checked_losses
from .maps import (
    GroupLike,
    Groups,
    Tokens,
    Word,
    WordPairs,
    WordPositions,
    at_least_float32,
    groups_and_tokens,
    outside,
)
from .smoothing import gaussian_peak


def binding_loss(scores: Tensor, groups: Groups, tokens: Tokens, *, center: bool = False) -> Tensor:
    """Object-conditioned attribute binding, [B]: modifiers are pulled to their object, all else is pushed away from it.

    The sum over objects s of
    L_b(s) = - 1/|M(s)| sum_{l in M(s)} f(A_s, A_l) + 1/(N - |M(s)| - 1) sum_{l not in M(s), l != s} f(A_s, A_l);
    a sum over nothing counts 0.

    Args:
        scores: maps before softmax, [B, h, w, key].
        groups: objects and modifiers, see `Groups`.
        tokens: content positions, see `Tokens`.
        center: first subtract from the scores of each pixel their mean over the content positions, and then from each
            map its mean over the pixels. What all words share makes the cosines of all pairs alike; what is left is
            how a word's map differs from the other words', and its cosine is a correlation. Not in the paper.

    Raises:
        ValueError: maps that are not 4-D, lists that do not match the batch, positions outside the key axis, and those
            of words that a mask or a control hides (scores of -inf).
    """
    return checked_losses(EbamaEnergy.of(groups, tokens, len(scores)).binding(scores, center=center), scores)


def intensity_loss(probabilities: Tensor, groups: Groups, *, log: bool = False) -> Tensor:
    """Object-centric intensity, [B]: every object should be seen somewhere.

    The sum over objects s of L_n(s) = - max over pixels of (K * Ã_s), with K a 3x3 Gaussian (sigma 0.7071, reflect
    padding: the paper gives neither, these are the published code's).

    Args:
        probabilities: maps after softmax over the keys, [B, h, w, key].
        groups: objects, see `Groups`.
        log: sum -log max instead of -max. Softmax passes on gradients in proportion to p (1 - p), next to nothing to a
            word that is seen nowhere, which needs them most; to log p it passes 1 - p. Not in the paper.

    Raises:
        ValueError: as for `binding_loss`.
    """
    losses = EbamaEnergy.of(groups, (), len(probabilities)).intensity(probabilities, log=log)
    return checked_losses(losses, probabilities)


def ebama_loss(
    scores: Tensor,
    probabilities: Tensor,
    groups: Groups,
    tokens: Tokens,
    *,
    intensity_weight: float = 0.5,
    center: bool = False,
    log_intensity: bool = False,
) -> Tensor:
    """L = sum over objects of L_b(s) + lambda L_n(s), [B]; `intensity_weight` is lambda, the rest as in its parts."""
    scores, probabilities = _checked(scores, "scores"), _checked(probabilities, "probabilities")
    if len(scores) != len(probabilities):
        raise ValueError(f"There are {len(scores)} samples of scores and {len(probabilities)} of probabilities.")
    energy = EbamaEnergy.of(groups, tokens, len(scores))
    losses = energy.loss(
        scores, probabilities, intensity_weight=intensity_weight, center=center, log_intensity=log_intensity
    )
    return checked_losses(losses, scores, probabilities)


@dataclass(frozen=True, eq=False)
class EbamaEnergy:
    """The energy of fixed prompts: what its terms need of groups and tokens, built once for all steps of a run.

    Attributes:
        pairs: W of Eqn 4, a weight for each pair of words.
        objects: whose peaks count.
        content: all content tokens of a sample as one word, whose mean map `center` subtracts.
    """

    pairs: WordPairs
    objects: WordPositions
    content: WordPositions

    @classmethod
    def of(cls, groups: Groups, tokens: Tokens, count: int) -> EbamaEnergy:
        """The energy of `count` samples."""
        groups_of, tokens_of = groups_and_tokens(groups, tokens, count)
        return cls(
            WordPairs.of([binding_weights(*sample) for sample in zip(groups_of, tokens_of, strict=True)]),
            WordPositions.of([[group.object for group in sample] for sample in groups_of]),
            WordPositions.of([[sample] for sample in tokens_of]),
        )

    def __getitem__(self, samples: list[int]) -> EbamaEnergy:
        return EbamaEnergy(self.pairs[samples], self.objects[samples], self.content[samples])

    def binding(self, scores: Tensor, *, center: bool = False) -> Tensor:
        """See `binding_loss`."""
        scores = _checked(scores, "scores")
        words = self.pairs.words.means(scores).flatten(2)
        if center:
            words = words - self.content.means(scores).flatten(2)
            words = words - words.mean(dim=-1, keepdim=True)
        words = F.normalize(words, dim=-1, eps=1e-8)
        with torch.autocast(scores.device.type, enabled=False):
            return self.pairs.total(words @ words.mT)

    def intensity(self, probabilities: Tensor, *, log: bool = False) -> Tensor:
        """See `intensity_loss`."""
        peaks = gaussian_peak(self.objects.means(_checked(probabilities, "probabilities")))
        if log:
            peaks = peaks.clamp_min(torch.finfo(peaks.dtype).tiny).log()
        return -(peaks * self.objects.exist(peaks)).sum(dim=1)

    def loss(
        self, scores: Tensor, probabilities: Tensor, *, intensity_weight: float, center: bool, log_intensity: bool
    ) -> Tensor:
        """See `ebama_loss`."""
        loss = self.binding(scores, center=center)
        return loss + intensity_weight * self.intensity(probabilities, log=log_intensity) if intensity_weight else loss


def binding_weights(groups: Sequence[GroupLike], tokens: Sequence[int]) -> dict[tuple[Word, Word], float]:
    """The weight of f(A_s, A_l) in the sum of L_b over the objects of one sample, for each pair (s, l)."""
    weights: dict[tuple[Word, Word], float] = defaultdict(float)
    for group in groups:
        unrelated = outside(group, tokens)
        for modifier in group.modifiers:
            weights[group.object, modifier] -= 1 / len(group.modifiers)
        for token in unrelated:
            weights[group.object, (token,)] += 1 / len(unrelated)
    return weights


def _checked(maps: Tensor, name: str) -> Tensor:
    if not isinstance(maps, Tensor) or maps.ndim != 4 or not maps.is_floating_point():
        got = f"type {type(maps).__name__}"
        if isinstance(maps, Tensor):
            got = f"shape {list(maps.shape)}" if maps.ndim != 4 else f"dtype {maps.dtype}"
        raise ValueError(f"{name} have {got}; expected [batch, h, w, key] in floating point, as records' means have.")
    return at_least_float32(maps)
