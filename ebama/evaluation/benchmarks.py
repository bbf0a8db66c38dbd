"""The Attend-and-Excite benchmark: 276 prompts in three sets, with the objects and colours they ask for."""

from __future__ import annotations

import json
import re
from importlib.resources import files

_PATTERN = re.compile(r"a (?:(\w+) )?(\w+) (?:and|with) a (?:(\w+) )?(\w+)")


def load_ane() -> dict[str, list[str]]:
    """The prompts by set, in the order published: "animals" (66), "animals_objects" (144) and "objects" (66).

    Nothing in them is corrected: the article is "a" throughout ("a elephant", "a orange bench", "a glasses").
    """
    prompts: dict[str, list[str]] = json.loads((files(__package__) / "ane_prompts.json").read_text(encoding="utf-8"))
    return prompts


def ane_objects(prompt: str) -> list[tuple[str, str | None]]:
    """The two objects of a prompt of the benchmark, each with its colour if it has one: by its fixed pattern, not by
    parsing.

    Raises `ValueError` for a prompt of another shape.
    """
    match = _PATTERN.fullmatch(prompt)
    if match is None:
        raise ValueError(f"{prompt!r} is not of the benchmark's shape 'a [colour] object (and|with) a [colour] object'")
    first_colour, first, second_colour, second = match.groups()
    return [(first, first_colour), (second, second_colour)]
