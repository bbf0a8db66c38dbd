"""Which tokens of one prompt stand for which of another: by words in order, or by aligning the token ids."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ..prompt import Parsed, PromptError
from ..prompt.alignment import SEQUENCE


def word_positions(prompt: Parsed) -> list[tuple[str, list[int]]]:
    """The prompt's words (what spaces separate, in lower case), each with the positions of its tokens, which are none
    where it fell off the end."""
    found, start = [], 0
    for word in prompt.prompt.split(" "):
        end = start + len(word)
        tokens = [k for k, (a, b) in zip(prompt.tokens, prompt.spans, strict=True) if a < end and start < b]
        found.append((word.lower(), tokens))
        start = end + 1
    return found


def replacing(source: Parsed, target: Parsed, length: int = SEQUENCE) -> Tensor:
    """[length, length], row n of the source to column m of the target: word k stands for word k.

    Token by token where both words have as many; else each of the target's n tokens has the sum of the source's over n.
    Raises `PromptError` if the prompts have different numbers of words.
    """
    words = word_positions(source), word_positions(target)
    if len(words[0]) != len(words[1]):
        raise PromptError(
            f"{target.prompt!r} has {len(words[1])} words and cannot replace those of {source.prompt!r}, which has "
            f"{len(words[0])}: write as many, or refine instead of replacing."
        )
    matrix = _outside_the_words(source, target, length)
    for (_, old), (_, new) in zip(*words, strict=True):
        if len(old) == len(new):
            matrix[old, new] = 1
        else:
            for position in new:
                matrix[old, position] = 1 / len(new)
    return matrix


def refining(
    source: Parsed,
    target: Parsed,
    ids: Sequence[Hashable],
    target_ids: Sequence[Hashable],
    length: int = SEQUENCE,
) -> Tensor:
    """[length, length], row n of the source to column m of the target: equal tokens of a global alignment of their ids;
    the columns of the target's other tokens are 0. (Ids are those of the prompts' `tokens`.)"""
    matrix = _outside_the_words(source, target, length)
    for position, partner in zip(target.tokens, align_tokens(ids, target_ids), strict=True):
        if partner is not None:
            matrix[source.tokens[partner], position] = 1
    return matrix


def align_tokens(source: Sequence[Hashable], target: Sequence[Hashable]) -> list[int | None]:
    """For each token of the target the index of its partner in the source, or None.

    Needleman-Wunsch with match 1, mismatch -1 and gap 0. Of equally good ways, going back from the end, the one that
    leaves out a token of the target is taken before that which leaves out one of the source.
    """
    best = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, old in enumerate(source, start=1):
        for j, new in enumerate(target, start=1):
            best[i][j] = max(best[i][j - 1], best[i - 1][j], best[i - 1][j - 1] + (1 if old == new else -1))
    partners: list[int | None] = [None] * len(target)
    i, j = len(source), len(target)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:  # a match: a mismatch is never better than two gaps
            i, j = i - 1, j - 1
            partners[j] = i
    return partners


def _outside_the_words(source: Parsed, target: Parsed, length: int) -> Tensor:
    """Start for start, end for end, and padding for padding of the same position, or the first of the source's."""
    matrix = torch.zeros(length, length, dtype=torch.float32, device="cpu")
    start, end, target_end = source.tokens[0], source.tokens[-1] + 1, target.tokens[-1] + 1
    for position in range(start):
        matrix[position, position] = 1
    for position in range(target_end, length):
        partner = end if position == target_end else max(position, end + 1)
        matrix[min(partner, length - 1), position] = 1
    return matrix
