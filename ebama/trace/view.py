"""A trace as one page that needs nothing else: for a file (`Trace.save_html`) and, in a frame, for a notebook.

Its viewer (viewer/viewer.js and viewer.css) is that of the local page. The page fetches nothing, which its content
security policy also forbids, and only its own script, known by its hash, may run. Jinja and the script write texts as
texts.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..prompt import Parsed
from ..prompt.words import describe_words, find, words
from . import figures
from .map_rows import check_pixels, describe
from .tensors import Quantity
from .trace import Trace

VIEWER = Path(__file__).parent / "viewer"
MAX_PICTURES = 8
MAX_BYTES = 2_000_000
"""Of the maps in a page, a byte for each pixel; base64 makes a third more of them."""
SIDES = (32, 16, 8)
"""Pixels of a map's longer side, at most: the first that leaves room for `FEWEST_CALLS`."""
FEWEST_CALLS = 12
MAX_PICTURE = 384
"""Pixels of a picture's longer side, at most."""
QUANTITIES: tuple[Quantity, ...] = ("probabilities", "scores")
ABOUT = {"probabilities": "after softmax", "scores": "before softmax"}


@dataclass(frozen=True, eq=False)
class Shown:
    """One picture of a page: a sample of a trace, and what stands below it."""

    label: str
    trace: Trace
    sample: int = 0

    @property
    def prompt(self) -> Parsed:
        """As the run read it."""
        return self.trace.prompts[self.sample]


@dataclass(frozen=True)
class Extent:
    """What a page has room for: the model calls and the (height, width) of its maps."""

    calls: tuple[int, ...]
    size: tuple[int, int]


def shown(trace: Trace, labels: Sequence[str] = ()) -> list[Shown]:
    """Every sample of a trace, below it `labels`."""
    return [
        Shown(labels[sample] if labels else f"sample {sample}", trace, sample) for sample in range(len(trace.prompts))
    ]


def document(
    pictures: Sequence[Shown],
    *,
    of: Quantity = "probabilities",
    chosen_words: Sequence[str] = (),
    pixels: Sequence[tuple[int, int]] = (),
    calls: Sequence[int] = (),
) -> str:
    """The page of some samples, whose traces are of the same layers and calls.

    Args:
        of: the maps that are shown first; the viewer switches to the others that were recorded.
        chosen_words: of the prompt; without any, all of them.
        pixels: (y, x) for self-attention; without any, nine that are evenly spread.
        calls: the model calls to show; without any, all that there is room for, evenly spread.

    Raises ValueError for words, pixels and calls that are not there, and for a trace that has no maps.
    """
    data, title = _data(pictures, of, chosen_words, pixels, calls)
    script = f"{_source('viewer.js')}\nshow(view, JSON.parse(document.getElementById('data').textContent));\n"
    environment = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    return environment.from_string(_source("page.html")).render(
        title=title, data=data, style=_source("viewer.css"), script=script, sha256=_sha256
    )


def _data(
    pictures: Sequence[Shown],
    of: Quantity,
    chosen_words: Sequence[str],
    pixels: Sequence[tuple[int, int]],
    calls: Sequence[int],
) -> tuple[dict[str, Any], str]:
    """What the script's `show` takes, and the page's title."""
    first = pictures[0].trace
    layers = sorted((name for name in QUANTITIES if name in first.kept), key=lambda name: name != of)
    if of not in layers:
        first.maps(0, of=of)  # which says what is wrong
    some = list(pictures[:MAX_PICTURES])
    by_prompt: dict[Any, list[Shown]] = {}
    for picture in some:
        by_prompt.setdefault((picture.prompt.prompt, picture.prompt.groups), []).append(picture)
    prompts = [(same[0].prompt.prompt, _entries(same[0], chosen_words, pixels), same) for same in by_prompt.values()]
    maps = len(layers) * sum(len(entries) * len(same) for _, entries, same in prompts)
    extent = _extent(first, maps, calls)
    data = {
        **appearance(),
        "layers": [{"name": f"{name} {ABOUT[name]}", "about": f"Maps: {describe(first)}."} for name in layers],
        "prompts": [
            {
                "text": text,
                "words": [word for word, _ in entries],
                "pictures": [_picture(picture, layers, [at for _, at in entries], extent) for picture in same],
            }
            for text, entries, same in prompts
        ],
        "calls": len(extent.calls),
        "numbers": [call + 1 for call in extent.calls],
        "total": len(first.timesteps),
        "timesteps": [first.timesteps[call] for call in extent.calls],
        "notes": _notes(pictures, first, extent),
    }
    return data, f"Attention: {prompts[0][0]}"


