"""The system's requests to end, as exceptions: temporary files are removed and other processes ended on the way out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGALRM")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""By which a program is asked to end, also by batch systems before its time is over."""


class Stopped(KeyboardInterrupt):
    """Another program, or the terminal's end, asked this one to stop; `code` is what it should exit with."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.code = 128 + signal_number


class Stops(list[Stopped]):
    """What was raised. Once the work has `ended`, nothing more is: what is left to do is to say how it ended."""

    ended = False


_raised: list[Stopped] = []  # of the process, as signals are
_held: ContextVar[list[Stopped] | None] = ContextVar("held", default=None)


def check_stops() -> None:
    """Raise a stop once more that was swallowed: what is raised in the middle of a destructor or of a library's
    callback goes no further, and the work would run on."""
    if _raised and _held.get() is None:
        raise _raised[-1]


@contextmanager
def raised_stops() -> Iterator[Stops]:
    """Within this context `SIGNALS` raise `Stopped`, unless they are ignored or somebody handles them.

    Yields a list of what was raised: an import in whose middle that happens may end in another error, and long work
    asks `check_stops`. Only the main thread can be told of signals; in others this does nothing.
    """
    raised = Stops()

    def stop(number: int, frame: FrameType | None) -> None:
        if raised.ended:
            return
        raised.append(Stopped(number))
        _raised.append(raised[-1])
        if (held := _held.get()) is None:
            raise raised[-1]
        held.append(raised[-1])

    in_main_thread = threading.current_thread() is threading.main_thread()
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in SIGNALS if in_main_thread}
    taken = [number for number, handler in before.items() if handler in usual]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield raised
    finally:
        for number in taken:
            signal.signal(number, before[number])
        _raised[:] = [stop for stop in _raised if stop not in raised]


@contextmanager
def held_stops() -> Iterator[None]:
    """Within this context `Stopped` waits for its end: for what must not be done by half."""
    held: list[Stopped] = []
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)
    if held:
        raise held[0]
