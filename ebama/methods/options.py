"""Options that are mappings, in a form that a frozen dataclass can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def frozen_pairs(
    name: str, given: Mapping[Key, Value] | Iterable[tuple[Key, Value]], example: str
) -> tuple[tuple[Key, Value], ...]:
    """A mapping as pairs: hashable, and JSON's lists of them are accepted again. ValueError for anything else."""
    try:
        pairs: dict[Any, Any] = dict(given)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {given!r}; expected a mapping, as {example}.") from None
    return tuple(pairs.items())