def frame(page: str, height: int = 480) -> str:
    """A page as HTML for a notebook's output, whose styles and ids it leaves alone."""
    style = f"width: 100%; height: {height}px; border: 0"
    return f'<iframe srcdoc="{html.escape(page)}" style="{style}" title="Attention maps"></iframe>'


def appearance() -> dict[str, Any]:
    """The colours of the maps, from low to high, and how opaque they lie on a picture."""
    colours = [to_hex(colour) for colour in colormaps[figures.COLOURS](range(256))]
    return {"colours": colours, "opacity": figures.OPACITY}


def _entries(
    picture: Shown, chosen: Sequence[str], pixels: Sequence[tuple[int, int]]
) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
    """Words to point at, with their places on the key axis."""
    trace, prompt = picture.trace, picture.prompt
    check_pixels(trace, pixels)
    if trace.sites[0].kind == "self":
        height, width = trace.sites[0].resolution
        spread = [(y * height // 6, x * width // 6) for y in (1, 3, 5) for x in (1, 3, 5)]
        return [
            ({"text": f"({y}, {x})", "role": "", "group": None}, (y * width + x,))
            for y, x in dict.fromkeys(pixels or spread)
        ]
    described = [(word, at.positions) for word, at in zip(describe_words(prompt), words(prompt), strict=True)]
    if not chosen:
        kept = {word.positions for word in trace.words(picture.sample)}
        return [(word, at) for word, at in described if at in kept]
    known = {at: word for word, at in described}
    plain = {"role": "", "group": None}
    return [({**known.get(at, plain), "text": text}, at) for text in chosen for at in [find(prompt, text)]]


def _extent(trace: Trace, maps: int, wanted: Sequence[int]) -> Extent:
    """The largest maps, and of the calls as many as there is room for."""
    total = len(trace.timesteps)
    if odd := [call for call in wanted if not -total <= call < total]:
        raise ValueError(f"call {odd[0]} is not among the {total} model calls; they count from 0 to {total - 1}.")
    calls = [call % total for call in wanted] or list(range(total))
    height, width = trace.sites[0].resolution
    for side in SIDES:
        shrink = min(side / max(height, width), 1)
        size = max(round(height * shrink), 1), max(round(width * shrink), 1)
        room = MAX_BYTES // max(maps * size[0] * size[1], 1)
        if room >= min(len(calls), FEWEST_CALLS):
            break
    if len(calls) > max(room, 2):
        count = max(room, 2)
        calls = [calls[round(k * (len(calls) - 1) / (count - 1))] for k in range(count)]
    return Extent(tuple(calls), size)


def _picture(
    picture: Shown, layers: Sequence[Quantity], places: Sequence[Sequence[int]], extent: Extent
) -> dict[str, Any]:
    images = picture.trace.images
    return {
        "label": picture.label,
        "url": data_uri(images[picture.sample]) if images else None,
        "layers": [_packed(picture, name, places, extent) for name in layers],
    }


def _packed(picture: Shown, of: Quantity, places: Sequence[Sequence[int]], extent: Extent) -> dict[str, Any]:
    """Maps [words, calls, h, w] as bytes, each from its lowest value (or 0) to its highest."""
    height, width = extent.size
    maps = torch.zeros(0, len(extent.calls), height, width)
    if places:
        maps = torch.stack([_shrunk(picture.trace.maps(at, sample=picture.sample, of=of), extent) for at in places])
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


def _shrunk(maps: Tensor, extent: Extent) -> Tensor:
    """Maps [calls, h, w] of the calls that are shown, averaged to their size."""
    some = maps[list(extent.calls)].nan_to_num(neginf=0.0, posinf=0.0)
    return F.adaptive_avg_pool2d(some[:, None], extent.size)[:, 0]


def _notes(pictures: Sequence[Shown], trace: Trace, extent: Extent) -> list[str]:
    """What the page leaves out, in sentences."""
    notes = []
    if trace.sites[0].resolution != extent.size:
        before, after = ("x".join(map(str, size)) for size in (trace.sites[0].resolution, extent.size))
        notes.append(f"Maps of {before} are averaged to {after} here.")
    if len(extent.calls) < len(trace.timesteps):
        notes.append(f"{len(extent.calls)} of {len(trace.timesteps)} model calls are here.")
    if len(pictures) > MAX_PICTURES:
        notes.append(f"The first {MAX_PICTURES} of {len(pictures)} samples are here.")
    return notes


def data_uri(image: Image.Image, side: int = MAX_PICTURE) -> str:
    """A picture, its longer side at most `side` pixels, as the address of an image."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _source(name: str) -> str:
    return (VIEWER / name).read_text(encoding="utf-8")


def _sha256(source: str) -> str:
    """For the content security policy; browsers hash what stands between the tags."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
