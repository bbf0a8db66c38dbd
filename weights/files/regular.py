"""Opening what a path names only where it is a file on a disk: pipes and devices may wait, or go on, forever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

_MOST_BYTES = 1 << 26  # of a text: a tokenizer's are the largest, of 4 MB


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


def check_folder(folder: Path) -> None:
    """Raise CheckpointError if something beside the files and folders in `folder` would be waited for when opened."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise CheckpointError(f"{path} is a device or a pipe; expected a file.")


def read_text(path: Path) -> str:
    """The text of a regular file. Raises CheckpointError, also for one that is too large to be a text."""
    check_regular(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(
                f"{path} has {path.stat().st_size:,} bytes; expected at most {_MOST_BYTES:,} of a text."
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
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
