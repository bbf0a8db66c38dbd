"""Shared by several energies: where words lie on the key axis of attention maps, and the maps of words.

A word has one token or several. Maps are [B, h, w, key], one value for each pixel and token, as the means of
`AttentionRecords` are; nothing here knows where they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Word = tuple[int, ...]
"""Positions of a word's tokens along the key axis."""


class GroupLike(Protocol):
    """An object and its modifiers."""

    @property
    def object(self) -> Word:
        """Positions of the object's tokens."""

    @property
    def modifiers(self) -> tuple[Word, ...]:
        """Positions of each modifier's tokens."""


Groups = Sequence[GroupLike] | Sequence[Sequence[GroupLike]]
"""Groups of one prompt, used for every sample, or a list of them for each sample."""

Tokens = Sequence[int] | Sequence[Sequence[int]]
"""Content positions (no start, end or padding) of one prompt, used for every sample, or a list for each sample."""


@dataclass(frozen=True)
class PlainGroup:
    """A group whose positions are tuples of Python's numbers, which are equal where they say the same."""

    object: Word
    modifiers: tuple[Word, ...]
    box: Any = None


def per_sample(values: Sequence[Any], count: int) -> Sequence[Any]:
    """One list per sample: a list of lists as it is, a single list repeated `count` times. Tensors become lists, and
    positions of any library Python's numbers, also those in groups."""
    values = _listed(values)
    values = [_listed(value) for value in (values if isinstance(values, Sequence) else [values])]
    if any(hasattr(value, "groups") for value in values):
        raise ValueError("Got prompts as `parse` reads them; expected the `groups` or the `tokens` of each in a list.")
    nested = [isinstance(value, Sequence) and not hasattr(value, "object") for value in values]  # groups may be tuples
    lists = [list(map(_leaf, value if inner else [value])) for value, inner in zip(values, nested, strict=True)]
    if any(nested) and (not all(nested) or len(values) != count):
        raise ValueError(
            f"Got lists for {sum(nested)} samples; expected one for each of {count}, or a single list for all."
        )
    return lists if any(nested) else [[leaf for leaves in lists for leaf in leaves]] * count


