"""Fresh processes that do one thing and answer over a pipe, so that nothing earlier is in their time or memory."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ..runtime.stops import held_stops
from ..runtime.usage import resident

_MIB = 2**20


class _LastWords(str):
    """The answer of a process whose work raised an error."""


class Child:
    """Runs `work(pipe, *arguments)`, a function that can be pickled, in a new interpreter whose output is dropped.

    `name` is what errors call it. Leaving the `with` block lets it end; an error, or 10 seconds, kill it.
    """

    def __init__(self, name: str, work: Callable[..., object], *arguments: Any) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, work, arguments), daemon=True)
        with held_stops():  # a process begun by half is known to nobody who could end it
            self._process.start()
            theirs.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._process.join(timeout=10)
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def send(self, word: object) -> None:
        """Tell the process something."""
        self._pipe.send(word)

    def answer(self) -> Any:
        """Wait for what it sends. Raises ValueError with its last words if it ends before."""
        try:
            answer = self._pipe.recv()
        except EOFError:
            answer = _LastWords()
        if isinstance(answer, _LastWords):
            self._process.join()
            code = self._process.exitcode or 0
            why = answer or ("killed, perhaps for want of memory" if code < 0 else "without a word")
            raise ValueError(f"The process of {self._name} ended with code {code}: {why}")
        return answer

    def ask(self, word: object) -> Any:
        """Its answer to a word."""
        self.send(word)
        return self.answer()

    def memory(self) -> tuple[float, float]:
        """Resident and private (anonymous) memory in MiB now; zeros once it is gone. Linux only."""
        total, private = ((resident(field, self._process.pid or 0) or 0) / _MIB for field in ("VmRSS", "RssAnon"))
        return total, private

    def peak_until_answer(self, limit: float = float("inf")) -> tuple[float, float]:
        """The most of either that it takes until it answers or `limit` seconds are over, looked at every 5 ms."""
        end, total, private = time.perf_counter() + limit, 0.0, 0.0
        while not self._pipe.poll(0.005) and time.perf_counter() < end:
            total, private = map(max, self.memory(), (total, private))
        return total, private


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, which could not tell it to end if it was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _run(pipe: Connection, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        work(pipe, *arguments)
    except Exception as error:
        pipe.send(_LastWords(traceback.format_exception_only(error)[-1].strip()))
        sys.exit(1)
