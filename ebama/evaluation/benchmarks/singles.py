"""One object alone, in the miniature's words: what a model must draw before two objects mean anything."""

from __future__ import annotations

from ebama.weights.miniature.world import ANIMALS, COLOURS, OBJECTS, caption


def prompts() -> dict[str, list[str]]:
    """Every animal ("a cat"), every object ("a car"), and every object in every colour ("a red car"): 12, 12, 132."""
    return {
        "animals": [caption([(noun, None)]) for noun in ANIMALS],
        "objects": [caption([(noun, None)]) for noun in OBJECTS],
        "coloured": [caption([(noun, colour)]) for noun in OBJECTS for colour in COLOURS],
    }
