"""A picture, with what is shown of its attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..trace import Trace, curves
from ..trace.view import layer_of

MAX_MAPS = 4_000_000
"""Bytes of a picture's maps, at most, but for the mean, which is always there."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and what is shown beside it.

    Attributes:
        method: as the request names it.
        png: the file, its recipe inside; `name` is what to call it.
        maps: of the prompt's words after softmax, [layers, words, calls, h, w] float16: `layers` says what each is of.
        lines: for each quantity of `ebama.trace.curves` its name and lines, a label, a group and a value for each call.
    """

    method: str
    seed: int
    png: bytes
    name: str
    maps: npt.NDArray[np.float16]
    timesteps: tuple[int, ...]
    layers: list[dict[str, str]]
    lines: dict[str, list[dict[str, Any]]]


def picture_of(method: str, seed: int, png: bytes, name: str, trace: Trace, sample: int) -> Picture:
    """A sample of a trace with its maps and curves."""
    words, groups = trace.words(sample), trace.prompts[sample].groups
    height, width = trace.sites[0].resolution
    shape = len(words), len(trace.timesteps), height, width
    most = max(MAX_MAPS // max(2 * math.prod(shape), 1), 1)
    sources = sorted(trace.sources, key=lambda source: source.head is not None)[:most]  # means before single heads
    maps = np.zeros((len(sources), *shape), np.float16)
    for layer, source in zip(maps, sources, strict=True):
        for index, word in enumerate(words):
            layer[index] = trace.of_sources(source).maps(word.positions, sample=sample).numpy()
    lines = {}
    for curve, owners in (
        (curves.intensity(trace, sample=sample), list(range(len(groups)))),
        (curves.similarity(trace, sample=sample), [i for i, group in enumerate(groups) for _ in group.modifiers]),
    ):
        lines[curve.quantity] = [
            {"label": label, "group": group, "values": [round(float(value), 5) for value in values]}
            for label, group, values in zip(curve.labels, owners, curve.values, strict=True)
        ]
    layers = [layer_of(source, "probabilities") for source in sources]
    return Picture(method, seed, png, name, maps, trace.timesteps, layers, lines)
