"""Prompts from local files: one a line or JSON lines, among them the published lists of GenEval and T2I-CompBench."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ebama.weights.errors import is_text
from ebama.weights.files.regular import stands_in_place

from ...checks import short
from ...output.reading import parse_object, read_text, said
from ...prompt.alignment import find_all
from .prompt import BenchmarkPrompt, read_boxes

Groups = tuple[tuple[str, tuple[str, ...]], ...]

_MARKS = re.compile("(^|[\r\n])\ufeff+")  # byte-order marks: files that were joined have some within
_OBJECT = re.compile(r"\s*\{\s*(?:[\"'}“”„«]|$)")  # of JSON, or meant to be one; "{red|blue} car" is a prompt
_COLUMN = r"\W?(?:(?:text|input|image|positive)[ _])?prompts?(?:[ _](?:text|string|id))?\W?"
_HEADER = re.compile(rf"(?:[^,;\t]+[,;\t])*{_COLUMN}(?:[,;\t][^,;\t]+)*\s*", re.IGNORECASE)  # "prompt,seed"
_CAPTIONED = re.compile(r"(?:image|file|file_?name|img)s?[,;\t](?:captions?|text)[ \t]*(?:[\r\n]|$)", re.IGNORECASE)
_COLUMNS = re.compile(r"text|captions?|sep=.|\d+", re.IGNORECASE)
_FLAG = re.compile(  # of Midjourney, web UIs and trainers, also as blogs print them
    r"(?<= )[–—](?:(?:ar|aspect|stylize|chaos|seed|niji|iw|[vqscwh]) \d|style raw)|"
    r"(?<= )--(?:[wdlhsvqcrg]|seed|chaos|steps|cfg|cfg_scale|stylize|[isco]w|stop|weird|version|quality|"
    r"repeat|exp|am|fs)[ =]?-?[\d.]|"
    r"(?<= )--(?:[np]|ar|aspect|no|niji|style|[sco]ref|tile|raw|negative_prompt|profile|fast|turbo|relax|"
    r"draft|video|hd|testp?|creative|up(?:light|beta)|ss|cn|neg|no-half|sampler_name|"
    r"do_not_save_(?:grid|samples))(?:[ =]|$)|"
    r"(?<= )-(?:[swhcnug]\d[\d.]*(?= |$)|[swhcnug] \d[\d.]* -[a-z]\b|a ?k_\w+)|"  # of InvokeAI
    r"<(?:lora|lyco|hypernet):[^<>]+>",
    re.IGNORECASE,
)
_OPTION = re.compile(  # of these at the beginning of a line
    r"--?(?:negative[_-]?)?prompt\b|negative(?: prompt)?:|steps: \d+, sampler:|# |// |/imagine\b|"
    r"```|#{2,6} |\||-{3,}$|<{7} |={7}$|>{7} ",  # of Markdown and Git
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\d+\t|[^\t]+\.\w{3,4}(?:#\d)?\t|[^\t,]+\.(?i:jpe?g|png|webp)(?:#\d)?,(?=\S)")
_ORDINAL = re.compile(  # "1. a cat", "(1) a cat", "**Prompt 1:** a cat", "### Image Prompt 1", "1.a cat", "1,a cat"
    r"[*# ]*(?:(?:image )?prompt )?[(\[]?0*(\d{1,9})(?:\\?[.)\]、](?=[ \t]|[^\W\d_])|:(?=[\s*])|\s*$)|"
    r"0*(\d{1,9}),(?=\D)",
    re.IGNORECASE,
)
_BULLET = re.compile(r"[-*+•●◦▪·–—▶►‣] |\*\*(?=[^*]+\*\*$)")
_IN_QUOTES = re.compile("[ \t]*(?:\"[^\"]*\"|“[^“”]*”|'[^']*')[ \t]*")
_QUOTED = re.compile(r"^[ \t]*(?:\"[^\"\n]*\"|'[^'\n]*')[,;][ \t\r]*$|^\w+ *= *\[ *['\"]", re.MULTILINE)
_SETS = 20
"""More lists of one prompt each than these are no sets, as no table has so many columns, but prompts of one."""
_BREAK = "\r\n?|\n"
_TABLES = {".csv": ",", ".tsv": "\t"}
_OF_SETTINGS = (".yaml", ".yml", ".toml", ".ini", ".xml")
_FORM = (
    '{"prompt": TEXT}, perhaps with "set": NAME, "groups": [[OBJECT, [MODIFIER, ...]], ...] and '
    '"boxes": {WORD: [LEFT, TOP, RIGHT, BOTTOM], ...}, or a line of GenEval\'s, with "tag" and "include"'
)


def read(path: Path) -> list[BenchmarkPrompt]:
    """The prompts of a file, or of a folder of lists NAME_val.txt (NAME.txt where there are none), a set each; many
    lists of one prompt each, as DPG-Bench's, are one set.

    A prompt that occurs twice counts once, where it occurs first.

    Raises:
        ValueError: something cannot be read, with the line at fault; a prompt has other boxes the second time.
    """
    if path.is_dir():
        lists = sorted(path.glob("[!.]*_val.txt")) or sorted(path.glob("[!.]*.txt"))
        if not lists:
            raise ValueError(f"{path} holds no lists of prompts; expected NAME_val.txt or NAME.txt, one prompt a line.")
        read = {file.stem.removesuffix("_val"): _read_file(file, file.stem.removesuffix("_val")) for file in lists}
        if len(read) > _SETS and all([prompt.set for prompt in prompts] == [name] for name, prompts in read.items()):
            name = path.resolve().name
            read = {name: [replace(prompt, set=name) for prompts in read.values() for prompt in prompts]}
        return _once(prompt for prompts in read.values() for prompt in prompts)
    return _once(_read_file(path, path.stem))


def _once(prompts: Iterable[BenchmarkPrompt]) -> list[BenchmarkPrompt]:
    by_text: dict[str, BenchmarkPrompt] = {}
    for prompt in prompts:
        if by_text.setdefault(prompt.text, prompt).boxes != prompt.boxes:
            raise ValueError(f"{prompt.text!r} occurs twice with different boxes; a benchmark has a prompt once.")
    if "all" in (sets := {prompt.set for prompt in by_text.values()}) and len(sets) > 1:
        raise ValueError("A set is called 'all', as the tables call all sets together; give it another name.")
    return list(by_text.values())


def _read_file(path: Path, name: str) -> list[BenchmarkPrompt]:
    if path.suffix.lower() in _OF_SETTINGS:
        raise ValueError(f"{path} is a file of settings by its name; write one prompt a line, in a .txt file.")
    try:
        text = _MARKS.sub(r"\1", read_text(path)).removesuffix("\x1a")  # the mark of an end under DOS
        _check(text)
        delimiter = _TABLES.get(path.suffix.lower())
        lines = _cells(text, delimiter) if delimiter else _lines(text)
        if not delimiter and not _is_json(path) and _are_in_quotes(lines):
            raise ValueError("its lines are in quotes, as those of tables; write the prompts alone, one a line.")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a text of prompts: {error}") from error
    prompts = [_read_line(path, number, name, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompts; expected one a line, or JSON lines.")
    return prompts


def _lines(text: str) -> list[str]:
    """The lines of a list of prompts; JSON strings may hold the other separators of splitlines."""
    if _is_json_list(text):
        raise ValueError("it is one JSON list; write one prompt a line.")
    if _CAPTIONED.match(text):
        raise ValueError("its first line names columns of a table; write one prompt a line.")
    if _QUOTED.search(text):
        raise ValueError(
            "its lines are in quotes with commas after them, as in code; write the prompts alone, one a line."
        )
    return re.split(_BREAK, text)


def _cells(text: str, delimiter: str) -> list[str]:
    """The cells of a table of one column, which a spreadsheet puts in quotes where they hold commas."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise ValueError(f"its quotes are no table's ({error}); write one prompt a line, in a .txt file.") from error
    widths = [max(map(len, rows), default=1)]
    for other in (";", "\t"):  # all rows have as many columns, unlike in "a cat; a dog"
        counts = {len(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=other) if row}
        widths += counts if len(counts) == 1 and f"{other} " not in text else []
    if max(widths) > 1:
        raise ValueError("it is a table of several columns; write one prompt a line, in a .txt file.")
    cells = [row[0] for row in rows]
    if cells and _COLUMNS.fullmatch(cells[0]):
        raise ValueError("its first line names a column; write one prompt a line, in a .txt file.")
    return cells


