"""The words that a checkpoint was trained on, where they are few enough to list."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """The words that mean something to the model called `name`.

    `nouns` and `colours` are what it can draw, in the order in which to show them; `words` are all the words that a
    prompt may hold without a loss, nouns, colours and articles included.
    """

    name: str
    nouns: tuple[str, ...]
    colours: tuple[str, ...]
    words: frozenset[str]

    def __post_init__(self) -> None:
        """Check that every noun and colour is one of `words`."""
        if outside := [word for word in (*self.nouns, *self.colours) if word not in self.words]:
            raise ValueError(f"Vocabulary.words lacks {', '.join(outside)}; expected all nouns and colours in it.")

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that mean nothing to the model, in lower case and in order, each once."""
        words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*", prompt.lower())
        return list(dict.fromkeys(word for word in words if word not in self.words))
