"""Checks of values that come from outside: which numbers count, and one message for a value that does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from numbers import Integral, Real
from typing import Any

LARGEST = 3e38
"""The largest number that float32 holds, about."""
_WHOLE = 2**63  # whole numbers from here on have no place in a tensor
LONGEST_LINE = 1000


def expect(name: str, value: Any, fits: bool, expected: str) -> Any:
    """The value itself; ValueError, in one line, unless it fits."""
    if not fits:
        raise ValueError(f"{name} is {short(value)}; expected {expected}.")
    return value


def short(value: object) -> str:
    """A value in a message: at most 80 characters of it, in one line."""
    try:
        text = " ".join(line.strip() for line in repr(value).splitlines())
    except ValueError:  # Python writes no number of more than some thousand digits
        text = f"a {type(value).__name__} of too many digits to write"
    return text if len(text) <= 80 else f"{text[:77]}..."


def one_line(message: object) -> str:
    """A message in one line of at most `LONGEST_LINE` characters that UTF-8 can hold: it may quote what somebody
    gave."""
    text = " ".join(str(message).split()).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - 307]} [...] {text[-300:]}"


def is_whole(value: object) -> bool:
    """Whether it is a whole number, of Python or of another library; true and false are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number that tensors can hold, of Python or of another library; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    size: Any = abs(plain(value))  # a small type may overflow in comparisons
    return bool(size < _WHOLE if isinstance(value, Integral) else size <= LARGEST)


def items(value: Any) -> list[Any]:
    """The entries of a list, a tuple, a range, an iterator, or an array or tensor of one dimension of any library, its
    numbers as Python's; none of a text, a mapping, a single number, or anything else that has no order or entries."""
    if isinstance(value, str | bytes | Mapping | set | frozenset) or not isinstance(value, Iterable):
        return []
    if hasattr(value, "tolist"):  # of several dimensions: lists, which are no entries of any kind
        try:
            value = [] if getattr(value, "ndim", None) == 0 else value.tolist()
        except (RuntimeError, NotImplementedError):  # a tensor without values, or with some alone
            return []
    return [plain(entry) for entry in value]


def several(values: Any) -> list[Any]:
    """The entries of anything that has some, or the one text or number that it is, numbers as Python's."""
    is_one = isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", None) == 0
    return [plain(value) for value in ([values] if is_one else values)]


def plain_all(value: Any) -> Any:
    """Numbers of any library as Python's, also in lists and tuples; arrays as lists; any other value as it is."""
    value = plain(value)
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(plain_all, value))
    return value.tolist() if hasattr(value, "tolist") else value


def plain(value: Any) -> Any:
    """A single number of any library as Python's, whole ones whole, for JSON; any other value as it is."""
    if getattr(value, "shape", None) == () and not getattr(value, "is_meta", False):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return int(value)
    try:
        return float(value)
    except OverflowError:  # a fraction
        return inf if value > 0 else -inf  # type: ignore[operator]
