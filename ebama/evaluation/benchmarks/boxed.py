"""Boxes to draw objects in, at random places."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ...boxes import Box
from .prompt import Boxes

CELLS = 16
"""Boxes begin and end between the cells of a map of this side."""
SIDES = (6, 7, 8)
"""Cells along a side of a box: the miniature draws two objects that large."""


def draw(words: Sequence[str], rng: random.Random) -> Boxes:
    """A box for each word; they do not overlap."""
    while True:
        boxes = [_box(rng) for _ in words]
        if not any(_overlap(a, b) for k, a in enumerate(boxes) for b in boxes[:k]):
            return tuple(zip(words, boxes, strict=True))


def _box(rng: random.Random) -> Box:
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    left, top = rng.randint(0, CELLS - width), rng.randint(0, CELLS - height)
    return Box(left / CELLS, top / CELLS, (left + width) / CELLS, (top + height) / CELLS)


def _overlap(a: Box, b: Box) -> bool:
    return a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom
