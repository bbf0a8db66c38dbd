"""`sheet`: prompts x methods x seeds in one picture, as the paper's Figure 3."""

from __future__ import annotations

import argparse
from dataclasses import astuple
from typing import TYPE_CHECKING

from .arguments import MODEL, SAMPLING, add_shared, boxes, sampling

if TYPE_CHECKING:
    from .arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("sheet", help="one picture of prompts x methods x seeds")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT")
    add_shared(parser, "method", "seeds", "box", *SAMPLING, "batch_size", "format", "out", *MODEL, seeds="0:2")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    """Figure 3 of the paper: prompts x methods x seeds in one image, with every sample's recipe in it."""
    from .. import methods
    from ..output.files import check_folder
    from ..prompt import Box
    from .model import check_drawing, check_prompts, open_pipeline

    check_drawing()
    from ..trace import figures
    from ..trace.export import write_figure

    systems = {name: methods.parse(name) for name in options.method}
    placed = boxes(options.box)
    check_folder(options.out)
    pipeline = open_pipeline(options)
    check_prompts(pipeline, options.prompts, systems.values(), options, boxes=placed)
    images, recipes = [], []
    for prompt in options.prompts:
        results = [
            pipeline(
                prompt,
                seeds=options.seeds,
                method=method,
                boxes=placed,
                batch_size=options.batch_size,
                **sampling(options),
            )
            for method in systems.values()
        ]
        images.append([result.images or [] for result in results])
        recipes += [metadata for result in results for metadata in result.metadata]
    sides = [astuple(Box.of(sides)) for sides in (placed or {}).values()]
    figure = figures.comparison(images, options.prompts, list(systems), options.seeds, sides)
    options.out.mkdir(parents=True, exist_ok=True)
    write_figure(figure, options.out / f"sheet.{options.format}", {"pictures": recipes})
