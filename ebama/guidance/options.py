"""Rules for a method's options: `step: float = option(20.0, number())` checks what is given and holds it frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field, fields
from typing import Any, TypeVar

from ..checks import expect, is_number, plain, short

T = TypeVar("T")

Rule = Callable[[str, Any], Any]
"""(name of an option, value given) -> the value to hold. Raises ValueError for a value that no run could use."""

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


def number(good: Callable[[float], bool] = lambda x: x >= 0, expected: str = "a finite number of at least 0") -> Rule:
    """A finite number, by default of at least 0."""
    return lambda name, value: expect(name, value, is_number(value) and good(value), expected)


def whole(least: int = 0) -> Rule:
    """A whole number, of at most `MAX_COUNT`."""
    expected = f"a whole number of at least {least} and at most {MAX_COUNT}"
    return lambda name, value: expect(name, value, type(value) is int and least <= value <= MAX_COUNT, expected)


def guided_calls(name: str, value: Any) -> Any:
    """How many model calls are guided, from the first one on."""
    good = value is None or (type(value) is int and value >= 0)
    return expect(name, value, good, "a whole number of at least 0, or None for every call")


def switch(name: str, value: Any) -> Any:
    """True or false."""
    return expect(name, value, isinstance(value, bool), "true or false")


def one_of(*values: str) -> Rule:
    """One of some words."""
    expected = ", ".join(map(repr, values[:-1])) + f" or {values[-1]!r}"
    return lambda name, value: expect(name, value, isinstance(value, str) and value in values, expected)


def whole_numbers(expected: str, count: int | None = None) -> Rule:
    """A tuple of whole numbers from 0 to `MAX_COUNT`, of a given length if it says one."""

    def rule(name: str, value: Any) -> tuple[int, ...]:
        numbers = tuple(map(plain, value)) if isinstance(value, Iterable) else (None,)
        good = all(type(n) is int and 0 <= n <= MAX_COUNT for n in numbers) and count in (None, len(numbers))
        expect(name, value, good, expected)
        return numbers

    return rule


def pairs(example: str, rule: Rule = lambda name, value: value) -> Rule:
    """A mapping as pairs, which are hashable and JSON's lists of them again; `rule` checks each (key, value)."""

    def whole_rule(name: str, value: Any) -> tuple[tuple[Any, Any], ...]:
        try:
            mapping: dict[Any, Any] = dict(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {short(value)}; expected a mapping, as {example}.") from None
        return tuple(rule(name, (plain(key), plain(held))) for key, held in mapping.items())

    return whole_rule


def thresholds(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    """(model call, threshold) pairs, each call once."""
    try:
        held = tuple((int(i), float(threshold)) for i, threshold in value)
        good = all(0 <= i == given[0] for (i, _), given in zip(held, value, strict=True))
        good = good and all(is_number(part) for pair in value for part in pair) and not isinstance(value, str | dict)
    except (TypeError, ValueError, OverflowError):
        held, good = (), False
    expect(name, value, good and len(dict(held)) == len(held), "pairs (model call, threshold), each call once")
    return held
