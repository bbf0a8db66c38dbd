"""The energy of EBAMA over attention maps, as the paper writes it (its Eqns 1-6), one value per sample.

Notation: A_s is the map of token s *before* softmax (a column of QK^T / sqrt(d), flattened over pixels), Ã_s the map
after softmax, S the set of objects, M(s) the modifiers of object s, N the number of content tokens. The maps define an
energy-based model p(l | s) proportional to exp f(A_l, A_s), f the cosine similarity; ascending its likelihood, with the
expectation over unrelated tokens taken uniformly, gives the binding loss. Nothing here knows where the maps come from.

Where the paper is silent: the map of a word of several pieces is the mean of its pieces' maps, and the unrelated tokens
are the single pieces outside the group (so N counts pieces).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from .smoothing import gaussian_peak


class GroupLike(Protocol):
    """An object and its modifiers, each as positions along the key axis (a word of several pieces has several)."""

    @property
    def object(self) -> tuple[int, ...]:
        """Positions of the object's pieces."""

    @property
    def modifiers(self) -> tuple[tuple[int, ...], ...]:
        """Positions of each modifier's pieces."""


Groups = Sequence[GroupLike] | Sequence[Sequence[GroupLike]]
"""Groups of one prompt, used for every sample, or a list of them for each sample."""

Tokens = Sequence[int] | Sequence[Sequence[int]]
"""Content positions (no start, end or padding) of one prompt, used for every sample, or a list for each sample."""


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
        ValueError: maps that are not 4-D, lists that do not match the batch, positions outside the key axis.
    """
    columns = rearrange(_checked(scores, "scores"), "b h w k -> b k (h w)")
    return stacked(partial(_binding, center=center), columns, groups, tokens)


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
    maps = rearrange(_checked(probabilities, "probabilities"), "b h w k -> b k h w")
    samples = [
        [word_map(m, group.object) for group in g] for m, g in zip(maps, per_sample(groups, len(maps)), strict=True)
    ]
    return summed_peaks(samples, maps, log=log)


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
    loss = binding_loss(scores, groups, tokens, center=center)
    if not intensity_weight:
        return loss
    return loss + intensity_weight * intensity_loss(probabilities, groups, log=log_intensity)


def word_map(columns: Tensor, positions: Sequence[int]) -> Tensor:
    """Map of a word: the mean over its pieces of columns [key, ...], [...]."""
    check_positions(positions, len(columns))
    return columns[list(positions)].mean(dim=0)


def check_positions(positions: Sequence[int], keys: int) -> None:
    """Raise ValueError unless all positions lie on a key axis of that length."""
    if not all(0 <= position < keys for position in positions):
        raise ValueError(f"Positions {tuple(positions)} do not all lie on the key axis of length {keys}.")


def peaks(samples: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
    """For each sample the peaks of its smoothed maps [h, w]; all maps of all samples go through one kernel launch."""
    maps = [map_ for sample in samples for map_ in sample]
    found: Sequence[Tensor] = gaussian_peak(torch.stack(maps)).split([len(sample) for sample in samples])
    return found


def summed_peaks(samples: Sequence[Sequence[Tensor]], like: Tensor, *, log: bool = False) -> Tensor:
    """Minus the sum of the smoothed maps' peaks, or of their logarithms, [B]; zeros where there is no map at all."""
    if not any(samples):
        return like.new_zeros(len(samples))
    found = peaks(samples)
    if log:
        found = [part.clamp_min(torch.finfo(part.dtype).tiny).log() for part in found]
    return -torch.stack([part.sum() for part in found])


def per_sample(values: Sequence, count: int) -> Sequence:  # type: ignore[type-arg]
    """One list per sample: a list of lists as it is, a single list repeated `count` times. Tensors become lists."""
    values = [value.tolist() if isinstance(value, Tensor) else value for value in values]
    nested = [isinstance(value, Sequence) and not hasattr(value, "object") for value in values]  # groups may be tuples
    if any(nested) and (not all(nested) or len(values) != count):
        raise ValueError(
            f"Got lists for {sum(nested)} samples; expected one for each of {count}, or a single list for all."
        )
    return values if any(nested) else [values] * count


def stacked(
    loss: Callable[[Tensor, Sequence[GroupLike], Sequence[int]], Tensor],
    columns: Tensor,
    groups: Groups,
    tokens: Tokens,
) -> Tensor:
    """loss(columns, groups, tokens) of each sample, [B], from columns [B, key, pixels]."""
    count = len(columns)
    samples = zip(columns, per_sample(groups, count), per_sample(tokens, count), strict=True)
    losses = [loss(*sample) for sample in samples]
    return torch.stack(losses) if losses else columns.new_zeros(0)


def inside_and_outside(group: GroupLike, tokens: Sequence[int]) -> tuple[list[int], list[int]]:
    """The positions of all pieces of a group's modifiers, and the content positions outside the group."""
    pieces = [piece for modifier in group.modifiers for piece in modifier]
    return pieces, [token for token in tokens if token not in pieces and token not in group.object]


def _binding(columns: Tensor, groups: Sequence[GroupLike], tokens: Sequence[int], *, center: bool) -> Tensor:
    """`binding_loss` of one sample with maps [key, pixels]."""
    if center and tokens:
        columns = columns - word_map(columns, tokens)
        columns = columns - columns.mean(dim=-1, keepdim=True)
    loss = columns.new_zeros(())
    for group in groups:
        anchor = word_map(columns, group.object)
        unrelated = [word_map(columns, (token,)) for token in inside_and_outside(group, tokens)[1]]
        related = [word_map(columns, modifier) for modifier in group.modifiers]
        for sign, maps in ((-1, related), (1, unrelated)):
            if maps:
                loss = loss + sign * F.cosine_similarity(anchor, torch.stack(maps), dim=-1).mean()
    return loss


def _checked(maps: Tensor, name: str) -> Tensor:
    if maps.ndim != 4:
        raise ValueError(f"{name} have shape {list(maps.shape)}; expected [batch, h, w, key], as records' means have.")
    return maps.float() if maps.itemsize < 4 else maps
