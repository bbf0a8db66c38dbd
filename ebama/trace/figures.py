"""The library's figures: arrays and pictures in, a matplotlib `Figure` out. Nothing here runs a model or writes a file.

Colour maps and line colours are readable for colour-blind eyes and in grey (cividis; Okabe and Ito's palette, each
colour with a dash pattern of its own).
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rcParams, style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from .curves import Curves
from .map_rows import MapRow, Maps

COLOURS = "cividis"
OPACITY = 0.7
MEANINGS = {"intensity": "peak of smoothed\nprobabilities", "similarity": "cosine of\nscores"}
LINES = (
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#000000", (0, (6, 1, 1, 1, 1, 1))),
    ("#E69F00", (0, (1, 1))),
)
CELL = 1.35  # inches
DPI = 110
ACROSS = 12
"""Pictures that a sheet has side by side, at most, unless one prompt has more."""
_DRAWING = threading.RLock()


@contextmanager
def usual_style() -> Iterator[None]:
    """Within this context matplotlib draws as it does where nobody changed its settings, but in the fonts that are
    chosen: a `matplotlibrc` may call LaTeX, which knows no `_` in prompts, or turn pictures upside down.

    The settings are the process's: threads wait.
    """
    with _DRAWING:
        lists = {str(name): value for name, value in rcParams.items() if isinstance(value, list)}
        fonts: dict[str, Any] = {name: value for name, value in lists.items() if name.startswith("font.")}
        with style.context(["default", fonts]):
            yield


@usual_style()
def map_grid(
    title: str, pictures: Sequence[Image.Image], columns: Sequence[str], rows: Sequence[MapRow], quantity: str
) -> Figure:
    """Words x moments: the pictures above, and each row's maps over them in grey. Every row has its colour bar."""
    size = CELL * len(columns) + 1.9, _cell(pictures[0]) * (len(rows) + 1) + 0.75
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(_wrapped(title, len(columns) * 18), fontsize=10)
    ratios = [*[1.0] * len(columns), 0.07]
    axes = figure.subplots(len(rows) + 1, len(columns) + 1, squeeze=False, gridspec_kw={"width_ratios": ratios})
    for axis, picture, column in zip(axes[0], pictures, columns, strict=False):
        _picture(axis, picture)
        axis.set_title(column, fontsize=8)
    axes[0, 0].set_ylabel("predicted\npicture", fontsize=9)
    axes[0, -1].axis("off")
    for line, row in zip(axes[1:], rows, strict=True):
        for axis, picture, map_ in zip(line, pictures, row.maps, strict=False):
            _overlay(axis, picture, map_, row)
        line[0].set_ylabel(_wrapped(row.label, 14), fontsize=10)
        _colour_bar(figure, line[-1], row, quantity, "vertical")
    return figure


def map_frames(
    title: str, pictures: Sequence[Image.Image], columns: Sequence[str], rows: Sequence[MapRow], quantity: str
) -> Iterator[Image.Image]:
    """The same as frames of an animation, a moment each: the picture, and beside it the map of every word."""
    with usual_style():
        size = CELL * 1.35 * (len(rows) + 1), _cell(pictures[0]) * 1.35 + 1.15
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        heading = figure.suptitle(_plain(title), fontsize=9)
        axes = figure.subplots(2, len(rows) + 1, squeeze=False, gridspec_kw={"height_ratios": (1, 0.06)})
        axes[0, 0].set_title("predicted picture", fontsize=9)
        axes[1, 0].axis("off")
        shown = _picture(axes[0, 0], pictures[0])
        layers = []
        for axis, bar, row in zip(axes[0, 1:], axes[1, 1:], rows, strict=True):
            axis.set_title(_plain(row.label), fontsize=9)
            layers.append(_overlay(axis, pictures[0], row.maps[0], row))
            _colour_bar(figure, bar, row, quantity, "horizontal")
    for index, (picture, column) in enumerate(zip(pictures, columns, strict=True)):
        heading.set_text(f"{_wrapped(title, (len(rows) + 1) * 26)}\n{column.replace(chr(10), ', ')}")
        shown.set_data(np.asarray(picture))
        for (grey, layer), row in zip(layers, rows, strict=True):
            grey.set_data(_grey(picture))
            layer.set_data(row.maps[index])
        yield rendered(figure)
        figure.set_layout_engine("none")  # the first frame's layout is kept: nothing jumps


