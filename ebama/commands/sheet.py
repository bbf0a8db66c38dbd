"""`sheet`: prompts x methods x seeds in one picture, as the paper's Figure 3."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import METHOD_HELP, add_model, positive, seeds

if TYPE_CHECKING:
    from .arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("sheet", help="one picture of prompts x methods x seeds")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT")
    parser.add_argument(
        "--method", nargs="+", default=["sd", "ebama"], metavar="METHOD", help=f"{METHOD_HELP} (default: sd ebama)"
    )
    parser.add_argument("--seeds", type=seeds, default=[0, 1], help="0:4 is 0 1 2 3; or 3; or 1,5,9 (default 0:2)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5, help="classifier-free guidance scale")
    parser.add_argument("--sampler", default="pndm", help="pndm or ddim")
    parser.add_argument("--negative", default="", help="negative prompt")
    parser.add_argument("--parser", default="auto", help="auto, rules, or an installed spaCy model")
    parser.add_argument("--batch-size", type=positive, default=4, help="samples that run at once")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    add_model(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    """Figure 3 of the paper: prompts x methods x seeds in one image, with every sample's recipe in it."""
    from .. import methods
    from ..output.naming import check_writable, new_path
    from ..trace import figures
    from ..trace.export import write_figure
    from .model import open_pipeline

    systems = {name: methods.parse(name) for name in options.method}
    check_writable(options.out)
    pipeline = open_pipeline(options.weights, options.device, options.dtype)
    images, recipes = [], []
    for prompt in options.prompts:
        results = [
            pipeline(
                prompt,
                seeds=options.seeds,
                method=method,
                steps=options.steps,
                guidance=options.guidance,
                sampler=options.sampler,
                negative_prompt=options.negative,
                parser=options.parser,
                batch_size=options.batch_size,
            )
            for method in systems.values()
        ]
        images.append([result.images or [] for result in results])
        recipes += [metadata for result in results for metadata in result.metadata]
    figure = figures.comparison(images, options.prompts, list(systems), options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    write_figure(figure, new_path(options.out / f"sheet.{options.format}"), {"pictures": recipes})
