"""Maps as bytes, as many and as large as a page has room for."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F

from ebama.models.attention.thumbnails import smaller

from ..checks import is_whole, several
from .capture.source import Source
from .tensors import Quantity
from .trace import Trace

MAX_BYTES = 2_000_000
"""Of the maps in a page, a byte for each pixel; base64 makes a third more of them."""
SIDES = (32, 16, 8)
"""Pixels of a map's longer side, at most: the first that leaves room for `FEWEST_CALLS`."""
FEWEST_CALLS = 12

Layer: TypeAlias = tuple[Source, Quantity]
"""Maps that the viewer switches to."""


@dataclass(frozen=True)
class Extent:
    """What a page has room for: layers and heads, model calls, and pixels of a map's longer side."""

    sources: tuple[Source, ...]
    calls: tuple[int, ...]
    side: int

    def size(self, source: Source) -> tuple[int, int]:
        """(height, width) of a source's maps here."""
        return smaller(source.resolution, self.side)


def extent_of(trace: Trace, maps: int, wanted: Sequence[int]) -> Extent:
    """As many layers and heads as leave room for a few calls of the smallest maps; then the largest maps, and of the
    calls as many as there is room for. `maps` are those of a source in one call."""
    total, wanted = len(trace.timesteps), several(wanted)
    if odd := [call for call in wanted if not is_whole(call) or not -total <= call < total]:
        raise ValueError(f"call {odd[0]} is not among the {total} model calls; they count from 0 to {total - 1}.")
    calls = [call % total for call in wanted] or list(range(total))
    fewest = min(len(calls), FEWEST_CALLS)
    sources = trace.sources[: max(MAX_BYTES // max(maps * SIDES[-1] ** 2 * fewest, 1), 1)]
    for side in SIDES:
        pixels = sum(math.prod(smaller(source.resolution, side)) for source in sources)
        room = MAX_BYTES // max(maps * pixels, 1)
        if room >= fewest:
            break
    if len(calls) > max(room, 2):
        count = max(room, 2)
        calls = [calls[round(k * (len(calls) - 1) / (count - 1))] for k in range(count)]
    return Extent(sources, tuple(calls), side)


def packed(trace: Trace, sample: int, layer: Layer, places: Sequence[Sequence[int]], extent: Extent) -> dict[str, Any]:
    """A sample's maps [words, calls, h, w] as bytes, each from its lowest value (or 0) to its highest."""
    source, of = layer
    trace, (height, width) = trace.of_sources(source), extent.size(source)
    maps = torch.zeros(0, len(extent.calls), height, width, device="cpu")
    if places:
        some = [trace.maps(at, sample=sample, of=of)[list(extent.calls)] for at in places]
        maps = F.adaptive_avg_pool2d(torch.stack(some).nan_to_num(neginf=0.0, posinf=0.0), (height, width))
    low = maps.amin(dim=(-2, -1), keepdim=True).clamp(max=0)
    high = maps.amax(dim=(-2, -1), keepdim=True)
    scaled = ((maps - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    ranges = torch.cat([low, high], dim=-1).reshape(-1, 2)
    return {
        "height": height,
        "width": width,
        "bytes": base64.b64encode(scaled.numpy().tobytes()).decode(),
        "ranges": [[float(f"{value:.4g}") for value in pair] for pair in ranges.tolist()],
    }
