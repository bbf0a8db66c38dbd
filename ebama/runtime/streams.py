"""Printing that never ends a run: hours of pictures are not lost because nobody reads their names any more."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO


class LastingStream:
    """A text stream whose writes never fail: what its encoding lacks is escaped, what cannot be written is dropped.

    `error` is the first reason why something was dropped, other than that a reader closed the pipe.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or io.StringIO()  # None: closed before the program began
        self._is_gone = stream is None
        self.error: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._attempt("write", text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        self._attempt("flush")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, action: str, *arguments: str) -> None:
        if self._is_gone:
            return
        try:
            getattr(self._stream, action)(*arguments)
        except (OSError, ValueError) as error:  # ValueError: closed
            self._is_gone = True
            if getattr(error, "errno", None) != errno.EPIPE:
                self.error = error
            with suppress(OSError, ValueError):  # what is left in the buffer would fail again at the program's end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


def _fill_descriptors() -> None:
    """Open the null device where standard streams are closed: what is opened next would take their numbers, and get
    what processes that we start print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the lowest free number is given out, which is this
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


@contextmanager
def lasting_output() -> Iterator[LastingStream]:
    """Within this context `print`, progress bars and warnings cannot fail; yields the new standard output."""
    _fill_descriptors()
    output = LastingStream(sys.stdout)
    with redirect_stdout(output), redirect_stderr(LastingStream(sys.stderr)):
        try:
            yield output
        finally:  # also where --help ends the program
            output.flush()
