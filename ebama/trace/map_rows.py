"""The rows of a figure of attention maps: whose maps they show, and on which scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import expect, is_whole, several
from ..prompt.words import find
from .tensors import Quantity
from .trace import Trace

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MapRow:
    """One row of a grid of maps: those of a word [columns, h, w], drawn from `low` to `high`; `mark` is a pixel (y, x)
    to point at, `box` (left, top, right, bottom) in fractions of the picture where the word's object should be."""

    label: str
    maps: Maps
    low: float
    high: float
    mark: tuple[int, int] | None = None
    box: tuple[float, ...] | None = None


def map_rows(
    trace: Trace, words: Sequence[str] = (), pixels: Sequence[tuple[int, int]] = (), of: Quantity = "probabilities"
) -> list[MapRow]:
    """The maps of every word (or pixel) at every call, each on its own scale: from 0, or its minimum if that is
    negative, to its maximum.

    Args:
        words: without any, the objects and their modifiers, or all words where there are no objects or the trace kept
            some alone.
        pixels: (y, x) for self-attention instead of words; without any, the one in the middle.
        of: maps before or after softmax.
    """
    pixels, words = check_pixels(trace, pixels), several(words)
    if trace.sites[0].kind == "self":
        height, width = trace.sites[0].resolution
        rows = []
        for y, x in pixels or [(height // 2, width // 2)]:
            rows.append(_row(f"looks at\n({y}, {x})", trace.maps(y * width + x, of=of).numpy(), (y, x)))
        return rows
    prompt = trace.prompts[0]
    labelled: list[tuple[str, str | tuple[int, ...]]] = [(word, word) for word in words]
    if not labelled:
        groups = () if trace.keys else prompt.groups
        members = [word for group in groups for word in (*group.modifiers, group.object)]
        labelled = [(prompt.text(*word), word) for word in members] or list(trace.words())
    rows = [_row(label, trace.maps(word, of=of).numpy()) for label, word in labelled]
    return [replace(row, box=_box(trace, word)) for row, (_, word) in zip(rows, labelled, strict=True)]


def check_pixels(trace: Trace, pixels: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The (y, x) as Python's numbers; ValueError unless all are keys of the trace, as those of self-attention are."""
    given: list[Any] = [tuple(several(pixel)) for pixel in several(pixels)]
    fits = all(len(pixel) == 2 and all(map(is_whole, pixel)) for pixel in given)
    expect("pixels", pixels, fits, "a list of (y, x), as [(0, 0), (8, 8)]")
    if given and trace.sites[0].kind != "self":
        raise ValueError("Pixels are for self-attention; give words, or choose the kind self.")
    height, width = trace.sites[0].resolution
    for y, x in given:
        if not (0 <= y < height and 0 <= x < width):
            raise ValueError(f"pixel {y},{x} does not lie in maps of {height}x{width}; they count from 0,0.")
    return given


def share_scales(systems: Mapping[str, Sequence[MapRow]]) -> dict[str, list[MapRow]]:
    """The same rows, where each word's scale is the same for all methods."""
    limits = [
        (min(row.low for row in same), max(row.high for row in same)) for same in zip(*systems.values(), strict=True)
    ]
    return {
        name: [replace(row, low=low, high=high) for row, (low, high) in zip(rows, limits, strict=True)]
        for name, rows in systems.items()
    }


def describe(trace: Trace) -> str:
    """Which maps these are."""
    return str(trace.sources[0])


def _box(trace: Trace, word: str | tuple[int, ...]) -> tuple[float, ...] | None:
    """That of the object that a word is, or modifies."""
    at = set(find(trace.prompts[0], word) if isinstance(word, str) else word)
    groups = [
        group for group in trace.prompts[0].groups if group.box and at & {*group.object, *sum(group.modifiers, ())}
    ]
    return astuple(groups[0].box) if groups and groups[0].box else None


def _row(label: str, maps: Maps, mark: tuple[int, int] | None = None) -> MapRow:
    return MapRow(label, maps, min(0.0, float(maps.min())), float(maps.max()), mark)
