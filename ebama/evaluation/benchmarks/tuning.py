"""Prompts of the Attend-and-Excite benchmark's shapes that are not among its own: for choosing options."""

from __future__ import annotations

import random

from ebama.weights.miniature.world import ANIMALS, COLOURS, OBJECTS, WORN, Named, caption


def prompts(count: int, taken: set[str], seed: int = 0) -> dict[str, list[str]]:
    """`count` prompts for each of the benchmark's three sets, in the miniature's words, none of them `taken`."""
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