def _check(text: str) -> None:
    if "\0" in text:
        raise ValueError("it holds null characters, as UTF-16 has them; save it in UTF-8.")
    if stands_in_place(text):
        raise ValueError("it is a web page, its error or a Git LFS pointer in place of the file; download it again.")
    if text.startswith(r"{\rtf"):
        raise ValueError("it is rich text; save it as plain text.")
    lines = [line.strip(" ") for line in text.splitlines() if line.strip()]
    if lines and (all(map(_NUMBERED.match, lines)) or _count_up(lines)):
        raise ValueError("its lines are numbers or names of files, each with a prompt; leave these out.")
    tabs = {line.strip().count("\t") for line in lines}
    if len(lines) > 1 and len(tabs) == 1 and tabs != {0} and not _OBJECT.match(text):
        raise ValueError("it is a table of several columns; write one prompt a line.")
    if _have_bullets(lines):
        raise ValueError(f"its lines begin with {lines[0][:2]!r}; leave these out.")
    for number, line in enumerate(re.split(_BREAK, text), start=1):
        if (option := _OPTION.match(line) or _FLAG.search(line)) and not _OBJECT.match(line):
            raise ValueError(
                f"line {number} has options or a comment of a program, {short(option[0])}; write the prompts alone, "
                "one a line."
            )
    if _HEADER.fullmatch(re.split("[\r\n]", text, maxsplit=1)[0]):
        raise ValueError("its first line names columns of a table; write one prompt a line.")