def groups_and_tokens(groups: Groups, tokens: Tokens, count: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """Both as `per_sample` has them; ValueError for positions where groups belong, and for one that occurs twice."""
    samples = per_sample(groups, count)
    for group in (group for sample in samples for group in sample):
        if not hasattr(group, "object"):
            raise ValueError(f"Got {group!r} among groups; expected groups, as Group((3,), ((2,),)) of positions.")
    positions = per_sample(tokens, count)
    if any(len(set(sample)) < len(sample) for sample in positions):
        raise ValueError(
            "tokens hold a position twice, as masks of 0 and 1 do; expected each once (those of a mask: "
            "mask.nonzero().flatten())."
        )
    return samples, positions


def _leaf(value: Any) -> Any:
    """A position as Python's number, or a group with such positions; ValueError for anything else."""
    if hasattr(value, "object"):
        return _plain_group(value)
    number = value.item() if getattr(value, "shape", None) == () else value
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise ValueError(
            f"Got {value!r} among groups or tokens; expected groups, as Group((3,), ((2,),)), and positions "
            "(those of a mask: mask.nonzero().flatten())."
        )
    return number.__index__()


def _plain_group(group: Any) -> GroupLike:
    """The group itself if its positions are tuples of Python's numbers, else one that has them."""
    modifiers = _listed(group.modifiers)
    words = [_listed(word) for word in (group.object, *(modifiers if isinstance(modifiers, Sequence) else [None]))]
    if not all(isinstance(word, Sequence) for word in words):
        raise ValueError(
            f"Got a group of object {group.object!r} and modifiers {group.modifiers!r}; expected positions of words, "
            "as Group((3,), ((2,),)) has them."
        )
    is_plain = all(type(word) is tuple and all(type(at) is int for at in word) for word in words)
    if is_plain and type(group.modifiers) is tuple:
        return group  # type: ignore[no-any-return]
    first, *others = (tuple(map(_leaf, word)) for word in words)
    return PlainGroup(first, tuple(others), getattr(group, "box", None))


def _listed(values: Any) -> Any:
    """Tensors, arrays, sets and iterators as lists; groups, texts and whatever else there is as it is."""
    if hasattr(values, "tolist"):
        return values.tolist()
    is_one = isinstance(values, Sequence | Mapping | bytes) or hasattr(values, "object")
    return list(values) if isinstance(values, Iterable) and not is_one else values


def outside(group: GroupLike, tokens: Sequence[int]) -> list[int]:
    """The content positions that belong to no word of the group."""
    inside = {*group.object, *(token for modifier in group.modifiers for token in modifier)}
    return [token for token in tokens if token not in inside]


def at_least_float32(maps: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, everything else as it is."""
    return maps.float() if maps.itemsize < 4 else maps


@dataclass(frozen=True, eq=False)
class WordPositions:
    """The words of every sample, padded to one shape [B, word, token] so that all maps are taken at once.

    Attributes:
        positions: a word with fewer tokens repeats its first one, which leaves a maximum over tokens as it is; a sample
            with fewer words repeats its first word.
        shares: 1/n for each of the n tokens of a word, 0 where padded; float64.
    """

    positions: Tensor
    shares: Tensor

    @classmethod
    def of(cls, samples: Sequence[Sequence[Sequence[int]]]) -> WordPositions:
        """From a list of words for each sample, each a list of positions."""
        words = max(map(len, samples), default=0)
        tokens = max((len(word) for sample in samples for word in sample), default=1) or 1
        positions, shares = [], []
        for sample in samples:
            padded = [*sample, *[sample[0] if sample else ()] * (words - len(sample))]
            positions.append([[*word, *[*word, 0][:1] * (tokens - len(word))] for word in padded])
            shares.append(
                [
                    [(w < len(sample) and t < len(word)) / (len(word) or 1) for t in range(tokens)]
                    for w, word in enumerate(padded)
                ]
            )
        shape = (len(samples), words, tokens)
        with torch.inference_mode(False):  # built once, and used where gradients are wanted
            return cls(
                torch.tensor(positions, dtype=torch.long, device="cpu").view(shape),
                torch.tensor(shares, dtype=torch.float64, device="cpu").view(shape),
            )

    def __getitem__(self, samples: list[int]) -> WordPositions:
        return WordPositions(self.positions[samples], self.shares[samples])

    def exist(self, like: Tensor) -> Tensor:
        """1 for words, 0 for padding: [B, word]."""
        return self.shares.sum(dim=-1).gt(0).to(like)

    def check(self, keys: int) -> None:
        """Raise ValueError for positions outside a key axis of so many keys."""
        beyond = (self.positions < 0) | (self.positions >= keys)
        if beyond.any():
            wrong = tuple(self.positions[beyond].unique().tolist())
            raise ValueError(f"Positions {wrong} do not all lie on the key axis of length {keys}.")

    def columns(self, maps: Tensor) -> Tensor:
        """The map of every token, [B, word, token, h, w], from maps [B, h, w, key].

        Raises ValueError for positions outside the key axis.
        """
        self.check(maps.shape[-1])
        samples, words, tokens = self.positions.shape
        index = self.positions.to(maps.device).view(samples, 1, 1, words * tokens).expand(-1, *maps.shape[1:3], -1)
        columns: Tensor = maps.gather(-1, index).movedim(-1, 1).unflatten(1, (words, tokens))
        return columns

    def means(self, maps: Tensor) -> Tensor:
        """The map of every word, the mean over its tokens, [B, word, h, w]; zeros where padded. Raises as `columns`."""
        shares = self.shares.to(maps)[..., None, None]
        weighted = torch.where(shares > 0, self.columns(maps) * shares, 0)  # padding may be hidden: -inf
        return weighted.sum(dim=2)


def first_tokens(groups: Sequence[Sequence[GroupLike]]) -> WordPositions:
    """The first token of each object."""
    return WordPositions.of([[group.object[:1] for group in sample] for sample in groups])


@dataclass(frozen=True, eq=False)
class ContentRange:
    """The keys over which the second softmax goes, of every sample: from its first content position on to all but the
    last key, or to the last content position if that is the last key. With CLIP's 77 positions these are 1 to 75, as
    Attend-and-Excite has it: end and padding positions in between stay in, unless it is `content_only`.

    Attributes:
        first: the first content position of each sample, [B]; last: the last one.
        content_only: it ends at the last content position, as in Attend-and-Excite's code for Stable Diffusion 2.1
            (`normalize_eot`), where the end of the text draws most of the attention.
    """

    first: Tensor
    last: Tensor
    content_only: bool = False

    @classmethod
    def of(cls, samples: Sequence[Sequence[int]], content_only: bool = False) -> ContentRange:
        """From the content positions of each sample; without any, as for CLIP."""
        with torch.inference_mode(False):
            first, last = (
                torch.tensor([end(tokens, default=1) for tokens in samples], device="cpu") for end in (min, max)
            )
            return cls(first, last, content_only)

    def __getitem__(self, samples: list[int]) -> ContentRange:
        return ContentRange(self.first[samples], self.last[samples], self.content_only)

    def softmax(self, probabilities: Tensor) -> Tensor:
        """Attend-and-Excite's second softmax: that of 100 times mean probabilities [B, h, w, key] over these keys; 0 at
        the others."""
        count = probabilities.shape[-1]
        keys, last = torch.arange(count, device="cpu"), self.last.clamp(min=0 if self.content_only else count - 2)
        outside = (keys < self.first[:, None]) | (keys > last[:, None])
        sharpened = (100 * probabilities).masked_fill(outside.to(probabilities.device)[:, None, None], -torch.inf)
        return sharpened.softmax(dim=-1)


@dataclass(frozen=True, eq=False)
class WordPairs:
    """Weights of pairs of words: a binding loss is the sum over pairs of the weight times a measure of their maps.

    Attributes:
        words: those that occur in a pair.
        weights: [B, word, word], 0 for pairs that do not count.
    """

    words: WordPositions
    weights: Tensor

    @classmethod
    def of(cls, samples: Sequence[Mapping[tuple[Word, Word], float]]) -> WordPairs:
        """From the pairs of each sample."""
        units = [list(dict.fromkeys(word for pair in pairs for word in pair)) for pairs in samples]
        words = WordPositions.of(units)
        with torch.inference_mode(False):
            weights = torch.zeros(
                *words.positions.shape[:2], words.positions.shape[1], dtype=torch.float64, device="cpu"
            )
            for sample, (pairs, unit) in enumerate(zip(samples, units, strict=True)):
                for (first, second), weight in pairs.items():
                    weights[sample, unit.index(first), unit.index(second)] = weight
        return cls(words, weights)

    def __getitem__(self, samples: list[int]) -> WordPairs:
        return WordPairs(self.words[samples], self.weights[samples])

    def total(self, measure: Tensor) -> Tensor:
        """The weighted sum of a measure of pairs of words [B, word, word]: [B]."""
        return (self.weights.to(measure) * measure).sum(dim=(1, 2))

    def farthest(self, distances: Tensor) -> Tensor:
        """Of distances between all tokens of the words [B, word * token, word * token] those of the words: the greatest
        between any two of their tokens, [B, word, word]."""
        word_and_token = self.words.positions.shape[1:]
        between: Tensor = distances.unflatten(2, word_and_token).unflatten(1, word_and_token)
        return between.amax(dim=(2, 4))
