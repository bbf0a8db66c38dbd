"""`attention`: maps of a prompt's words over time, and the curves of the paper's Figure 1, as pictures."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import METHOD_HELP, add_model, group

if TYPE_CHECKING:
    from .arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("attention", help="draw a prompt's attention maps and curves over the steps")
    parser.add_argument("prompt", help='what to draw, e.g. "a purple crown and a blue suitcase"')
    parser.add_argument(
        "--method",
        nargs="+",
        default=["sd", "ebama"],
        metavar="METHOD",
        help=f"at the same seed; {METHOD_HELP} (default: sd ebama)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", nargs="+", default=[], metavar="WORD", help="default: the objects and modifiers")
    parser.add_argument("--calls", nargs="+", type=int, default=[], metavar="N", help="model calls to show, from 0")
    parser.add_argument(
        "--of", choices=("probabilities", "scores"), default="probabilities", help="after softmax, or before"
    )
    parser.add_argument("--kind", choices=("cross", "self"), default="cross", help="of the layers (default: cross)")
    parser.add_argument("--resolution", type=int, metavar="SIDE", help="of the maps (default: the one that guides)")
    parser.add_argument("--sites", nargs="+", default=[], metavar="NAME", help="single layers instead")
    parser.add_argument("--head", type=int, metavar="N", help="one head of each layer (default: their mean)")
    parser.add_argument("--pixels", nargs="+", type=_pixel, default=[], metavar="Y,X", help="for self-attention")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    parser.add_argument("--animate", choices=("gif", "webp"), help="also a moving picture of all calls")
    parser.add_argument(
        "--group", type=group, action="append", metavar="OBJECT:MODIFIER,...", help="instead of parsing"
    )
    parser.add_argument("--negative", default="", help="negative prompt")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5, help="classifier-free guidance scale")
    parser.add_argument("--sampler", default="pndm", help="pndm or ddim")
    parser.add_argument("--parser", default="auto", help="auto, rules, or an installed spaCy model")
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    add_model(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from .. import generation, illustration
    from ..trace import TraceOptions

    recipe = generation.Recipe(
        prompt=options.prompt,
        steps=options.steps,
        guidance=options.guidance,
        sampler=options.sampler,
        negative_prompt=options.negative,
        groups=options.group,
        parser=options.parser,
    )
    view = illustration.View(
        words=tuple(options.words),
        pixels=tuple(options.pixels),
        calls=tuple(options.calls),
        of=options.of,
        trace=TraceOptions(
            kind=options.kind, resolution=options.resolution, sites=tuple(options.sites), head=options.head
        ),
        form=options.format,
        animation=options.animate,
    )
    opened = partial(generation.open_pipeline, options.weights, options.device, options.dtype or "float32")
    illustration.attention(opened, recipe, list(dict.fromkeys(options.method)), options.seed, view, options.out)


def _pixel(text: str) -> tuple[int, int]:
    y, comma, x = text.partition(",")
    if not (comma and y.isdecimal() and x.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no pixel; expected ROW,COLUMN, as 8,3")
    return int(y), int(x)
