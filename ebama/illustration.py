"""What the commands `attention` and `sheet` do: run, draw, and write figures with the numbers behind them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ebama.samplers import get

from . import methods
from .generation import Recipe, check_writable, slug
from .output.files import replacing
from .output.png import save_png
from .pipeline import Pipeline, Result
from .prompt import PromptError, parse
from .trace import Quantity, Trace, TraceOptions, curves, figures

COLUMNS = 6
FRAME_MS = 120
UNITS: dict[Quantity, str] = {"probabilities": "probability", "scores": "score"}


@dataclass(frozen=True)
class View:
    """What to look at.

    Attributes:
        words: whose maps are drawn; none for the objects and their modifiers, or all words where there are no objects.
        pixels: (y, x) for self-attention instead of words; none for the one in the middle.
        calls: model calls shown in the grid, negative ones from the end; none for six, evenly spread.
        of: maps before or after softmax.
        trace: which layers and heads.
        form: of the figures, "png" or "svg".
        animation: "gif" or "webp" for a moving picture of all calls, None for none.
    """

    words: tuple[str, ...] = ()
    pixels: tuple[tuple[int, int], ...] = ()
    calls: tuple[int, ...] = ()
    of: Quantity = "probabilities"
    trace: TraceOptions = field(default_factory=TraceOptions)
    form: str = "png"
    animation: str | None = None


def attention(
    open_model: Callable[[], Pipeline], recipe: Recipe, names: Sequence[str], seed: int, view: View, out: Path
) -> None:
    """Run every method once at the same seed; write a grid of maps for each, and their curves side by side.

    What can be checked without a run is checked before the first.
    """
    chosen = {name: methods.parse(name) for name in names}
    calls = _calls(view.calls, len(get(str(recipe.sampler), recipe.steps).timesteps))
    check_writable(out)
    pipeline = open_model()
    groups = _groups(pipeline, recipe) if recipe.groups is None else recipe.groups
    kept = replace(view.trace, scores=True, probabilities=True, latents=True)
    results: dict[str, Result] = {}
    for name, method in chosen.items():
        results[name] = pipeline(
            recipe.prompt,
            seeds=[seed],
            method=method,
            steps=recipe.steps,
            guidance=recipe.guidance,
            sampler=recipe.sampler,
            groups=groups,
            negative_prompt=recipe.negative_prompt,
            parser=recipe.parser,
            trace=kept,
        )
        rows_of(_trace(results[name]), view)  # what cannot be drawn stops here, after the first run
    rows = _scaled({name: rows_of(_trace(result), view) for name, result in results.items()})
    folder = _new_folder(out / slug(recipe.prompt), f"attention-seed{seed:04d}")
    for name, result in results.items():
        trace = _trace(result)
        columns = [f"call {i}\nt = {t}" for i, t in enumerate(trace.timesteps)]
        title = f"{recipe.prompt} · {name} · seed {seed}\n{describe(trace)}"
        some = [replace(row, maps=row.maps[calls]) for row in rows[name]]
        pictures = pipeline.decode(trace.latents[0][calls])
        grid = figures.map_grid(title, pictures, [columns[i] for i in calls], some, UNITS[view.of])
        write_figure(grid, folder / f"maps-{name}.{view.form}", result.metadata[0])
        if view.animation:
            moments = pipeline.decode(trace.latents[0])
            frames = figures.map_frames(title, moments, columns, rows[name], UNITS[view.of])
            write_animation(frames, folder / f"maps-{name}.{view.animation}")
    if kept.kind == "cross":
        _write_curves(results, recipe.prompt, seed, folder, view)


def sheet(
    pipeline: Pipeline,
    recipes: Sequence[Recipe],
    names: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    *,
    batch_size: int,
    form: str,
) -> None:
    """Figure 3 of the paper: prompts x methods x seeds in one picture, with every picture's recipe in it."""
    chosen = [methods.parse(name) for name in names]
    pictures: list[list[list[Image.Image]]] = []
    recipes_of: list[dict[str, Any]] = []
    for recipe in recipes:
        block = []
        for method in chosen:
            result = pipeline(
                recipe.prompt,
                seeds=list(seeds),
                method=method,
                steps=recipe.steps,
                guidance=recipe.guidance,
                sampler=recipe.sampler,
                negative_prompt=recipe.negative_prompt,
                parser=recipe.parser,
                batch_size=batch_size,
            )
            assert result.images is not None
            block.append(result.images)
            recipes_of += result.metadata
        pictures.append(block)
    figure = figures.comparison(pictures, [recipe.prompt for recipe in recipes], names, seeds)
    out.mkdir(parents=True, exist_ok=True)
    write_figure(figure, _new(out / f"sheet.{form}"), {"pictures": recipes_of})


