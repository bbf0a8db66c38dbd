"""JSON lines that grow while a program may be killed: only whole lines count."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..output.files import named_errors, to_json
from ..output.reading import parse_object, read_bytes, said

MAX_LIST = 2**31
"""Bytes of the longest list that is read: half a million pictures."""

Row = dict[str, Any]


def read(path: Path, check: Callable[[Row], None] = lambda row: None, *, whole: bool = False) -> list[Row]:
    """The lines of a file but a last one that was cut, unless the file is only ever written `whole`; none if there is
    no file.

    Raises ValueError, naming file and line, if one is no JSON object, or if `check` raises one: its message says what
    the line is.
    """
    try:
        lines = read_bytes(path, MAX_LIST).removeprefix(codecs.BOM_UTF8).split(b"\n")
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_object(line)
        except ValueError as error:
            # No line end follows: it was cut. What begins otherwise, or has another program's line ends, was not.
            if number == len(lines) and not whole and line.startswith(b"{") and b"\r" not in line:
                break
            raise ValueError(f"Line {number} of {path} is damaged: expected a JSON object ({said(error)}).") from error
        try:
            check(row)
        except ValueError as error:
            raise ValueError(f"Line {number} of {path} {error}") from error
        rows.append(row)
    return rows


def text(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as lines."""
    return "".join(to_json(row) + "\n" for row in rows)


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows behind those that are there; they are on disk when this returns."""
    with named_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(text(rows))
        file.flush()
        os.fsync(file.fileno())


def drop_half_line(path: Path) -> None:
    """Cut what follows the last line end, so that the next line begins on its own."""
    with suppress(FileNotFoundError):
        content = read_bytes(path, MAX_LIST)
        os.truncate(path, content.rfind(b"\n") + 1)
