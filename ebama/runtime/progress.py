"""Progress bars that leave nothing behind when the program is asked to stop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .stops import check_stops


@contextmanager
def _as_asked() -> Iterator[None]:
    """Within this context an error of tqdm, which reads some of its settings from the environment, names those."""
    try:
        yield
    except Exception as error:
        asked = [f"{name}={value[:80]!r}" for name, value in os.environ.items() if name.startswith("TQDM_")]
        if not asked:
            raise
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"No progress can be shown as the environment asks, {', '.join(asked)} ({why}).") from error


with _as_asked():
    from tqdm import tqdm


class Bar(tqdm):  # type: ignore[misc]  # no types
    """A bar of tqdm without its thread, for whose lock a program would wait at its end if a stop came while it was
    being taken; between two steps a stop that was swallowed is raised once more."""

    monitor_interval = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        with _as_asked():
            super().__init__(*arguments, **options)

    def __iter__(self) -> Iterator[Any]:
        """The steps."""
        for step in super().__iter__():
            yield step
            check_stops()
