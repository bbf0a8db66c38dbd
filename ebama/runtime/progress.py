"""Progress bars that leave nothing behind when the program is asked to stop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from .stops import check_stops


class Bar(tqdm):  # type: ignore[misc]  # no types
    """A bar of tqdm without its thread, for whose lock a program would wait at its end if a stop came while it was
    being taken; between two steps a stop that was swallowed is raised once more."""

    monitor_interval = 0

    def __iter__(self) -> Iterator[Any]:
        """The steps."""
        for step in super().__iter__():
            yield step
            check_stops()
