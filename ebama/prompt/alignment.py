"""Which CLIP pieces a stretch of a prompt became: by character offsets, never by comparing spellings."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

SEQUENCE = 77  # positions of CLIP's text encoder: start, 75 pieces, end
_SHOWN = 12
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class PromptError(ValueError):
    """A prompt, or the words said to be in it, that cannot be used; the message says why and what to do instead."""


@dataclass(frozen=True)
class Alignment:
    """A prompt and the characters each of its pieces covers.

    `prompt` is in composed characters (NFC) and single spaces, as CLIP reads it; `spans` holds (start, end) for each
    piece, piece k of the prompt being position k + 1 of the sequence; `capacity` is how many pieces the encoder sees.
    """

    prompt: str
    spans: tuple[tuple[int, int], ...]
    capacity: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """Positions of the pieces that the encoder sees: 1 to T."""
        return tuple(range(1, min(len(self.spans), self.capacity) + 1))

    def positions(self, start: int, end: int) -> tuple[int, ...]:
        """Positions of the pieces that characters `start` to `end` became, those that fell off included."""
        return tuple(k for k, (a, b) in enumerate(self.spans, 1) if a < end and start < b)

    def kept(self, start: int, end: int) -> tuple[int, ...]:
        """As `positions`; a `PromptError` if any of them fell off."""
        positions = self.positions(start, end)
        if positions[-1] > self.capacity:
            raise PromptError(
                f"{self.prompt[start:end]!r} lies beyond the {self.capacity} pieces that CLIP sees of a prompt of "
                f"{len(self.spans)}: shorten the prompt, or give groups= of words that come earlier"
            )
        return positions

    def lost(self) -> str:
        """The words, wholly or partly, that the encoder does not see, as one line; empty if there are none."""
        if len(self.spans) <= self.capacity:
            return ""
        first = self.spans[self.capacity][0]
        words = self.prompt[self.prompt.rfind(" ", 0, first) + 1 :].split()
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        return " ".join(words[:_SHOWN]) + more


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
    prompt = " ".join(unicodedata.normalize("NFC", prompt).split())
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = tuple((int(start), int(end)) for start, end in encoded["offset_mapping"])
    if not spans:
        raise PromptError(
            "the prompt is empty: describe what to draw, for example 'a purple crown and a blue suitcase'"
        )
    return Alignment(prompt, spans, capacity=min(tokenizer.model_max_length, SEQUENCE) - 2)
