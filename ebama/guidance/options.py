"""Checks that several methods make of their options, and forms in which a frozen dataclass can hold them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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


def check_amounts(**values: float | None) -> None:
    """Raise ValueError for values that no run could use; None means undecided."""
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value < math.inf):
            raise ValueError(f"{name} is {value!r}; expected a finite number of at least 0.")


def check_thresholds(thresholds: Sequence[Sequence[float]]) -> tuple[tuple[int, float], ...]:
    """(call, threshold) pairs as tuples; raises ValueError for anything else and for a call named twice."""
    try:
        pairs = tuple((int(i), float(value)) for i, value in thresholds)
        good = all(0 <= i == given[0] for (i, _), given in zip(pairs, thresholds, strict=True))
    except (TypeError, ValueError, OverflowError):
        pairs, good = (), False
    if not good or len(dict(pairs)) < len(pairs):
        raise ValueError(f"thresholds are {thresholds!r}; expected pairs (model call, threshold), each call once.")
    return pairs


def whole_numbers(name: str, given: Iterable[int], example: str) -> tuple[int, ...]:
    """Whole numbers of at least 0 as a tuple; ValueError for anything else."""
    numbers = tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"{name} are {given!r}; expected whole numbers of at least 0, as {example}.")
    return numbers
