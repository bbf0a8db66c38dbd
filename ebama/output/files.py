"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_DEEPEST = 500  # folders within each other, which are made by recursion
_APPENDING = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file under the temporary name that this yields; it becomes `path` if all goes well.

    A link stays, and the file that it points to is replaced. What cannot be replaced, see `is_replaceable`, is written
    to.
    """
    if not is_replaceable(path):
        with tempfile.TemporaryDirectory() as folder, named_errors(path, partial := Path(folder, "file")):
            yield partial
            _pour(partial, path)
        return
    target = Path(os.path.realpath(path))
    with temporary(target) as partial:
        yield partial
        os.replace(partial, target)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all; what UTF-8 cannot hold, as in the names of some files, is escaped."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def to_json(value: Any, **options: Any) -> str:
    """A value as JSON in its own letters, but for those that UTF-8 cannot hold; numbers may be NumPy's or torch's."""
    text = json.dumps(value, ensure_ascii=False, default=lambda number: number.item(), **options)
    return text.encode("utf-8", "backslashreplace").decode()


def is_replaceable(path: Path) -> bool:
    """Whether a new file may take the place of what is there: not of a device, a pipe or this process's output."""
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    return stat.S_ISREG(facts.st_mode) and not any(_is_same(facts, stream) for stream in (1, 2))


def check_folder(out: Path, remedy: str = "another folder with --out") -> None:
    """Raise ValueError unless files could be made in `out`, which need not exist yet and is not made here."""
    if len(out.parts) > _DEEPEST:
        raise ValueError(f"{str(out)[:80]}... is a folder in {len(out.parts):,} others; choose {remedy}.")
    try:
        existing = next(path for path in (out, *out.absolute().parents) if _is_taken(path))
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"Nothing can be written to {out} ({error.strerror}); choose {remedy}.") from error


def check_file(path: Path) -> None:
    """Raise ValueError unless a file could be written as `path`, which is not made here."""
    target = Path(os.path.realpath(path))
    if target.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"{path} cannot be written; expected the name of a file.")
    if is_replaceable(path):
        if path.is_symlink() and not target.parent.is_dir():
            raise ValueError(f"{path} is a link into {target.parent}, which is not there; choose another file.")
        check_folder(target.parent, "another file")
    elif not path.is_file():
        try:
            os.close(os.open(path, _APPENDING))
        except OSError as error:
            raise ValueError(f"{path} cannot be written ({error.strerror}); choose another file.") from error


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file that is not finished; what still has it in the end is removed."""
    partial = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with named_errors(path, partial):
            yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def named_errors(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Within this context the system's errors about no file (a full disk's), or about `partial`, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _pour(source: Path, path: Path) -> None:
    """Write a file's content to a device, a pipe or this process's own output; OSError if nobody reads the pipe."""
    facts = path.stat()
    # The output goes on where this ends only through its own descriptor.
    own = next((number for number in (1, 2) if _is_same(facts, number)), None)
    for printed in filter(None, (sys.stdout, sys.stderr)):
        printed.flush()
    descriptor = os.open(path, _APPENDING) if own is None else os.dup(own)
    with source.open("rb") as file, os.fdopen(descriptor, "wb") as stream:
        if hasattr(os, "set_blocking"):
            os.set_blocking(stream.fileno(), True)
        shutil.copyfileobj(file, stream)


def _is_same(facts: os.stat_result, stream: int) -> bool:
    with suppress(OSError):  # closed
        return os.path.samestat(facts, os.fstat(stream))
    return False


def _is_taken(path: Path) -> bool:
    """Whether something has this name, be it a link to nothing."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
