"""Files of unknown origin: only regular ones are read, up to a size, and JSON up to a depth."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from ..checks import short

MAX_BYTES = 2**28
MAX_DEPTH = 32
"""How deep JSON may be nested; what this library writes takes less than ten levels."""


def read_bytes(path: Path, at_most: int = MAX_BYTES) -> bytes:
    """The content of a regular file.

    Raises OSError if it cannot be opened, and ValueError if it holds more than `at_most` bytes or is something else: a
    pipe would be waited for, a device never ends, and what a link that leads nowhere once was is lost.
    """
    if re.match(r"https?:/", str(path)):
        raise ValueError(f"{path} is an address, which is not opened; fetch it first, and give the file's path.")
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a link that leads nowhere; delete it or mend it.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; expected a file.")
    with path.open("rb") if os.name == "nt" else open(path, "rb", opener=_open_at_once) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{path} is a pipe or a device; expected a regular file.")
        content = file.read(facts.st_size + 1) if facts.st_size <= at_most else None  # as much memory is taken
        if content is not None and len(content) > facts.st_size:  # it grows meanwhile
            content += file.read(at_most + 1 - len(content))
    if content is None or len(content) > at_most:
        raise ValueError(f"{path} is too large; expected at most {at_most / 2**20:g} MiB.")
    return content


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8, without a byte-order mark; raises as `read_bytes`."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}).") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty if there is no file; ValueError, naming file and line, for anything else."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        return {}
    try:
        return parse_object(text)
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise ValueError(
            f"Line {line} of {path} is damaged: expected a JSON object ({said(error)}). Mend the file."
        ) from error


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text is; ValueError for anything else, for one nested deeper than `MAX_DEPTH`, and for a
    name that is there twice in an object: one of its values would be lost."""
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict) or _is_deeper(value, MAX_DEPTH):
        raise ValueError("it is none, or nested deeply")
    return value


def said(error: ValueError) -> str:
    """What `parse_object` says of a text, without a place in it: the text may be a line of many."""
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{short(name)} is there twice")
    return values


def _is_deeper(value: object, depth: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (depth == 0 or any(_is_deeper(inner, depth - 1) for inner in value))


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for somebody at the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)
