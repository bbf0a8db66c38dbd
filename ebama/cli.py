"""The command line: `generate` makes pictures, `methods` lists the ways to, `inspect` says what a checkpoint holds."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from . import __version__


class _Parser(argparse.ArgumentParser):
    """Errors are one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows what there is)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it worked, 2 with one line on stderr for bad input, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            options.run(options)
        except KeyboardInterrupt:
            print("interrupted; pictures that were finished are kept", file=sys.stderr)
            return 130
        except (ValueError, OSError, ArithmeticError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="train_free.py", description="Training-free guidance of text-to-image models by attention.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    generate = commands.add_parser("generate", help="make pictures of a prompt")
    generate.add_argument("prompt", nargs="?", help='what to draw, e.g. "a purple crown and a blue suitcase"')
    generate.add_argument("--seeds", type=_seeds, default=[0], help="0:4 is 0 1 2 3; or 3; or 1,5,9 (default 0)")
    generate.add_argument("--method", default="ebama", help="default: ebama")
    generate.add_argument(
        "--compare", nargs="+", default=[], metavar="METHOD", help="further methods at the same seeds"
    )
    generate.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a hyper-parameter of --method",
    )
    generate.add_argument(
        "--group", type=_group, action="append", metavar="OBJECT:MODIFIER,...", help="instead of parsing"
    )
    generate.add_argument("--negative", default="", help="negative prompt")
    generate.add_argument("--steps", type=int, default=50)
    generate.add_argument("--guidance", type=float, default=7.5, help="classifier-free guidance scale")
    generate.add_argument("--sampler", default="pndm", help="pndm or ddim")
    generate.add_argument("--parser", default="auto", help="auto, rules, or an installed spaCy model")
    generate.add_argument("--batch-size", type=_positive, default=4, help="samples that run at once")
    generate.add_argument("--from-png", type=Path, metavar="FILE", help="make the picture of FILE again")
    generate.add_argument("--out", type=Path, default=Path("outputs"))
    _add_model(generate)
    generate.set_defaults(run=_generate)

    methods = commands.add_parser("methods", help="list the methods: what each changes, what a picture costs")
    methods.add_argument(
        "prompt", nargs="?", default="a purple crown and a blue suitcase", help="to count the cost for"
    )
    methods.add_argument("--steps", type=int, default=50)
    methods.add_argument("--sampler", default="pndm", help="pndm or ddim")
    methods.set_defaults(run=_methods)

    inspect = commands.add_parser("inspect", help="say what a checkpoint is and holds, without opening its weights")
    inspect.add_argument("checkpoint", type=Path)
    inspect.add_argument("--json", action="store_true")
    inspect.set_defaults(run=_inspect)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=Path, help="a Stable Diffusion v1 checkpoint; default: the embedded miniature"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32")


def _generate(options: argparse.Namespace) -> None:
    from . import generation

    if (options.prompt is None) == (options.from_png is None):
        raise ValueError("Give either a prompt or --from-png FILE.")
    if options.from_png is not None:
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
    methods = {options.method: dict(options.option), **{name: {} for name in options.compare if name != options.method}}
    generation.generate(
        recipe,
        methods,
        options.seeds,
        options.out,
        batch_size=options.batch_size,
        weights=options.weights,
        device=options.device,
        dtype=options.dtype or "float32",
    )


def _methods(options: argparse.Namespace) -> None:
    from ebama.samplers import get
    from ebama.weights import clip_tokenizer

    from .methods import overview
    from .prompt import parse

    calls = len(get(options.sampler, options.steps).timesteps)
    rows = overview(parse(options.prompt, clip_tokenizer()), calls)
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(
        f"\nPasses of one sample through the U-Net, at most, for a picture of {options.prompt!r}: {options.sampler}, "
        f"{options.steps} steps, guidance, Stable Diffusion v1's defaults."
    )


def _inspect(options: argparse.Namespace) -> None:
    from ebama.weights import inspect

    found = inspect(options.checkpoint)
    print(json.dumps(found.as_dict(), indent=2, default=str) if options.json else found)


def _seeds(text: str) -> list[int]:
    try:
        seeds: list[int] = []
        for part in text.split(","):
            first, colon, end = part.partition(":")
            seeds += range(int(first), int(end)) if colon else [int(first)]
        if not seeds or min(seeds) < 0:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} names no seeds; expected 0:4 (0 1 2 3), 3, or 1,5,9") from None
    return seeds


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no option; expected NAME=VALUE, e.g. step_size=5")
    try:
        return name, json.loads(value.lower())
    except json.JSONDecodeError:
        return name, value


def _group(text: str) -> tuple[str, list[str]]:
    noun, _, modifiers = text.partition(":")
    return noun.strip(), [word.strip() for word in modifiers.split(",") if word.strip()]


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=sys.stderr)
