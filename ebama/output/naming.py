"""Names of the files that a run writes: nothing is overwritten."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from .png import read_metadata


def slug(prompt: str) -> str:
    """The name of a prompt's folder, of at most 80 bytes: file systems count bytes, not letters."""
    words = "-".join(re.findall(r"\w+", prompt.lower()))
    return words.encode()[:80].decode(errors="ignore") or "prompt"


def file_name(text: str) -> str:
    """A text as the name of a file or folder: itself, unless it is long or some file system would mind."""
    name = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", text).encode()[:120].decode(errors="ignore").strip(". ")
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def new_path(path: Path) -> Path:
    """`path`, or a numbered one beside it if something lies there."""
    return free_path(path, None)


def free_path(path: Path, metadata: dict[str, Any] | None) -> Path:
    """`path`, or a numbered one beside it, where nothing lies or only an image of the same recipe."""
    candidate, number = path, 1
    while candidate.exists() and (metadata is None or not _has_recipe(candidate, metadata)):
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def check_writable(out: Path) -> None:
    """Raise ValueError unless files could be made in `out`, which need not exist yet and is not made here."""
    existing = next(path for path in (out, *out.resolve().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f"Nothing can be written to {out} ({error.strerror}); choose another folder with --out."
        ) from error


def _has_recipe(path: Path, metadata: dict[str, Any]) -> bool:
    try:
        return _comparable(read_metadata(path)) == _comparable(metadata)
    except (ValueError, OSError):
        return False


def _comparable(metadata: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in metadata.items() if key != "versions"}, sort_keys=True)