def _count_up(lines: Sequence[str]) -> bool:
    """Whether lines are numbered, "1. a red car", "2. a dog", perhaps after a line that says what they are."""
    numbers = [int(found[1] or found[2]) for found in map(_ORDINAL.match, lines) if found]
    return numbers[:2] in ([0, 1], [1, 2]) and 2 * len(numbers) >= len(lines)


def _have_bullets(lines: Sequence[str]) -> bool:
    """Whether the lines are those of a list with bullets, "- a red car", "- a dog"."""
    return len(lines) > 1 and len({line[:2] for line in lines}) == 1 and all(map(_BULLET.match, lines))


def _are_in_quotes(lines: Sequence[str]) -> bool:
    """Whether all lines are in quotes, or one that holds a comma, as programs write tables of one column."""
    quoted = [line for line in lines if _IN_QUOTES.fullmatch(line)]
    return (
        any("," in line and '"' in line for line in quoted) or len(quoted) == sum(map(bool, map(str.strip, lines))) > 0
    )


def _is_json(path: Path) -> bool:
    return path.suffix.lower() in (".json", ".jsonl", ".ndjson")


def _is_json_list(text: str) -> bool:
    if re.match(r"\s*\[\s*\n", text):  # with a comma too many, perhaps
        return True
    try:
        return text.lstrip().startswith("[") and isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False  # a prompt may begin with a bracket


def _read_line(path: Path, number: int, name: str, line: str) -> BenchmarkPrompt:
    if not is_text(line):
        raise ValueError(f"Line {number} of {path} holds half a character; it was cut or decoded wrongly: mend it.")
    if not _OBJECT.match(line):
        return BenchmarkPrompt(name, _text(path, number, line.strip()))
    try:
        entry = parse_object(line)
    except ValueError as error:
        raise ValueError(f"Line {number} of {path} is no prompt ({said(error)}); expected {_FORM}.") from error
    try:
        entry = {key: value for key, value in entry.items() if value is not None}  # tables have nulls for what is not
        text, part = entry["prompt"], entry.get("set", entry.get("tag"))
        if not (is_text(text) and text.strip() and (part is None or is_text(part))):
            raise ValueError
        groups = _groups(entry["groups"]) if "groups" in entry else _included(text, entry.get("include"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Line {number} of {path} is no prompt; expected {_FORM}.") from error
    if option := _FLAG.search(text):
        raise ValueError(f"Line {number} of {path} has options of a program in its prompt, {short(option[0])}.")
    try:
        return BenchmarkPrompt(name if part is None else part, text.strip(), groups, read_boxes(entry.get("boxes")))
    except ValueError as error:
        raise ValueError(f"Line {number} of {path} is no prompt: {error}") from error


def _text(path: Path, number: int, line: str) -> str:
    """A prompt as it stands; in a file of JSON lines the string that it is, while a number, say, is no prompt there."""
    if not _is_json(path):
        return line
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not (isinstance(value, str) and value.strip()):
        raise ValueError(f"Line {number} of {path} is no prompt; expected {_FORM}.")
    return value.strip()


def _groups(stored: Any) -> Groups:
    if not all(isinstance(modifiers, list) for _, modifiers in stored):  # a string would be taken apart
        raise ValueError
    groups = tuple((noun, tuple(modifiers)) for noun, modifiers in stored)
    if not all(isinstance(word, str) for noun, modifiers in groups for word in (noun, *modifiers)):
        raise ValueError
    return groups


def _included(text: str, objects: Any) -> Groups | None:
    """The objects and colours that GenEval says a picture of the prompt includes; None, for the parser, where they are
    not words of the prompt, as the one "clock" of "two clocks"."""
    groups = _groups(
        [[entry["class"], [entry["color"]] if entry.get("color") is not None else []] for entry in objects or ()]
    )
    named = groups and all(find_all(text, word) for noun, colours in groups for word in (noun, *colours))
    return groups if named else None
