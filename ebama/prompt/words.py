"""The words of a prompt and where they stand: for people, who think in words and not in positions."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from .parsing import Parsed


class Word(NamedTuple):
    """A word as it is written and the positions of its pieces in the 77-token sequence."""

    text: str
    positions: tuple[int, ...]


def words(prompt: Parsed) -> tuple[Word, ...]:
    """The words of a prompt in order, without punctuation and without those beyond the 75 pieces that CLIP sees."""
    found = (
        Word(match.group(), _positions(prompt, *match.span()))
        for match in re.finditer(r"\w+(?:['’-]\w+)*", prompt.prompt)
    )
    return tuple(word for word in found if word.positions)


def find(prompt: Parsed, word: str, occurrence: int = 0) -> tuple[int, ...]:
    """Positions of the pieces of a word, or of several words as they stand in the prompt ("blue suitcase").

    Upper and lower case count alike. `occurrence` chooses among those of a word that recurs, 0 the first and -1 the
    last. Raises ValueError, which lists the words there are, for a word that the prompt does not have as often.
    """
    wanted = " ".join(unicodedata.normalize("NFC", word).split())
    pattern = rf"(?<!\w){re.escape(wanted)}(?!\w)"
    matches = re.finditer(pattern, prompt.prompt, re.IGNORECASE) if word.strip() else ()
    found = [at for match in matches if (at := _positions(prompt, *match.span()))]
    if not -len(found) <= occurrence < len(found):
        times = f"{len(found)} times in" if found else "not among the words of"
        listing = ", ".join(one.text for one in words(prompt))
        asked = f", and occurrence {occurrence} was asked for" if found else ""
        raise ValueError(f"{word!r} is {times} {prompt.prompt!r}{asked}; its words are: {listing}.")
    return found[occurrence]


def _positions(prompt: Parsed, start: int, end: int) -> tuple[int, ...]:
    """Of the pieces that characters `start` to `end` became; none if any of them fell off the end."""
    if not prompt.spans or end > prompt.spans[-1][1]:
        return ()
    return tuple(k for k, (a, b) in zip(prompt.tokens, prompt.spans, strict=True) if a < end and start < b)
