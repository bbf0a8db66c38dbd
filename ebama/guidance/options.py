"""Rules for a method's options: `step: float = option(20.0, number())` checks what is given and holds it frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import field, fields
from typing import Any, TypeVar

T = TypeVar("T")

Rule = Callable[[str, Any], Any]
"""(name of an option, value given) -> the value to hold. Raises ValueError for a value that no run could use."""


LARGEST = 3e38
"""The largest number that float32 holds, about."""
MAX_COUNT = 1000
"""The most that something can be repeated: no run ends that does more, and options come from files too."""


def option(default: T, rule: Rule) -> T:
    """A field of a frozen dataclass with a rule for its values."""
    value: T = field(default=default, metadata={"rule": rule})
    return value


def apply_rules(method: Any) -> None:
    """Check all options of a frozen dataclass that have a rule; lists, as from JSON, become tuples, and numbers of
    other libraries Python's."""
    for f in fields(method):
        rule: Rule = f.metadata.get("rule", lambda name, value: value)
        object.__setattr__(method, f.name, rule(f.name, plain(getattr(method, f.name))))


def plain(value: Any) -> Any:
    """A single number of NumPy's or torch's as Python's; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def check(name: str, value: Any, good: bool, expected: str) -> Any:
    """The value itself; ValueError unless it is good."""
    if not good:
        raise ValueError(f"{name} is {value!r}; expected {expected}.")
    return value


def is_number(value: Any, least: float = -math.inf) -> bool:
    """Whether it is a finite number of at least `least`; true and false are none."""
    is_finite = isinstance(value, int | float) and abs(value) <= LARGEST
    return is_finite and not isinstance(value, bool) and bool(least <= value)


def number(good: Callable[[float], bool] = lambda x: x >= 0, expected: str = "a finite number of at least 0") -> Rule:
    """A finite number, by default of at least 0."""
    return lambda name, value: check(name, value, is_number(value) and good(value), expected)


def whole(least: int = 0) -> Rule:
    """A whole number, of at most `MAX_COUNT`."""
    expected = f"a whole number of at least {least} and at most {MAX_COUNT}"
    return lambda name, value: check(name, value, type(value) is int and least <= value <= MAX_COUNT, expected)


def guided_calls(name: str, value: Any) -> Any:
    """How many model calls are guided, from the first one on."""
    good = value is None or (type(value) is int and value >= 0)
    return check(name, value, good, "a whole number of at least 0, or None for every call")


def switch(name: str, value: Any) -> Any:
    """True or false."""
    return check(name, value, isinstance(value, bool), "true or false")


def one_of(*values: str) -> Rule:
    """One of some words."""
    expected = ", ".join(map(repr, values[:-1])) + f" or {values[-1]!r}"
    return lambda name, value: check(name, value, value in values, expected)


def whole_numbers(expected: str, count: int | None = None) -> Rule:
    """A tuple of whole numbers from 0 to `MAX_COUNT`, of a given length if it says one."""

    def rule(name: str, value: Any) -> tuple[int, ...]:
        numbers = tuple(map(plain, value)) if isinstance(value, Iterable) else (None,)
        good = all(type(n) is int and 0 <= n <= MAX_COUNT for n in numbers) and count in (None, len(numbers))
        check(name, value, good, expected)
        return numbers

    return rule


def pairs(example: str, rule: Rule = lambda name, value: value) -> Rule:
    """A mapping as pairs, which are hashable and JSON's lists of them again; `rule` checks each (key, value)."""

    def whole_rule(name: str, value: Any) -> tuple[tuple[Any, Any], ...]:
        try:
            mapping: dict[Any, Any] = dict(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {value!r}; expected a mapping, as {example}.") from None
        return tuple(rule(name, pair) for pair in mapping.items())

    return whole_rule


def thresholds(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    """(model call, threshold) pairs, each call once."""
    try:
        held = tuple((int(i), float(threshold)) for i, threshold in value)
        good = all(0 <= i == given[0] for (i, _), given in zip(held, value, strict=True))
        good = good and all(is_number(threshold) for _, threshold in held)
    except (TypeError, ValueError, OverflowError):
        held, good = (), False
    check(name, value, good and len(dict(held)) == len(held), "pairs (model call, threshold), each call once")
    return held
