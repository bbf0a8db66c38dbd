"""JSON lines that grow while a program may be killed: only whole lines count."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file but a last one without its end; ValueError, naming the line, if one is no JSON object."""
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError:  # UnicodeDecodeError is one
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"Line {number} of {path} is damaged: expected a JSON object.")
        rows.append(row)
    return rows


def text(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows behind those that are there; they are on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text(rows))
        file.flush()
        os.fsync(file.fileno())


def drop_half_line(path: Path) -> None:
    """Cut what follows the last line end, so that the next line begins on its own."""
    if path.is_file():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
