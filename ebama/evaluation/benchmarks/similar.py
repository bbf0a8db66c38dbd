"""Objects that look alike, whose attention falls on the same places: as the similar subjects of Qiu et al. 2025."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

from ebama.weights.miniature.world import COLOURS, Named, caption

ANIMALS = (("cat", "dog", "lion", "bear"), ("rabbit", "mouse", "frog", "turtle"), ("horse", "elephant"))
OBJECTS = (("backpack", "suitcase"), ("chair", "bench"), ("apple", "balloon", "clock"))
"""Families of the miniature's nouns: of one build, or of one outline."""


def prompts(count: int, seed: int = 0) -> dict[str, list[str]]:
    """`count` prompts of each set, in the miniature's words: "animals", two of a family; "objects", two of a family in
    one colour; "three" animals of a family.

    Raises ValueError for more than the smallest set has.
    """
    sets: dict[str, list[str]] = {
        "animals": _captions(itertools.chain(*(itertools.permutations(family, 2) for family in ANIMALS)), (None,)),
        "objects": _captions(itertools.chain(*(itertools.permutations(family, 2) for family in OBJECTS)), COLOURS),
        "three": _captions(itertools.chain(*(itertools.permutations(family, 3) for family in ANIMALS)), (None,)),
    }
    if count > (most := min(map(len, sets.values()))):
        raise ValueError(f"similar:{count} asks for more prompts of each set than there are; expected at most {most}.")
    rng = random.Random(seed)
    return {name: rng.sample(texts, count) for name, texts in sets.items()}


def _captions(nouns: Iterable[tuple[str, ...]], colours: Iterable[str | None]) -> list[str]:
    colours = tuple(colours)
    named: Iterable[list[Named]] = ([(noun, colour) for noun in some] for some in nouns for colour in colours)
    return [caption(objects) for objects in named]
