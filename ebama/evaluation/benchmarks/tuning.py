"""Prompts of the Attend-and-Excite benchmark's shapes that are not among its own: for choosing options."""

from __future__ import annotations

import itertools
import random

from ebama.weights.miniature.world import ANIMALS, COLOURS, OBJECTS, WORN, Named, caption


def prompts(count: int, taken: set[str], seed: int = 0) -> dict[str, list[str]]:
    """`count` prompts for each of the benchmark's three sets, in the miniature's words, none of them `taken`.

    Raises ValueError for more than there are of two animals, the smallest set.
    """
    animals = {caption([(first, None), (second, None)]) for first, second in itertools.permutations(ANIMALS, 2)}
    if count > (most := len(animals - taken)):
        raise ValueError(f"tuning:{count} asks for more prompts of each set than there are; expected at most {most}.")
    rng = random.Random(seed)
    sets: dict[str, list[str]] = {"animals": [], "animals_objects": [], "objects": []}

    def coloured() -> Named:
        return rng.choice(OBJECTS), rng.choice(tuple(COLOURS))

    def animal() -> Named:
        return rng.choice(ANIMALS), None

    for name, texts in sets.items():
        while len(texts) < count:
            first = coloured() if name == "objects" else animal()
            second = animal() if name == "animals" else coloured()
            if name == "animals_objects" and rng.random() < 0.25:
                second = rng.choice(WORN), None
            text = caption([first, second])
            if first[0] != second[0] and text not in taken and text not in texts:
                texts.append(text)
    return sets
