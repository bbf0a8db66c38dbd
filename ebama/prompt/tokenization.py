"""The tokens of a text by any tokenizer: where they stand in the encoder's sequence, which characters they cover."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from ..checks import one_line

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Characters (start, end) of a text."""

SpanTokenizer = Callable[[str], Sequence[Span | None]]
"""A tokenizer of one's own: of a text, for every position of the encoder's sequence, the characters that its token
covers. Start, end and padding have None or an empty span; what the encoder does not see has no position."""

if TYPE_CHECKING:
    Tokenizer: TypeAlias = PreTrainedTokenizerBase | tokenizers.Tokenizer | SpanTokenizer
else:  # no library is imported for the name of a type
    Tokenizer = SpanTokenizer
"""Whatever reads prompts for a text encoder: a tokenizer of transformers (fast or slow), one of the tokenizers library,
or any `SpanTokenizer`."""

_NO_LIMIT = 10**6  # transformers writes 1e30 where a tokenizer has no limit


class PromptError(ValueError):
    """A prompt, or the words said to be in it, that cannot be used; the message, one line whatever it quotes, says why
    and what to do instead."""

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, without start, end and padding.

    Token k stands at position `first` + k of the encoder's sequence and covers the characters `spans[k]`, white space
    at its edges left out; a span may be empty. `ids` tell which tokens are the same: numbers of the vocabulary, or the
    characters where a function gives nothing but spans. The encoder sees the first `capacity` tokens; None: all.
    """

    first: int
    spans: tuple[Span, ...]
    ids: tuple[int | str, ...]
    capacity: int | None


def tokenize(text: str, tokenizer: Tokenizer) -> Tokens:
    """Tokenize a text without cutting it; nothing in the tokenizer is changed, so threads may share it.

    Positions come from the tokenizer's special tokens, the capacity from its limit (`model_max_length`, or the
    truncation of a tokenizer of the tokenizers library). Raises `PromptError` for a tokenizer that pads or cuts on the
    left, or that says nothing about characters.
    """
    known: Any = tokenizer
    if hasattr(known, "model_max_length"):
        _check_sides(known.padding_side, getattr(known, "truncation_side", "right"))
        limit = known.model_max_length if known.model_max_length < _NO_LIMIT else None
        tokens = _of_backend(text, known.backend_tokenizer) if known.is_fast else _by_words(text, known)
    elif hasattr(known, "encode_batch"):
        padding, truncation = known.padding or {}, known.truncation or {}
        _check_sides(*(settings.get("direction", "right") for settings in (padding, truncation)))
        limit = truncation.get("max_length")
        tokens = _of_backend(text, known)
    elif callable(known):
        limit = None
        tokens = _of_function(text, cast(SpanTokenizer, tokenizer))
    else:
        raise PromptError(
            f"the tokenizer is a {type(known).__name__}: expected one of transformers or tokenizers, or a function "
            "that gives for each position of the sequence its characters (start, end), or None"
        )
    trimmed = tuple(_without_white_space(text, span) for span in tokens.spans)
    capacity = None if limit is None else max(limit - tokens.specials, 0)
    return Tokens(tokens.first, trimmed, tuple(tokens.ids), capacity)


class _Sequence(NamedTuple):
    """Position of the first token, how many special ones there are, and the others."""

    first: int
    specials: int
    spans: Sequence[Span]
    ids: Sequence[int | str]


def _check_sides(*sides: str) -> None:
    if "left" in sides:
        raise PromptError(
            "the tokenizer pads or cuts on the left, so that positions depend on the longest prompt: set its "
            "padding_side and truncation_side (or direction) to 'right'"
        )


def _of_backend(text: str, backend: tokenizers.Tokenizer) -> _Sequence:
    """By the tokenizers library, whose encoding holds what it cuts off as further parts."""
    encoding = backend.encode(text)
    repeated = (backend.truncation or {}).get("stride", 0) if encoding.overflowing else 0
    tokens: list[tuple[Span, int]] = []
    for part in (encoding, *encoding.overflowing):
        everything = zip(part.offsets, part.ids, part.special_tokens_mask, strict=True)
        content = [(span, token) for span, token, special in everything if not special]
        tokens += content[repeated if tokens else 0 :]
    mask = encoding.special_tokens_mask
    first = mask.index(0) if 0 in mask else 0
    specials = backend.num_special_tokens_to_add(False)
    return _Sequence(first, specials, [span for span, _ in tokens], [token for _, token in tokens])


def _by_words(text: str, tokenizer: Any) -> _Sequence:
    """By a tokenizer of transformers in Python, which knows no characters: a token covers the word that brings it."""

    def content(part: str) -> tuple[list[int], list[int]]:
        encoded = tokenizer(part, return_special_tokens_mask=True, verbose=False)
        mask = encoded["special_tokens_mask"]
        return [i for i, special in zip(encoded["input_ids"], mask, strict=True) if not special], mask

    whole, mask = content(text)
    spans: list[Span] = []
    for word in re.finditer(r"\S+", text):
        ids, _ = content(text[: word.end()])
        if ids != whole[: len(ids)]:
            raise PromptError(
                f"{type(tokenizer).__name__} says nothing about characters, and {word[0]!r} becomes other tokens where "
                "a text goes on after it: take its fast version, or give a function from a text to spans"
            )
        spans += [word.span()] * (len(ids) - len(spans))
    spans += [(len(text), len(text))] * (len(whole) - len(spans))  # white space in the end
    return _Sequence(mask.index(0) if 0 in mask else 0, sum(mask), spans, whole)


def _of_function(text: str, function: SpanTokenizer) -> _Sequence:
    """By a function; tokens run from the first span that is not empty to the last."""
    answer: Any = function(text)
    try:
        spans = [(0, 0) if span is None else (operator.index(span[0]), operator.index(span[1])) for span in answer]
    except (IndexError, TypeError):
        raise PromptError(
            f"the tokenizer gave {str(answer)[:80]} for {text!r}: expected for each position of the sequence its "
            "characters (start, end), or None"
        ) from None
    filled = [k for k, (start, end) in enumerate(spans) if start < end]
    tokens = spans[filled[0] : filled[-1] + 1] if filled else []
    covering = [spans[k] for k in filled]
    in_order = all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(covering))
    if not in_order or any(not 0 <= start <= end <= len(text) for start, end in spans):
        raise PromptError(
            f"the tokenizer gave the spans {spans} for {text!r}: expected characters (start, end) of it, in order"
        )
    ids = [text[slice(*span)].lower() for span in tokens]
    return _Sequence(filled[0] if filled else 0, len(spans) - len(tokens), tokens, ids)


def _without_white_space(text: str, span: Span) -> Span:
    inside = text[slice(*span)]
    start = span[0] + len(inside) - len(inside.lstrip())
    return start, start + len(inside.strip())
