"""The prompts that methods are compared on: published benchmarks by name, own lists from files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ...output.reading import parse_object, read_text
from . import singles, tuning

_PATTERN = re.compile(r"a (?:(\w+) )?(\w+) (?:and|with) a (?:(\w+) )?(\w+)")

_OBJECT = re.compile(r"\s*\{\s*(?:[\"'}]|$)")  # of JSON, or meant to be one; "{red|blue} car" is a prompt


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One prompt and the part of its benchmark that it belongs to; `groups` as for the pipeline, None: parsed."""

    set: str
    text: str
    groups: tuple[tuple[str, tuple[str, ...]], ...] | None = None


def load(name: str | Path) -> list[BenchmarkPrompt]:
    """The prompts of a benchmark, in order.

    "ane" is Attend-and-Excite's ("ane:animals", "ane:animals_objects" and "ane:objects" its parts), "dvmp" the 200
    prompts that `dvmp.prompts` draws with seed 0, "singles" the miniature's nouns one by one, "tuning:N" N prompts of
    each shape of "ane" that are not in it, to choose options on. Anything else is a file: one prompt a line (so is
    ABC-6K's list), or JSON lines {"prompt": ..., "set": ..., "groups": [[object, [modifier, ...]], ...]} of which only
    the prompt must be there (a line is one if a quote follows its brace). A prompt that occurs twice counts once.

    Raises:
        ValueError: there is no such benchmark, or the file cannot be read, with the line at fault.
    """
    text, path = str(name), Path(name)
    kind, _, part = text.partition(":")
    if kind == "ane":
        sets = load_ane()
        if part and part not in sets:
            raise ValueError(f"The Attend-and-Excite benchmark has no set {part!r}; it has {', '.join(sets)}.")
        return _prompts({part: sets[part]} if part else sets)
    if text == "dvmp":
        return _prompts({"dvmp": _stored("dvmp_prompts.txt").splitlines()})
    if text == "singles":
        return _prompts(singles.prompts())
    if kind == "tuning" and re.fullmatch("[0-9]{1,9}", part) and int(part):
        return _prompts(tuning.prompts(int(part), {text for texts in load_ane().values() for text in texts}))
    if not path.is_file():
        raise ValueError(
            f"There is no benchmark {text!r}; give ane, ane:SET, dvmp, singles, tuning:N, or a file of prompts."
        )
    try:
        lines = _lines(read_text(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a text of prompts: {error}") from error
    prompts = [_read_line(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompts; expected one a line, or JSON lines.")
    return list({prompt.text: prompt for prompt in prompts}.values())


def _lines(text: str) -> list[str]:
    """The lines of a list of prompts; JSON strings may hold the other separators of splitlines."""
    if "\0" in text:
        raise ValueError("it holds null characters, as UTF-16 has them; save it in UTF-8.")
    if _is_json_list(text):
        raise ValueError("it is one JSON list; write one prompt a line.")
    return re.split("\r\n?|\n", text)


def _is_json_list(text: str) -> bool:
    try:
        return text.lstrip().startswith("[") and isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False  # a prompt may begin with a bracket


def _prompts(sets: Mapping[str, Iterable[str]]) -> list[BenchmarkPrompt]:
    return [BenchmarkPrompt(name, text) for name, texts in sets.items() for text in texts]


def _stored(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _read_line(path: Path, number: int, line: str) -> BenchmarkPrompt:
    if not _OBJECT.match(line):
        return BenchmarkPrompt(path.stem, line.strip())
    try:
        entry = parse_object(line)
        text, part, groups = entry["prompt"], entry.get("set", path.stem), entry.get("groups")
        if not (isinstance(text, str) and text.strip() and isinstance(part, str)):
            raise ValueError
        if groups is not None:
            if not all(isinstance(modifiers, list) for _, modifiers in groups):  # a string would be taken apart
                raise ValueError
            groups = tuple((noun, tuple(modifiers)) for noun, modifiers in groups)
            if not all(isinstance(word, str) for noun, modifiers in groups for word in (noun, *modifiers)):
                raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'Line {number} of {path} is no prompt; expected {{"prompt": TEXT}}, perhaps with "set": NAME and '
            '"groups": [[OBJECT, [MODIFIER, ...]], ...].'
        ) from error
    return BenchmarkPrompt(part, text.strip(), groups)


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
