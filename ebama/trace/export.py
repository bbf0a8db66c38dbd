"""Figures and the numbers behind them as files, each written whole or not at all."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..output.claims import write_new
from ..output.files import written_whole
from ..output.png import encoded
from .curves import Curves
from .figures import rendered, usual_style

FRAME_MS = 120


def write_figure(figure: Figure, path: Path, metadata: dict[str, Any]) -> None:
    """As PNG, with `metadata` in it, or as SVG; under `path` or, if that is taken, a numbered name beside it."""

    def write(partial: Path) -> None:
        if path.suffix == ".png":
            partial.write_bytes(encoded(rendered(figure), metadata))
        else:
            with usual_style():
                figure.savefig(partial, format="svg", metadata={"Date": None})

    print(write_new(path, write), flush=True)


def write_animation(frames: Iterator[Image.Image], path: Path) -> None:
    """A GIF or WebP that repeats, its last frame held."""
    gif = path.suffix == ".gif"
    first, *rest = (frame.quantize(128, dither=Image.Dither.NONE) if gif else frame for frame in frames)
    durations = [FRAME_MS] * len(rest) + [10 * FRAME_MS]
    options: dict[str, Any] = {} if gif else {"quality": 80, "method": 4}
    with written_whole(path) as partial:
        first.save(
            partial, format=path.suffix[1:], save_all=True, append_images=rest, duration=durations, loop=0, **options
        )
    print(path, flush=True)


def write_numbers(path: Path, systems: Mapping[str, Sequence[Curves]]) -> None:
    """The curves of every method, as `path`.csv (one number a line) and `path`.npz.

    The arrays of the latter: `timesteps` [calls], and for each method and quantity `METHOD/QUANTITY` [lines, calls]
    and `METHOD/QUANTITY/labels`.
    """
    arrays: dict[str, Any] = {}
    with written_whole(path.with_suffix(".csv")) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("method", "quantity", "label", "call", "timestep", "value"))
        for name, quantities in systems.items():
            for curves in quantities:
                arrays["timesteps"] = np.array(curves.timesteps)
                arrays[f"{name}/{curves.quantity}"] = curves.values
                arrays[f"{name}/{curves.quantity}/labels"] = np.array(curves.labels, dtype=str)
                for label, values in zip(curves.labels, curves.values, strict=True):
                    for call, (t, value) in enumerate(zip(curves.timesteps, values, strict=True)):
                        table.writerow((name, curves.quantity, label, call, t, f"{value:.6g}"))
    print(path.with_suffix(".csv"), flush=True)
    with written_whole(path.with_suffix(".npz")) as partial, partial.open("wb") as binary:
        np.savez_compressed(binary, **arrays)
    print(path.with_suffix(".npz"), flush=True)
