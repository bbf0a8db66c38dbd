"""`methods`: list the methods, what each changes and what a picture costs."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from .arguments import METHOD_HELP, add_shared

if TYPE_CHECKING:
    from .arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("methods", help="list the methods: what each changes, what a picture costs")
    parser.add_argument("prompt", nargs="?", default="a purple crown and a blue suitcase", help="to count the cost for")
    parser.add_argument("--method", nargs="+", default=[], metavar="METHOD", help=f"further rows; {METHOD_HELP}")
    add_shared(parser, "steps", "sampler")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ebama.models import SD_V1
    from ebama.samplers import get
    from ebama.weights import clip_tokenizer

    from .. import methods
    from ..prompt import Box, parse

    prompt, calls = parse(options.prompt, clip_tokenizer()), len(get(options.sampler, options.steps).timesteps)
    prompt = replace(prompt, groups=tuple(replace(group, box=Box(0, 0, 1, 1)) for group in prompt.groups))
    table = [["method", "changes", "reads", "forwards", "stopped early", "backwards", "reference"]]
    for method in (methods.complete(name, SD_V1) for name in (*methods.names(), *options.method)):
        cost = method.cost(prompt, calls)
        passes = [str(cost.predictions), str(cost.attention or "-"), str(cost.backwards or "-")]
        table.append([method.name, method.changes, method.needs.sites, *passes, method.reference])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(
        f"\nPasses of one sample through the U-Net, at most, for a picture of {options.prompt!r}: {options.sampler}, "
        f"{options.steps} steps, guidance, Stable Diffusion v1's defaults; a box for every object."
    )