@usual_style()
def curves_figure(title: str, systems: Sequence[tuple[str, Image.Image, Sequence[Curves]]]) -> Figure:
    """Figure 1 of the paper: a column for each (method, its picture, its curves), a row for each quantity of the
    curves, all of a row on one scale."""
    count = len(systems[0][2])
    figure = Figure(figsize=(2.9 * len(systems) + 0.9, 2.3 + 2.2 * count), dpi=DPI, layout="constrained")
    figure.suptitle(_wrapped(title, len(systems) * 34), fontsize=10)
    axes = figure.subplots(1 + count, len(systems), squeeze=False)
    for column, (name, picture, quantities) in zip(axes.T, systems, strict=True):
        _picture(column[0], picture)
        column[0].set_title(name, fontsize=11)
        for axis, first, curves in zip(column[1:], axes[1:, 0], quantities, strict=True):
            for label, values, (colour, dashes) in zip(curves.labels, curves.values, cycle(LINES), strict=False):
                axis.plot(values, color=colour, linestyle=dashes, linewidth=1.7, label=_plain(label))
            axis.sharey(first)
            axis.grid(alpha=0.25)
            axis.tick_params(labelsize=8, labelleft=axis is first)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set_xlabel(f"model call (t = {curves.timesteps[0]} to {curves.timesteps[-1]})", fontsize=8)
    for line, curves in zip(axes[1:], systems[0][2], strict=True):
        line[0].set_ylabel(f"{curves.quantity}:\n{MEANINGS[curves.quantity]}", fontsize=9)
        line[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        if curves.quantity == "intensity":
            line[0].set_ylim(bottom=0)
    return figure


@usual_style()
def comparison(
    pictures: Sequence[Sequence[Sequence[Image.Image]]],
    prompts: Sequence[str],
    names: Sequence[str],
    seeds: Sequence[int],
    boxes: Sequence[Sequence[float]] = (),
) -> Figure:
    """Figure 3 of the paper: `pictures[prompt][method][seed]`, a block of columns for each prompt, a row a method;
    `boxes` (left, top, right, bottom) in fractions of a picture are drawn in all.

    Blocks stand side by side as far as ACROSS pictures go, then below each other.
    """
    bands = math.ceil(len(prompts) / max(ACROSS // len(seeds), 1))
    across = math.ceil(len(prompts) / bands)
    width = CELL * len(seeds) * across + 0.2 * across + 0.5
    height = (_cell(pictures[0][0][0]) * len(names) + 0.75) * bands
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    blocks = figure.subfigures(bands, across, squeeze=False).flatten()[: len(prompts)]
    for index, (block, prompt, rows) in enumerate(zip(blocks, prompts, pictures, strict=True)):
        block.suptitle(_wrapped(prompt, max(16, len(seeds) * 19)), fontsize=10, style="italic")
        axes = block.subplots(len(names), len(seeds), squeeze=False)
        for line, name, row in zip(axes, names, rows, strict=True):
            for axis, picture in zip(line, row, strict=True):
                _picture(axis, picture)
                for box, (colour, _) in zip(boxes, cycle(LINES), strict=False):
                    _outline(axis, box, colour)
            if index % across == 0:
                label = re.sub(r"(?=\+)|(?<=,)(?=[a-z])", "\n", name)  # a line for each method and option
                line[0].set_ylabel(_plain(label), fontsize=10 if "+" not in name else 7)
        for axis, seed in zip(axes[0], seeds, strict=True):
            axis.set_title(f"seed {seed}", fontsize=8)
    return figure


@usual_style()
def rendered(figure: Figure) -> Image.Image:
    """A figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _image(axis: Axes, pixels: npt.ArrayLike, **options: Any) -> Any:
    """Draw pixels or a map across the whole axis, in its own shape."""
    axis.set(xticks=[], yticks=[])
    height, width = np.shape(pixels)[:2]
    return axis.imshow(pixels, extent=(0, 1, 1, 0), aspect=height / width, **options)


def _cell(picture: Image.Image) -> float:
    """How high a picture is drawn that is CELL wide, in inches."""
    return CELL * picture.height / picture.width


def _picture(axis: Axes, picture: Image.Image) -> Any:
    return _image(axis, np.asarray(picture), interpolation="nearest")


def _overlay(axis: Axes, picture: Image.Image, map_: Maps, row: MapRow) -> tuple[Any, Any]:
    grey = _image(axis, _grey(picture), cmap="gray", vmin=0, vmax=255)
    scale = Normalize(row.low, row.high)
    layer = _image(axis, map_, cmap=COLOURS, norm=scale, alpha=OPACITY, interpolation="nearest")
    if row.mark is not None:
        height, width = map_.shape
        centre = (row.mark[1] + 0.5) / width, (row.mark[0] + 0.5) / height
        axis.plot(*centre, "o", markersize=7, markerfacecolor="none", markeredgecolor="white", markeredgewidth=1.5)
    if row.box is not None:
        _outline(axis, row.box, "white")
    return grey, layer


def _outline(axis: Axes, box: Sequence[float], colour: str) -> None:
    left, top, right, bottom = box
    axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.5))


def _grey(picture: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(picture.convert("L"))


def _colour_bar(figure: Figure, axis: Axes, row: MapRow, quantity: str, orientation: str) -> None:
    """In the opacity that the maps have over a picture."""
    scale = ScalarMappable(Normalize(row.low, row.high), COLOURS)
    bar = figure.colorbar(scale, cax=axis, ticks=MaxNLocator(3), orientation=orientation, alpha=OPACITY)
    bar.set_label(quantity, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _wrapped(text: str, width: int) -> str:
    """Each line of a text broken into lines of at most about `width` characters."""
    return _plain("\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, max(width, 14))))


def _plain(text: str) -> str:
    """A text whose dollar signs matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
