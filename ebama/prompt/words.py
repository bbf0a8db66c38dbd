"""The words of a prompt and their positions, for people, who think in words."""

from __future__ import annotations

from typing import NamedTuple

from .alignment import find_all, word_spans
from .groups import Parsed


class Word(NamedTuple):
    """A word as it is written and the positions of its tokens in the encoder's sequence."""

    text: str
    positions: tuple[int, ...]


def words(prompt: Parsed) -> tuple[Word, ...]:
    """The words of a prompt in order, without punctuation and without those that the encoder does not see."""
    spans = [span for span in word_spans(prompt.prompt) if _is_seen(prompt, span)]
    return tuple(Word(prompt.prompt[slice(*span)], prompt.positions(span)) for span in spans)


def find(prompt: Parsed, word: str, occurrence: int = 0) -> tuple[int, ...]:
    """Positions of the tokens of a word, or of several words as they stand in the prompt ("blue suitcase").

    Upper and lower case count alike. `occurrence` chooses among those of a word that recurs, 0 the first and -1 the
    last. Raises ValueError, which lists the words there are, for a word that the prompt does not have as often.
    """
    spans = [span for span in find_all(prompt.prompt, word) if _is_seen(prompt, span)]
    if not -len(spans) <= occurrence < len(spans):
        times = f"{len(spans)} times in" if spans else "not among the words of"
        listing = ", ".join(one.text for one in words(prompt))
        asked = f", and occurrence {occurrence} was asked for" if spans else ""
        raise ValueError(f"{word!r} is {times} {prompt.prompt!r}{asked}; its words are: {listing}.")
    return prompt.positions(spans[occurrence])


def _is_seen(prompt: Parsed, span: tuple[int, int]) -> bool:
    """Whether the encoder sees a word whole."""
    return prompt.sees(span) and bool(prompt.positions(span))
