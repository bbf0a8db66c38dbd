"""The miniature's world: 24 nouns, 11 colours and the caption patterns of the Attend-and-Excite benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..vocabulary import Vocabulary

Named: TypeAlias = "tuple[str, str | None]"
"""A noun and its colour; None where the caption gives none."""

ANIMALS = ("cat", "dog", "bird", "bear", "lion", "horse", "elephant", "monkey", "frog", "turtle", "rabbit", "mouse")
OBJECTS = (
    *("backpack", "glasses", "crown", "suitcase", "chair", "balloon"),
    *("bow", "car", "bowl", "bench", "clock", "apple"),
)
NOUNS = ANIMALS + OBJECTS
WORN = ("bow", "crown", "glasses")
"""The objects that the benchmark joins by "with" and leaves uncoloured."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 30, 36),
    "orange": (247, 134, 16),
    "yellow": (250, 212, 36),
    "green": (40, 150, 52),
    "blue": (34, 92, 214),
    "purple": (128, 36, 168),
    "pink": (255, 140, 190),
    "brown": (122, 72, 36),
    "gray": (132, 132, 132),
    "black": (38, 38, 40),
    "white": (244, 244, 244),
}
"""Colour name to the sRGB value (0..255) that a recoloured body has on average."""

WORDS = frozenset((*NOUNS, *COLOURS, "a", "and", "with"))
"""Every word of every caption: a prompt's other words mean nothing to the miniature."""

VOCABULARY = Vocabulary(
    "embedded miniature",
    NOUNS,
    tuple(COLOURS),
    words=WORDS | {"an", "the"},  # in no caption, but nothing is lost with these two
)


def caption(named: Sequence[Named]) -> str:
    """The caption of objects in the order given; the article is always "a", as in the benchmark.

    >>> caption([("elephant", None), ("bench", "orange")])
    'a elephant and a orange bench'
    >>> caption([("cat", None), ("crown", None)])
    'a cat with a crown'
    """
    words = [f"a {colour} {noun}" if colour else f"a {noun}" for noun, colour in named]
    if len(named) == 2 and named[0][0] in ANIMALS and named[1][0] in WORN and named[1][1] is None:
        return " with ".join(words)
    return " and ".join(words)
