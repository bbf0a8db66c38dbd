"""What a notebook shows of a run: pictures with their seeds, methods and losses, and its maps where no script runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from ..output.png import encoded
from ..output.recipe import Recipe
from . import figures
from .contact_sheet import MIN_SIDE, contact_sheet
from .tensors import Quantity
from .trace import Trace
from .view import data_uri, entries, shown

MOST = 32
"""Pictures on a sheet, at most."""
SIDE = 256
"""Pixels of a picture's longer side, at most."""
MAPPED, WORDS = 3, 7
"""Samples and words whose maps are on a still, at most."""
TEMPLATE = """
{% for prompt, cells in rows %}
<p style="margin: .5em 0 .2em">{{ prompt }}</p>
<div style="display: flex; flex-wrap: wrap; gap: .8em">
{% for picture, lines in cells %}
<figure style="margin: 0; max-width: 192px">
{% if picture %}
<img src="{{ picture }}" alt="{{ prompt }}, {{ lines[0] }}" width="192" style="{{ style }}">
{% endif %}
<figcaption style="font-size: .85em">{{ lines | join("<br>" | safe) }}</figcaption>
</figure>
{% endfor %}
</div>
{% endfor %}
{% for note in notes %}<p style="font-size: .85em">{{ note }}</p>{% endfor %}
"""


def result_html(images: Sequence[Image.Image] | None, losses: Tensor, recipes: Sequence[Recipe]) -> str:
    """A row for each prompt. `losses` are [N, calls], NaN where a call was not guided."""
    pictures = [data_uri(image, SIDE) for image in images[:MOST]] if images else [""] * len(recipes[:MOST])
    cells = [
        (recipe.prompt, picture, _lines(recipe, loss))
        for recipe, picture, loss in zip(recipes[:MOST], pictures, losses[:MOST], strict=True)
    ]
    rows = [(prompt, [cell[1:] for cell in same]) for prompt, same in groupby(cells, lambda cell: cell[0])]
    notes = [] if images else ["The run made latents and no pictures; `Pipeline.decode` makes them."]
    if len(recipes) > MOST:
        notes.append(f"The first {MOST} of {len(recipes)} samples are here.")
    environment = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    style = "max-width: 100%"
    if images and max(images[0].size) < 192:
        style += "; image-rendering: pixelated"
    return environment.from_string(TEMPLATE).render(rows=rows, notes=notes, style=style)


def result_png(images: Sequence[Image.Image], recipes: Sequence[Recipe]) -> bytes:
    """The same pictures as one, a row for each prompt, whose seeds are the same."""
    pairs = zip(recipes[:MOST], images[:MOST], strict=True)
    rows = [
        (f"{prompt} · {recipes[0].method['name']}", [_small(image) for _, image in same])
        for prompt, same in groupby(pairs, lambda pair: pair[0].prompt)
    ]
    seeds = [recipe.seed for recipe in recipes[: len(rows[0][1])]]
    return encoded(contact_sheet(rows, ["given noise" if seed is None else f"seed {seed}" for seed in seeds]))


def maps_png(trace: Trace, of: Quantity = "probabilities") -> bytes:
    """For each of the first samples, all of one prompt, its picture and over it the maps of objects and modifiers, or
    of all words where there are none: the mean over the calls, each word on one scale, as the page has it."""
    samples = [one for one in shown(trace) if one.prompt == trace.prompts[0]][:MAPPED]
    every = entries(samples[0])
    words = ([entry for entry in every if entry[0]["role"]] or every)[:WORDS]
    pictures = [_small(trace.images[one.sample], MIN_SIDE) for one in samples] if trace.images else []
    rows = [[picture] for picture in pictures] or [[] for _ in samples]
    for _, places in words:
        maps = torch.stack([trace.maps(places, sample=one.sample, of=of).nanmean(dim=0) for one in samples])
        low, high = maps.min().clamp(max=0), maps.max()
        scaled = ((maps - low) / (high - low).clamp(min=1e-12)).numpy()
        for index, row in enumerate(rows):
            colours = (colormaps[figures.COLOURS](scaled[index])[..., :3] * 255).round().astype(np.uint8)
            map_ = Image.fromarray(colours)
            row.append(_over(map_, pictures[index]) if pictures else map_)
    labels = [f"{one.label}, mean over {len(trace.timesteps)} calls" for one in samples]
    titles = ["picture"] * bool(pictures) + [word["text"] for word, _ in words]
    sheet = contact_sheet(list(zip(labels, rows, strict=True)), titles)
    return encoded(sheet.quantize())


def _over(map_: Image.Image, picture: Image.Image) -> Image.Image:
    grey = picture.convert("L").convert("RGB")
    return Image.blend(grey, map_.resize(picture.size, Image.Resampling.NEAREST), figures.OPACITY)


def _small(image: Image.Image, side: int = SIDE) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _lines(recipe: Recipe, losses: Tensor) -> list[str]:
    lines = [f"{recipe.method['name']}, {'given noise' if recipe.seed is None else f'seed {recipe.seed}'}"]
    guided = losses[~losses.isnan()].tolist()
    if guided:
        lines.append(f"loss {guided[0]:.3g} → {guided[-1]:.3g}, {len(guided)} guided calls")
    return lines
