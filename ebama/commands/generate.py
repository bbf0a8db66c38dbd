"""`generate`: make pictures of a prompt."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import METHOD_HELP, add_model, group, option, positive, seeds

if TYPE_CHECKING:
    from .arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("generate", help="make pictures of a prompt")
    parser.add_argument("prompt", nargs="?", help='what to draw, e.g. "a purple crown and a blue suitcase"')
    parser.add_argument("--seeds", type=seeds, default=[0], help="0:4 is 0 1 2 3; or 3; or 1,5,9 (default 0)")
    parser.add_argument("--method", default="ebama", help=f"{METHOD_HELP} (default: ebama)")
    parser.add_argument("--compare", nargs="+", default=[], metavar="METHOD", help="further methods at the same seeds")
    parser.add_argument(
        "--option",
        type=option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a hyper-parameter of --method",
    )
    parser.add_argument(
        "--group", type=group, action="append", metavar="OBJECT:MODIFIER,...", help="instead of parsing"
    )
    parser.add_argument("--negative", default="", help="negative prompt")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5, help="classifier-free guidance scale")
    parser.add_argument("--sampler", default="pndm", help="pndm or ddim")
    parser.add_argument("--parser", default="auto", help="auto, rules, or an installed spaCy model")
    parser.add_argument("--batch-size", type=positive, default=4, help="samples that run at once")
    parser.add_argument("--memory", metavar="SIZE", help="the most that may be in use, as 6GB; runs are cut to fit")
    defaults = vars(parser.parse_args([]))  # of all that says nothing beside --from-png
    parser.add_argument("--from-png", type=Path, metavar="FILE", help="make the picture of FILE again")
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    add_model(parser)
    parser.set_defaults(run=_run, defaults=defaults)


def _run(options: argparse.Namespace) -> None:
    from .. import generation, methods

    if (options.prompt is None) == (options.from_png is None):
        raise ValueError("Give either a prompt or --from-png FILE.")
    if options.from_png is not None:
        given = [name for name, default in options.defaults.items() if getattr(options, name) != default]
        if given:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(f"--from-png follows the file's recipe: leave {names} out, or give a prompt.")
        generation.again(options.from_png, options.out, options.weights, options.device, options.dtype)
        return
    recipe = generation.Recipe(
        prompt=options.prompt,
        steps=options.steps,
        guidance=options.guidance,
        sampler=options.sampler,
        negative_prompt=options.negative,
        groups=options.group,
        parser=options.parser,
    )
    method = "+".join((options.method, *options.option))
    systems = {text: methods.parse(text) for text in (method, *options.compare)}
    generation.generate(
        recipe,
        systems,
        options.seeds,
        options.out,
        batch_size=options.batch_size,
        weights=options.weights,
        device=options.device,
        dtype=options.dtype or "float32",
        memory=options.memory,
    )
