"""`attention`: maps of a prompt's words over time, and the curves of the paper's Figure 1, as pictures."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import MODEL, SAMPLING, add_shared, boxes, path, sampling

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from ..result import Result
    from ..trace import Trace
    from ..trace.map_rows import MapRow
    from .arguments import Commands

COLUMNS = 6


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("attention", help="draw a prompt's attention maps and curves over the steps")
    parser.add_argument("prompt", help='what to draw, e.g. "a purple crown and a blue suitcase"')
    parser.add_argument(
        "--image",
        type=path,
        metavar="FILE",
        help="a picture that the prompt describes: it is inverted, and every method starts there, by DDIM and with "
        "--guidance 1 if none is given",
    )
    add_shared(parser, "method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", nargs="+", default=[], metavar="WORD", help="default: the objects and modifiers")
    parser.add_argument("--calls", nargs="+", type=int, default=[], metavar="N", help="model calls to show, from 0")
    parser.add_argument(
        "--of", choices=("probabilities", "scores"), default="probabilities", help="after softmax, or before"
    )
    parser.add_argument("--kind", choices=("cross", "self"), default="cross", help="of the layers (default: cross)")
    parser.add_argument(
        "--resolution", type=_number_or_all, metavar="SIDE", help="of the maps, or all (default: the one that guides)"
    )
    parser.add_argument("--sites", nargs="+", default=[], metavar="NAME", help="single layers instead")
    parser.add_argument("--by-site", action="store_true", help="beside their mean each layer, to choose from on a page")
    parser.add_argument(
        "--head", type=_number_or_all, metavar="N", help="one head of each layer, or all (default: their mean)"
    )
    parser.add_argument("--pixels", nargs="+", type=_pixel, default=[], metavar="Y,X", help="for self-attention")
    parser.add_argument(
        "--format", choices=("png", "svg", "html"), default="png", help="html: the maps as a page to point and slide in"
    )
    parser.add_argument("--animate", choices=("gif", "webp"), help="also a moving picture of all calls")
    add_shared(parser, "group", "box", *SAMPLING, "out", *MODEL, guidance=None)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    """Run every method once at the same seed; draw a grid of maps for each, and their curves side by side.

    What can be checked without a run is checked before the first.
    """
    from ebama.samplers import get

    from .. import methods
    from ..output.claims import new_folder
    from ..output.files import check_folder
    from ..output.naming import slug
    from ..output.png import read_picture
    from ..prompt import PromptError, parse
    from ..prompt.words import find
    from ..trace import TraceOptions
    from ..trace.map_rows import map_rows, share_scales
    from .model import check_drawing, open_pipeline

    check_drawing()
    if options.format != "html" and (options.by_site or "all" in (options.head, options.resolution)):
        raise ValueError("--by-site, --head all and --resolution all are to choose from on a page; add --format html.")
    if options.pixels and options.kind != "self":
        raise ValueError("Pixels are for self-attention; give words, or choose --kind self.")
    names = ("kind", "resolution", "sites", "by_site", "head")
    trace_options = TraceOptions(**{name: getattr(options, name) for name in names}, latents=True)
    systems = {name: methods.parse(name) for name in options.method}
    image = None if options.image is None else read_picture(options.image)
    if image is not None:
        options.sampler = "ddim"
    if options.guidance is None:
        options.guidance = 7.5 if image is None else 1.0
    calls = _calls(options.calls, len(get(options.sampler, options.steps).timesteps))
    folder = options.out / slug(options.prompt) / f"attention-seed{options.seed:04d}"
    check_folder(folder.parent)
    pipeline = open_pipeline(options)
    if options.words and options.kind == "cross":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # words that the encoder does not see, of which the runs warn
            reading = parse(options.prompt, pipeline.sd.tokenizer, "rules", groups=())
        for word in options.words:
            find(reading, word)
    arguments = {"seeds": [options.seed], "groups": options.group, "trace": trace_options, **sampling(options)}
    arguments["boxes"] = boxes(options.box)
    if options.group is None:  # the same objects for all, so that methods that need none are measured by them too
        with suppress(PromptError):
            tokenizer = pipeline.sd.tokenizer
            arguments["groups"] = parse(options.prompt, tokenizer, options.parser, ignore=options.ignore).groups
    if image is not None:
        arguments["image"] = pipeline.invert(image, options.prompt, steps=options.steps, size=options.size)
    runs: dict[str, tuple[Result, Trace]] = {}
    rows: dict[str, list[MapRow]] = {}
    for name, method in systems.items():
        result = pipeline(options.prompt, method=method, **arguments)
        assert result.trace is not None
        runs[name] = result, result.trace
        rows[name] = map_rows(result.trace, options.words, options.pixels, options.of)
    folder = new_folder(folder)
    if options.format == "html":
        _write_page(options, runs, folder)
    _draw_maps(options, pipeline, runs, share_scales(rows), calls, folder)
    if options.kind == "cross":
        _draw_curves(options, runs, folder)


def _draw_maps(
    options: argparse.Namespace,
    pipeline: Pipeline,
    runs: Mapping[str, tuple[Result, Trace]],
    rows: Mapping[str, Sequence[MapRow]],
    calls: Sequence[int],
    folder: Path,
) -> None:
    """For each method the grid of its maps at some of the model calls, if not a page, and the animation of all."""
    from dataclasses import replace

    from ..output.naming import file_name
    from ..trace import figures
    from ..trace.export import write_animation, write_figure
    from ..trace.map_rows import describe

    unit = {"probabilities": "probability", "scores": "score"}[options.of]
    for name, (result, trace) in runs.items():
        columns = [f"call {i}\nt = {t}" for i, t in enumerate(trace.timesteps)]
        title = f"{options.prompt} · {name} · seed {options.seed}\n{describe(trace)}"
        shown = [replace(row, maps=row.maps[calls]) for row in rows[name]]
        if options.format != "html":
            images = pipeline.decode(trace.latents[0][calls])
            grid = figures.map_grid(title, images, [columns[i] for i in calls], shown, unit)
            write_figure(grid, folder / f"maps-{file_name(name)}.{options.format}", result.metadata[0])
        if options.animate:
            images = pipeline.decode(trace.latents[0])
            frames = figures.map_frames(title, images, columns, rows[name], unit)
            write_animation(frames, folder / f"maps-{file_name(name)}.{options.animate}")


def _write_page(options: argparse.Namespace, runs: Mapping[str, tuple[Result, Trace]], folder: Path) -> None:
    """The maps of all methods on one page; every word has one scale for all."""
    from ..output.files import write_text
    from ..trace.view import Shown, document

    pictures = [Shown(name, trace) for name, (_, trace) in runs.items()]
    page = document(
        pictures, of=options.of, chosen_words=options.words, pixels=options.pixels, calls=tuple(options.calls)
    )
    write_text(folder / "maps.html", page)
    print(folder / "maps.html", flush=True)


def _draw_curves(options: argparse.Namespace, runs: Mapping[str, tuple[Result, Trace]], folder: Path) -> None:
    """The paper's Figure 1, if the prompt has objects, and its numbers."""
    from ..trace import curves, figures
    from ..trace.export import write_figure, write_numbers
    from ..trace.map_rows import describe

    numbers = {
        name: [lines for lines in (curves.intensity(trace), curves.similarity(trace)) if lines.labels]
        for name, (_, trace) in runs.items()
    }
    if not any(numbers.values()):
        return
    systems = [(name, (result.images or [])[0], numbers[name]) for name, (result, _) in runs.items()]
    _, trace = next(iter(runs.values()))
    title = f"{options.prompt} · seed {options.seed}\n{describe(trace)}"
    metadata = {"pictures": [result.metadata[0] for result, _ in runs.values()]}
    kind = "png" if options.format == "html" else options.format
    write_figure(figures.curves_figure(title, systems), folder / f"curves.{kind}", metadata)
    write_numbers(folder / "curves", numbers)


def _calls(wanted: Sequence[int], total: int) -> list[int]:
    """The model calls to show, negative ones from the end; without any, six that are evenly spread."""
    if not wanted:
        return sorted({round(k * (total - 1) / (COLUMNS - 1)) for k in range(COLUMNS)})
    for call in wanted:
        if not -total <= call < total:
            raise ValueError(f"call {call} is not among the {total} model calls; they count from 0 to {total - 1}.")
    return [call % total for call in wanted]


def _number_or_all(text: str) -> int | str:
    try:
        return text if text == "all" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; expected one, or all") from None


def _pixel(text: str) -> tuple[int, int]:
    y, comma, x = text.partition(",")
    if not (comma and y.isdecimal() and x.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no pixel; expected ROW,COLUMN, as 8,3")
    return int(y), int(x)
