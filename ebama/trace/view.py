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
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from ebama.models.attention.thumbnails import smaller

from ..checks import several
from ..prompt import Parsed
from ..prompt.words import describe_words, find, words
from . import figures
from .capture.source import Source
from .map_rows import check_pixels
from .packing import Extent, Layer, extent_of, packed
from .tensors import Quantity
from .trace import Trace

VIEWER = Path(__file__).parent / "viewer"
MAX_PICTURES = 8
MAX_PICTURE = 384
"""Pixels of a picture's longer side, at most."""
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
    data, title = _data(pictures, of, several(chosen_words), several(pixels), calls)
    script = f"{_source('viewer.js')}\nshow(view, JSON.parse(document.getElementById('data').textContent));\n"
    return _template().render(title=title, data=data, style=_source("viewer.css"), script=script, sha256=_sha256)


def _data(
    pictures: Sequence[Shown],
    of: Quantity,
    chosen_words: Sequence[str],
    pixels: Sequence[tuple[int, int]],
    calls: Sequence[int],
) -> tuple[dict[str, Any], str]:
    """What the script's `show` takes, and the page's title."""
    first = pictures[0].trace
    recorded = sorted(first.recorded, key=lambda name: name != of)
    if of not in recorded:
        first.maps(0, of=of)  # which says what is wrong
    some = list(pictures[:MAX_PICTURES])
    by_prompt: dict[Any, list[Shown]] = {}
    for picture in some:
        by_prompt.setdefault((picture.prompt.prompt, picture.prompt.groups), []).append(picture)
    prompts = [(same[0].prompt.prompt, entries(same[0], chosen_words, pixels), same) for same in by_prompt.values()]
    maps = len(recorded) * sum(len(entries) * len(same) for _, entries, same in prompts)
    extent = extent_of(first, maps, calls)
    layers: list[Layer] = [(source, name) for source in extent.sources for name in recorded]
    data = {
        **appearance(),
        "layers": [layer_of(*layer) for layer in layers],
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


def layer_of(source: Source, of: Quantity) -> dict[str, str]:
    """What the viewer's fields say of some maps."""
    return {"of": f"{of} {ABOUT[of]}", "layer": source.layers, "head": source.heads, "about": f"Maps: {source}."}


def frame(page: str, still: bytes, height: int = 480) -> str:
    """A page as HTML for a notebook's output, whose styles and ids it leaves alone. Before it stands a still, a PNG,
    which the page hides: where no script runs, or no frame is shown, it is what remains."""
    style = f"width: 100%; height: {height}px; border: 0"
    picture = f"data:image/png;base64,{base64.b64encode(still).decode()}"
    return (
        f'<img src="{picture}" alt="Attention maps of each word" style="max-width: 100%">'
        f'<iframe srcdoc="{html.escape(page)}" style="{style}" title="Attention maps"></iframe>'
    )


def appearance() -> dict[str, Any]:
    """The colours of the maps, from low to high, and how opaque they lie on a picture."""
    colours = [to_hex(colour) for colour in colormaps[figures.COLOURS](range(256))]
    return {"colours": colours, "opacity": figures.OPACITY}


def entries(
    picture: Shown, chosen: Sequence[str] = (), pixels: Sequence[tuple[int, int]] = ()
) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
    """Words to point at, with their places on the key axis."""
    trace, prompt = picture.trace, picture.prompt
    pixels = check_pixels(trace, pixels)
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


def _picture(
    picture: Shown, layers: Sequence[Layer], places: Sequence[Sequence[int]], extent: Extent
) -> dict[str, Any]:
    images = picture.trace.images
    return {
        "label": picture.label,
        "url": data_uri(images[picture.sample]) if images else None,
        "layers": [packed(picture.trace, picture.sample, layer, places, extent) for layer in layers],
    }


def _notes(pictures: Sequence[Shown], trace: Trace, extent: Extent) -> list[str]:
    """What the page leaves out, in sentences."""
    notes = []
    for size in dict.fromkeys(source.resolution for source in extent.sources):
        if (here := smaller(size, extent.side)) != size:
            before, after = ("x".join(map(str, sides)) for sides in (size, here))
            notes.append(f"Maps of {before} are averaged to {after} here.")
    if len(extent.sources) < len(trace.sources):
        notes.append(f"The first {len(extent.sources)} of {len(trace.sources)} layers and heads are here.")
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


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    return environment.from_string(_source("page.html"))


def _source(name: str) -> str:
    return (VIEWER / name).read_text(encoding="utf-8")


def _sha256(source: str) -> str:
    """For the content security policy; browsers hash what stands between the tags."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
