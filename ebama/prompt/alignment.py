"""Which tokens of CLIP stand for a stretch of a prompt: by character offsets, never by comparing spellings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

SEQUENCE = 77  # positions of CLIP's text encoder: start, 75 tokens, end
_SHOWN = 12
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_WORD = re.compile(r"\w+(?:['’-]\w+)*")

Span = tuple[int, int]
"""Characters (start, end) of a prompt."""


class PromptError(ValueError):
    """A prompt, or the words said to be in it, that cannot be used; the message says why and what to do instead."""


@dataclass(frozen=True)
class Alignment:
    """A prompt and the characters that each of its tokens covers.

    `prompt` is in composed characters (NFC) and single spaces, as CLIP reads it; `spans` holds (start, end) for each
    token, token k of the prompt being position k + 1 of the sequence; `capacity` is how many tokens the encoder sees.
    """

    prompt: str
    spans: tuple[Span, ...]
    capacity: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """Positions of the tokens that the encoder sees: 1 to T."""
        return tuple(range(1, min(len(self.spans), self.capacity) + 1))

    def visible_positions(self, stretch: Span) -> tuple[int, ...]:
        """Positions of the tokens for a stretch of the prompt; a `PromptError` if any is beyond the capacity."""
        tokens = positions(self.spans, stretch)
        if tokens[-1] > self.capacity:
            raise PromptError(
                f"{self.prompt[slice(*stretch)]!r} lies beyond the {self.capacity} tokens that CLIP sees of a prompt "
                f"of {len(self.spans)}: shorten the prompt, or give groups= of words that come earlier"
            )
        return tokens

    def lost(self) -> str:
        """The words, wholly or partly, that the encoder does not see, as one line; empty if there are none."""
        if len(self.spans) <= self.capacity:
            return ""
        first = self.spans[self.capacity][0]
        words = self.prompt[self.prompt.rfind(" ", 0, first) + 1 :].split()
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        return " ".join(words[:_SHOWN]) + more


def positions(spans: Sequence[Span], stretch: Span) -> tuple[int, ...]:
    """Positions of the tokens, given by the characters that each covers, that stand for a stretch of the prompt."""
    start, end = stretch
    return tuple(k for k, (a, b) in enumerate(spans, 1) if a < end and start < b)


def word_spans(prompt: str) -> list[Span]:
    """The words of a prompt, without punctuation; "t-shirt" and "cat's" are one word each."""
    return [match.span() for match in _WORD.finditer(prompt)]


def find_all(prompt: str, words: str) -> list[Span]:
    """Where a word, or several as they stand in the prompt, occur as whole words; upper and lower case count alike."""
    if not (words := normalised(words)):
        return []
    return [m.span() for m in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", prompt, re.IGNORECASE)]


def normalised(text: str) -> str:
    """A text in composed characters (NFC) and single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def check_characters(text: str, name: str = "prompt") -> None:
    """Raise PromptError if a text, called `name` in the message, holds a lone surrogate: no tokenizer takes it."""
    if (half := _SURROGATE.search(text)) is not None:
        raise PromptError(
            f"the {name} holds half a character ({half[0]!r}): it was cut or decoded wrongly; type it again"
        )


def align(prompt: str, tokenizer: CLIPTokenizer) -> Alignment:
    """Tokenise a prompt without cutting it. An empty prompt, or one that is not a string, is a `PromptError`."""
    if not isinstance(prompt, str):
        raise PromptError(f"a prompt is a string, got {type(prompt).__name__}: {prompt!r}")
    check_characters(prompt)
    prompt = normalised(prompt)
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = tuple((int(start), int(end)) for start, end in encoded["offset_mapping"])
    if not spans:
        raise PromptError(
            "the prompt is empty: describe what to draw, for example 'a purple crown and a blue suitcase'"
        )
    return Alignment(prompt, spans, capacity=min(tokenizer.model_max_length, SEQUENCE) - 2)
