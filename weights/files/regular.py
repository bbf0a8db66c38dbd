"""Opening what a path names only where it is a file on a disk: pipes and devices may wait, or go on, forever."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, is_text

_IN_PLACE = re.compile(
    r"\s*(?:<!doctype html|<html|<\?xml|version https://git-lfs|"
    r"[45]\d\d:? (?:[a-z]+ ){0,3}(?:not found|forbidden|unauthorized|requests?|error|gateway|unavailable)\s*$|"
    r"(?:(?:entry|repository|revision|page) )?not found\s*$|invalid username or password|"
    r"\{\s*\"(?:error|message)\"\s*:\s*\"[^\"]+\"(?!.*\"prompt\"))",
    re.IGNORECASE,
)
_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_SHOWN = 300  # characters of a path in a message
_REFUSALS = ("unable to open file <", "unable to mmap ", "Cannot allocate memory")  # torch's and safetensors' words
_MOST_BYTES = 1 << 26  # of a text: a tokenizer's are the largest, of 4 MB


def stands_in_place(text: str) -> bool:
    """Whether a text is what a server or Git puts in place of a file: a web page, an error, a pointer."""
    return bool(_IN_PLACE.match(text))


def remedy(path: Path) -> str:
    """What to do about a path where nothing is, if it is an address or as the hub calls a repository."""
    if re.match(r"https?:/", str(path)):
        return " Addresses are not opened: fetch it first, and give the file's path."
    if len(path.parts) == 2 and path.parts[0] not in ("~", ".", "..") and path.suffix not in _ENDINGS:
        return f" A repository of the Hugging Face hub has to be fetched first: hf download {path} --local-dir DIR."
    return ""


def given_path(path: object, expected: str = "a file or a folder") -> Path:
    """What a caller gave as a path; CheckpointError for what is none."""
    if not isinstance(path, str | os.PathLike) or not isinstance(name := os.fspath(path), str) or not name:
        raise CheckpointError(f"path is {repr(path)[:_SHOWN]}; expected {expected}.")
    check_name(Path(name))
    return Path(name)


def check_name(path: Path) -> None:
    """Raise CheckpointError for a path that safetensors and torch cannot open or write."""
    if not is_text(str(path)):
        raise CheckpointError(f"{path} has letters in its name that are no UTF-8, which cannot be opened; rename it.")


@contextmanager
def named_refusals(path: Path) -> Iterator[None]:
    """Within this context what the system refuses (a name too long, a folder closed to us, one file more) is a
    CheckpointError, or a MemoryError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_refusal(error):
            raise
        shown = str(path) if len(str(path)) <= _SHOWN else f"{str(path)[:_SHOWN]}..."
        if "cannot allocate memory" in (said := str(error)).lower():
            raise MemoryError(f"{shown} cannot be opened: {said}") from error
        why = error.strerror if isinstance(error, OSError) else said.rpartition(": ")[2].partition(" (")[0]
        raise CheckpointError(f"{shown} cannot be opened: {why or said}.") from error


def is_refusal(error: BaseException) -> bool:
    """Whether an error tells that the system refused, and not that the file is damaged: what is read beyond its ends is
    an invalid argument. torch says it in words."""
    if isinstance(error, OSError):
        return error.errno not in (None, errno.EINVAL)
    return isinstance(error, MemoryError | RuntimeError) and str(error).startswith(_REFUSALS)


def check_regular(path: Path) -> None:
    """Raise CheckpointError, which names the path, unless a regular file is there."""
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{path} is a link to {path.readlink()}, which is not there; download it again.")
    if not path.exists():
        raise CheckpointError(f"There is no file {path}.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; expected a file.")
    if not path.is_file():
        raise CheckpointError(f"{path} is a device or a pipe; expected a file.")


def is_folder(path: Path) -> bool:
    """Whether a folder is there that need not be; CheckpointError for anything else in its place: a link that leads
    nowhere, or the text that stands for one where there are no links."""
    if path.is_dir():
        return True
    if path.is_symlink() or path.exists():
        raise CheckpointError(f"{path} is no folder, nor a link to one that is there; expected a folder, or nothing.")
    return False


def is_there(path: Path) -> bool:
    """Whether a file is there that need not be; CheckpointError for a link that leads nowhere, or to no file."""
    if path.is_symlink():
        check_regular(path)
    return path.is_file()


def check_folder(folder: Path) -> None:
    """Raise CheckpointError if something beside the files and folders in `folder` would be waited for when opened."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise CheckpointError(f"{path} is a device or a pipe; expected a file.")


def read_text(path: Path) -> str:
    """The text of a regular file. Raises CheckpointError, also for one that is too large to be a text."""
    check_regular(path)
    with named_refusals(path):
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise CheckpointError(f"{path} has {size:,} bytes; expected at most {_MOST_BYTES:,} of a text.")
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not readable text: {error}.") from error


def read_json(path: Path, what: str = "readable JSON") -> dict[str, Any]:
    """The JSON object in a regular file. Raises CheckpointError for anything else: the file "is not `what`"."""
    text = read_text(path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not {what}: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}; expected a JSON object.")
    return values
