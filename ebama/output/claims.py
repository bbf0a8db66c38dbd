"""File names of which one process gets each, however many ask at once; folders where one process works at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from .files import temporary


def write_new(path: Path, write: Callable[[Path], object], may_replace: Callable[[Path], bool] | None = None) -> Path:
    """Write a file under a name that is still free: `path`, or a numbered one beside it; returns its path.

    `write` is told a temporary name. However many processes do this at once, each name is given to one of them. A file
    for which `may_replace` is true is replaced.
    """
    with temporary(path) as partial:
        write(partial)
        for candidate in numbered(path):
            try:
                _claim(partial, candidate)
            except FileExistsError:
                if may_replace is None or not (candidate.is_file() and may_replace(candidate)):
                    continue
                os.replace(partial, candidate)
            return candidate
    raise AssertionError("there are more numbers than files")


def new_folder(path: Path) -> Path:
    """Make a folder that was not there: `path`, or a numbered one beside it; its parents are made too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for candidate in numbered(path):
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise AssertionError("there are more numbers than folders")


def numbered(path: Path) -> Iterator[Path]:
    """`path`, and after it the names beside it that end in -2, -3, ..."""
    yield path
    yield from (path.with_stem(f"{path.stem}-{number}") for number in count(2))


def write_first(path: Path, text: str) -> bool:
    """Write UTF-8 text unless something lies at `path` already; whether this process was the first."""
    with temporary(path) as partial:
        partial.write_text(text, encoding="utf-8")
        with suppress(FileExistsError):
            _claim(partial, path)
            return True
    return False


@contextmanager
def alone(path: Path, work: str) -> Iterator[None]:
    """Work on a file or folder while no other process is in such a block of it.

    One that comes second waits, and says so: "another process WORK". The system forgets the claim of a process that was
    killed. Where it knows no such claims, on Windows and some network file systems, nobody waits.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting: another process {work}", file=sys.stderr)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _claim(partial: Path, path: Path) -> None:
    """Move a finished file to a name that must be free; FileExistsError if it is not."""
    try:
        os.link(partial, path)  # unlike a renamed file, a link takes nobody's place
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(partial, path)
        except BaseException:
            path.unlink()  # the claim holds nothing
            raise
