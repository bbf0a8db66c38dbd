"""Values as other libraries have them: numbers become Python's, and arrays and iterators tuples of them."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

_COARSEST = (torch.float8_e5m2, torch.float8_e4m3fn, torch.bfloat16, torch.float16)


def plain(value: Any) -> Any:
    """A number of any library as Python's, whole ones whole; an array, a list or an iterator as a tuple of them; any
    other value as it is."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return tuple(map(plain, value))
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return int(value)
    try:
        return float(value)
    except OverflowError:  # a fraction
        return inf if value > 0 else -inf  # type: ignore[operator]


def plain_fields(holder: object, *names: str) -> None:
    """Hold fields of a frozen dataclass as `plain` values: JSON, equality and hashes know no others."""
    for name in names:
        object.__setattr__(holder, name, plain(getattr(holder, name)))


def rounded_to(values: Tensor) -> torch.dtype:
    """The coarsest dtype that holds each of these float64: files are rounded, and stored in a wider one again."""
    return next((dtype for dtype in _COARSEST if torch.equal(values.to(dtype).double(), values)), values.dtype)


def plain_time(t: Any) -> Any:
    """A timestep or a sigma as Python's number, or several, of any library, as a tensor of int64 or of floating point;
    ValueError for booleans."""
    if not isinstance(t, Tensor):
        t = plain(t)
        if isinstance(t, bool) or not isinstance(t, int | float | tuple):
            raise ValueError(f"Got {str(t)[:80]!r}; expected a number, or several.")
        if not isinstance(t, tuple):
            return t
        like = torch.tensor(t, device="cpu")
        t = like if not like.is_floating_point() else torch.tensor(t, dtype=torch.float64, device="cpu")
    if t.dtype == torch.bool:
        raise ValueError(f"Got booleans of shape {list(t.shape)}; expected numbers, as mask.nonzero().flatten().")
    return t if t.is_floating_point() else t.long()
