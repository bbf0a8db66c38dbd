"""The arguments that several commands share: how they are declared, what their texts mean, what they say to a run."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..output.seeds import parse as parse_seeds
from ..prompt.lexicon import PICTURE_WORDS

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


MODEL = ("weights", "prediction", "device", "dtype")
"""The options of every command that opens a model, see `model.open_pipeline`."""
SAMPLING = ("steps", "guidance", "sampler", "size", "negative", "parser", "ignore")
"""The options of every command that makes pictures of prompts, see `sampling`."""
METHOD_HELP = "a name, or with options NAME+OPTION=VALUE+..., as ebama+intensity_weight=0, or several as syngen,ane"


def add_shared(parser: argparse.ArgumentParser, *names: str, **defaults: Any) -> None:
    """Declare some of the shared options, in that order; `defaults` replace theirs."""
    for name in names:
        options = dict(_SHARED[name])
        if name in defaults:
            options["default"] = defaults[name]
        parser.add_argument("--" + name.replace("_", "-"), **options)


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """The options SAMPLING as arguments of `Pipeline.__call__`."""
    return {
        "steps": options.steps,
        "guidance": options.guidance,
        "sampler": options.sampler,
        "size": options.size,
        "negative_prompt": options.negative,
        "parser": options.parser,
        "ignore": options.ignore,
    }


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


def path(text: str) -> Path:
    """A path, also one with "~" behind an equals sign, as in --out=~/pictures, which few shells expand; none that is
    empty, as variables are that nobody set, or ends as lines of Windows do."""
    if not text.strip() or text.endswith("\r"):
        raise argparse.ArgumentTypeError(f"{text!r} is no path; look at the variable or the script that it is from")
    return Path(os.path.expanduser(text))


def option(text: str) -> str:
    """NAME=VALUE."""
    if not re.match("[a-z_]+=", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no option; expected NAME=VALUE, e.g. step_size=5")
    return text


def group(text: str) -> tuple[str, list[str]]:
    """OBJECT:MODIFIER,... as words."""
    noun, _, modifiers = text.partition(":")
    return noun.strip(), words(modifiers)


def words(text: str) -> list[str]:
    """WORD,... as words."""
    return [word.strip() for word in text.split(",") if word.strip()]


def box(text: str) -> tuple[str, tuple[float, ...]]:
    """WORD:LEFT,TOP,RIGHT,BOTTOM."""
    word, _, sides = text.rpartition(":")
    try:
        numbers = tuple(float(side) for side in sides.split(","))
    except ValueError:
        numbers = ()
    if not word.strip() or len(numbers) != 4:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no box; expected WORD:LEFT,TOP,RIGHT,BOTTOM in fractions of the picture, e.g. "
            "crown:0,0.2,0.5,0.8"
        )
    return word.strip(), numbers


def size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected HEIGHTxWIDTH in pixels, e.g. 768x512")
    return int(height), int(width)


def boxes(pairs: list[tuple[str, tuple[float, ...]]] | None) -> dict[str, tuple[float, ...]] | None:
    """The boxes of all --box together; ValueError for a word with two."""
    words = [word for word, _ in pairs or ()]
    if twice := [word for word in words if words.count(word) > 1]:
        raise ValueError(f"--box names {twice[0]!r} twice; the second one of a prompt is {twice[0]}#2.")
    return dict(pairs) if pairs else None


_SHARED: dict[str, dict[str, Any]] = {
    "method": {
        "nargs": "+",
        "default": ["sd", "ebama"],
        "metavar": "METHOD",
        "help": f"at the same seeds; {METHOD_HELP} (default: sd ebama)",
    },
    "seeds": {"type": seeds, "default": "0", "help": "0:4 is 0 1 2 3; or 3; or 1,5,9 (default %(default)s)"},
    "group": {"type": group, "action": "append", "metavar": "OBJECT:MODIFIER,...", "help": "instead of parsing"},
    "box": {
        "type": box,
        "action": "append",
        "metavar": "WORD:L,T,R,B",
        "help": "where an object should be, in fractions of the picture; for methods that read boxes",
    },
    "negative": {"default": "", "help": "negative prompt"},
    "steps": {"type": int, "default": 50},
    "guidance": {"type": float, "default": 7.5, "help": "classifier-free guidance scale"},
    "sampler": {"default": "pndm", "help": "pndm or ddim"},
    "parser": {"default": "auto", "help": "auto, rules, or an installed spaCy model"},
    "ignore": {
        "type": words,
        "default": PICTURE_WORDS,
        "metavar": "WORD,...",
        "help": "no objects of a prompt (default: words for the picture itself, as 'photo of'; '' for none)",
    },
    "size": {"type": size, "metavar": "HxW", "help": "height and width in pixels, e.g. 768x512; default: the model's"},
    "prediction": {"choices": ("epsilon", "v"), "help": "what the U-Net predicts; default: what the checkpoint says"},
    "batch_size": {"type": positive, "default": 4, "help": "samples that run at once"},
    "out": {"type": path, "default": Path("outputs")},
    "format": {"choices": ("png", "svg"), "default": "png"},
    "weights": {"type": path, "help": "a Stable Diffusion checkpoint (v1, 2, XL); default: the embedded miniature"},
    "device": {"default": "cpu"},
    "dtype": {"choices": ("float32", "float16", "bfloat16"), "help": "default: float32"},
}
