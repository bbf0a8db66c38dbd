"""The system's requests to end, as exceptions: temporary files are removed and other processes ended on the way out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Another program, or the terminal's end, asked this one to stop; `code` is what it should exit with."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.code = 128 + signal_number


@contextmanager
def raised_stops() -> Iterator[None]:
    """Within this context SIGTERM and SIGHUP raise `Stopped`, unless they are ignored or somebody handles them.

    Only the main thread can be told of signals: in others this does nothing.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    in_main_thread = threading.current_thread() is threading.main_thread()
    taken = [number for number in numbers if in_main_thread and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
