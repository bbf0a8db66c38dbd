"""The prompts that methods are compared on: published benchmarks by name, own lists from files."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from . import boxed, lists, similar, singles, tuning
from .prompt import BenchmarkPrompt

_PATTERN = re.compile(r"a (?:(\w+) )?(\w+) (?:and|with) a (?:(\w+) )?(\w+)")


def load(name: str | Path) -> list[BenchmarkPrompt]:
    """The prompts of a benchmark, in order.

    "ane" is Attend-and-Excite's ("ane:animals", "ane:animals_objects" and "ane:objects" its parts), "dvmp" the 200
    prompts that `dvmp.prompts` draws with seed 0, "singles" the miniature's nouns one by one. "tuning:N" are N prompts
    of each shape of "ane" that are not in it, to choose options on, "similar:N" N of each kind of look-alikes. "boxed"
    are 60 prompts of "ane" with a box for each object, "boxed-tuning:N" those of "tuning:N".

    Anything else is a file: one prompt a line (so are the lists of ABC-6K and T2I-CompBench), or JSON lines {"prompt":
    ..., "set": ..., "groups": [[object, [modifier, ...]], ...], "boxes": {word: [left, top, right, bottom]}} of which
    only the prompt must be there (a line is one if a quote follows its brace), or GenEval's; or a folder of such lists
    (see `lists.read`).

    Raises:
        ValueError: there is no such benchmark, or the file cannot be read, with the line at fault.
    """
    kind, _, part = str(name).partition(":")
    if kind == "ane":
        sets = load_ane()
        if part and part not in sets:
            raise ValueError(f"The Attend-and-Excite benchmark has no set {part!r}; it has {', '.join(sets)}.")
        return _prompts({part: sets[part]} if part else sets)
    if not part and kind in _NAMED:
        return _NAMED[kind]()
    if kind in _COUNTED and re.fullmatch("[0-9]{1,9}", part) and int(part):
        return _COUNTED[kind](int(part))
    if not (Path(name).is_file() or Path(name).is_dir()):
        known = ", ".join(["ane", "ane:SET", *_NAMED, *(f"{kind}:N" for kind in _COUNTED)])
        raise ValueError(f"There is no benchmark {str(name)!r}; give {known}, or a file of prompts.")
    return lists.read(Path(name))


def _boxed(sets: Mapping[str, Iterable[str]], seed: int) -> list[BenchmarkPrompt]:
    """Prompts of that benchmark's shape with a random box for each object."""
    rng = random.Random(seed)
    return [
        BenchmarkPrompt(name, text, boxes=boxed.draw([noun for noun, _ in ane_objects(text)], rng))
        for name, texts in sets.items()
        for text in texts
    ]


def _some_of_ane(count: int, seed: int = 0) -> dict[str, list[str]]:
    rng = random.Random(seed)
    return {name: rng.sample(texts, count) for name, texts in load_ane().items()}


def _tuning(count: int) -> dict[str, list[str]]:
    return tuning.prompts(count, {text for texts in load_ane().values() for text in texts})


def _prompts(sets: Mapping[str, Iterable[str]]) -> list[BenchmarkPrompt]:
    return [BenchmarkPrompt(name, text) for name, texts in sets.items() for text in texts]


def _stored(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def load_ane() -> dict[str, list[str]]:
    """The Attend-and-Excite prompts by set, as published: "animals" (66), "animals_objects" (144), "objects" (66).

    Nothing in them is corrected: the article is "a" throughout ("a elephant", "a orange bench", "a glasses").
    """
    prompts: dict[str, list[str]] = json.loads(_stored("ane_prompts.json"))
    return prompts


def ane_objects(prompt: str) -> list[tuple[str, str | None]]:
    """The two objects of a prompt of that benchmark, each with its colour if it has one: by its fixed pattern, not by
    parsing.

    Raises `ValueError` for a prompt of another shape.
    """
    match = _PATTERN.fullmatch(prompt)
    if match is None:
        raise ValueError(f"{prompt!r} is not of the benchmark's shape 'a [colour] object (and|with) a [colour] object'")
    first_colour, first, second_colour, second = match.groups()
    return [(first, first_colour), (second, second_colour)]


_NAMED: dict[str, Callable[[], list[BenchmarkPrompt]]] = {
    "boxed": lambda: _boxed(_some_of_ane(20), seed=0),
    "dvmp": lambda: _prompts({"dvmp": _stored("dvmp_prompts.txt").splitlines()}),
    "singles": lambda: _prompts(singles.prompts()),
}
_COUNTED: dict[str, Callable[[int], list[BenchmarkPrompt]]] = {
    "boxed-tuning": lambda count: _boxed(_tuning(count), seed=1),
    "similar": lambda count: _prompts(similar.prompts(count)),
    "tuning": lambda count: _prompts(_tuning(count)),
}
