"""One prompt of a benchmark, and where a picture of it should have which object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

from ...boxes import Box

Boxes = tuple[tuple[str, Box], ...]
"""(word, box) pairs, as the pipeline's mapping from words to boxes."""


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One prompt and the part of its benchmark that it belongs to; `groups` as for the pipeline, None: parsed.

    `boxes` say where objects should be; () for nowhere in particular.
    """

    set: str
    text: str
    groups: tuple[tuple[str, tuple[str, ...]], ...] | None = None
    boxes: Boxes = ()


def describe_boxes(boxes: Boxes) -> dict[str, Any]:
    """{"boxes": ...} in values of JSON; empty without boxes."""
    return {"boxes": {word: list(astuple(box)) for word, box in boxes}} if boxes else {}


def read_boxes(stored: object) -> Boxes:
    """From {word: [left, top, right, bottom]} or nothing, a word without a box passed over; ValueError for anything
    else, and for a box that is none."""
    if not isinstance(stored, Mapping | None) or not all(isinstance(word, str) for word in stored or ()):
        raise ValueError(f"the boxes {stored!r} need words: {{WORD: [LEFT, TOP, RIGHT, BOTTOM], ...}}.")
    return tuple((word, Box.of(sides)) for word, sides in (stored or {}).items() if sides is not None)
