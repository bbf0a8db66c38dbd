"""Names of the same weights in different code bases, related by dotted prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

Parts: TypeAlias = Mapping[str, tuple[str, ...]]
"""Modules of a block by our names, each with CompVis's name first and then the others that are in use."""

Block: TypeAlias = tuple[str, str, Parts]
"""Our path and CompVis's path to a block, and its parts."""

ITSELF: Parts = {"": ("",)}


class Renaming:
    """A bijection between our names and CompVis's; `to_ours` also takes our own and older names, mixed as they come."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._compvis: dict[str, str] = {}
        self._ours: dict[str, str] = {}
        for ours, theirs, parts in blocks:
            for part, names in parts.items():
                self._compvis[ours + part] = theirs + names[0]
                self._ours |= {path + name: ours + part for path in (ours, theirs) for name in (part, *names)}

    def to_compvis(self, name: str) -> str:
        """CompVis's name of our `name`; KeyError if the configuration has no such weight."""
        return _rename(name, self._compvis)

    def to_ours(self, name: str) -> str:
        """Our name of a weight by any of its names; KeyError if the configuration has no such weight."""
        return _rename(name, self._ours)


def _rename(name: str, prefixes: dict[str, str]) -> str:
    head, tail = name, ""
    while head not in prefixes:
        head, dot, last = head.rpartition(".")
        if not dot:
            raise KeyError(name)
        tail = f".{last}{tail}"
    return prefixes[head] + tail
