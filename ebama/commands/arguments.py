"""What arguments of several commands mean, and the options that they share."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..output.seeds import parse as parse_seeds

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


METHOD_HELP = "a name, or with options NAME+OPTION=VALUE+..., as ebama+intensity_weight=0"


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that say which model runs, where and in which precision."""
    parser.add_argument(
        "--weights", type=Path, help="a Stable Diffusion v1 checkpoint; default: the embedded miniature"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32")


def seeds(text: str) -> list[int]:
    """The seeds that a text such as 0:4, 3 or 1,5,9 names."""
    try:
        return parse_seeds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def option(text: str) -> str:
    """NAME=VALUE."""
    if not re.match("[a-z_]+=", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no option; expected NAME=VALUE, e.g. step_size=5")
    return text


def group(text: str) -> tuple[str, list[str]]:
    """OBJECT:MODIFIER,... as words."""
    noun, _, modifiers = text.partition(":")
    return noun.strip(), [word.strip() for word in modifiers.split(",") if word.strip()]