def rows_of(trace: Trace, view: View) -> list[figures.MapRow]:
    """The maps of every word (or pixel) at every call, each drawn on its own scale: from 0, or its least value if that
    is below, to its largest."""
    rows: list[figures.MapRow] = []
    if trace.sites[0].kind == "self":
        height, width = trace.sites[0].resolution
        for y, x in view.pixels or [(height // 2, width // 2)]:
            if not (0 <= y < height and 0 <= x < width):
                raise ValueError(f"pixel {y},{x} does not lie in maps of {height}x{width}; they count from 0,0.")
            maps = trace.maps(y * width + x, of=view.of).numpy()
            rows.append(_row(f"looks at\n({y}, {x})", maps, (y, x)))
        return rows
    if view.pixels:
        raise ValueError("Pixels are for self-attention; give words, or choose the kind self.")
    prompt = trace.prompts[0]
    words: list[tuple[str, str | tuple[int, ...]]] = [(word, word) for word in view.words]
    if not words:
        pieces = [word for group in prompt.groups for word in (*group.modifiers, group.object)]
        words = [(prompt.text(*word), word) for word in pieces] or list(trace.words())
    return [_row(label, trace.maps(word, of=view.of).numpy()) for label, word in words]


def describe(trace: Trace) -> str:
    """Which maps these are."""
    site = trace.sites[0]
    heads = "mean over heads" if trace.head is None else f"head {trace.head}"
    layers = site.name if len(trace.sites) == 1 else f"{len(trace.sites)} layers"
    return f"{site.kind}-attention {site.resolution[0]}x{site.resolution[1]}, {layers}, {heads}"


def write_figure(figure: Figure, path: Path, metadata: dict[str, Any]) -> None:
    """As PNG, with `metadata` in it, or as SVG; the file appears whole or not at all."""
    if path.suffix == ".png":
        save_png(figures.rendered(figure), path, metadata)
    else:
        with replacing(path) as partial:
            figure.savefig(partial, format="svg")
    print(path, flush=True)


def write_animation(frames: Iterator[Image.Image], path: Path) -> None:
    """A GIF or WebP that repeats, its last frame held."""
    gif = path.suffix == ".gif"
    first, *rest = (frame.quantize(128, dither=Image.Dither.NONE) if gif else frame for frame in frames)
    durations = [FRAME_MS] * len(rest) + [10 * FRAME_MS]
    options: dict[str, Any] = {} if gif else {"quality": 80, "method": 4}
    with replacing(path) as partial:
        first.save(
            partial, format=path.suffix[1:], save_all=True, append_images=rest, duration=durations, loop=0, **options
        )
    print(path, flush=True)


def write_numbers(path: Path, systems: Mapping[str, Sequence[curves.Curves]]) -> None:
    """The curves of every method, as `path`.csv (one number a line) and `path`.npz.

    The arrays of the latter: `timesteps` [calls], and for each method and quantity `METHOD/QUANTITY` [lines, calls]
    and `METHOD/QUANTITY/labels`.
    """
    arrays: dict[str, Any] = {}
    with replacing(path.with_suffix(".csv")) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("method", "quantity", "label", "call", "timestep", "value"))
        for name, found in systems.items():
            for each in found:
                arrays["timesteps"] = np.array(each.timesteps)
                arrays[f"{name}/{each.quantity}"] = each.values
                arrays[f"{name}/{each.quantity}/labels"] = np.array(each.labels, dtype=str)
                for label, values in zip(each.labels, each.values, strict=True):
                    for call, (t, value) in enumerate(zip(each.timesteps, values, strict=True)):
                        table.writerow((name, each.quantity, label, call, t, f"{value:.6g}"))
    print(path.with_suffix(".csv"), flush=True)
    with replacing(path.with_suffix(".npz")) as partial, partial.open("wb") as binary:
        np.savez_compressed(binary, **arrays)
    print(path.with_suffix(".npz"), flush=True)


def _write_curves(results: dict[str, Result], prompt: str, seed: int, folder: Path, view: View) -> None:
    numbers: dict[str, list[curves.Curves]] = {}
    systems = []
    for name, result in results.items():
        assert result.images is not None
        found = (curves.intensity(_trace(result)), curves.similarity(_trace(result)))
        numbers[name] = [each for each in found if each.labels]
        systems.append((name, result.images[0], numbers[name]))
    if not any(numbers.values()):
        return
    title = f"{prompt} · seed {seed}\n{describe(_trace(next(iter(results.values()))))}"
    metadata = {"pictures": [result.metadata[0] for result in results.values()]}
    write_figure(figures.curves_figure(title, systems), folder / f"curves.{view.form}", metadata)
    write_numbers(folder / "curves", numbers)


def _groups(pipeline: Pipeline, recipe: Recipe) -> Any:
    """The objects, so that methods that need none are measured by the same ones; none where the prompt has none."""
    try:
        return parse(recipe.prompt, pipeline.sd.tokenizer, recipe.parser).groups
    except PromptError:
        return None


def _row(label: str, maps: figures.Maps, mark: tuple[int, int] | None = None) -> figures.MapRow:
    return figures.MapRow(label, maps, min(0.0, float(maps.min())), float(maps.max()), mark)


def _scaled(rows: dict[str, list[figures.MapRow]]) -> dict[str, list[figures.MapRow]]:
    """Each word's scale is the same for all methods."""
    limits = [
        (min(row.low for row in same), max(row.high for row in same)) for same in zip(*rows.values(), strict=True)
    ]
    return {
        name: [replace(row, low=low, high=high) for row, (low, high) in zip(own, limits, strict=True)]
        for name, own in rows.items()
    }


def _calls(wanted: Sequence[int], total: int) -> list[int]:
    if not wanted:
        return sorted({round(k * (total - 1) / (COLUMNS - 1)) for k in range(COLUMNS)})
    for call in wanted:
        if not -total <= call < total:
            raise ValueError(f"call {call} is not among the {total} model calls; they count from 0 to {total - 1}.")
    return [call % total for call in wanted]


def _trace(result: Result) -> Trace:
    assert result.trace is not None
    return result.trace


def _new_folder(parent: Path, name: str) -> Path:
    """A folder that was not there: nothing is overwritten."""
    folder = _new(parent / name)
    folder.mkdir(parents=True)
    return folder


def _new(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate
