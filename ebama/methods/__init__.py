"""Every system that can be compared, one file each, found by name."""

from __future__ import annotations

from typing import Any

from .base import Conditioning, Guide, Method, Task
from .ebama import Ebama
from .ebama_official import EbamaOfficial
from .sd import StableDiffusionBaseline

__all__ = [
    "Conditioning",
    "Ebama",
    "EbamaOfficial",
    "Guide",
    "Method",
    "StableDiffusionBaseline",
    "Task",
    "get",
    "names",
]

_METHODS: dict[str, type[Method]] = {method.name: method for method in (StableDiffusionBaseline, Ebama, EbamaOfficial)}


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(_METHODS)


def get(name: str, **options: Any) -> Method:
    """The method called `name` with some of its hyper-parameters set; those left out are decided by the model at hand.

    Raises ValueError for an unknown name, an unknown option or a value out of range.
    """
    if name not in _METHODS:
        raise ValueError(f"There is no method {name!r}; choose one of {', '.join(names())}.")
    known = _METHODS[name].__dataclass_fields__
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"Method {name!r} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}.")
    return _METHODS[name](**options)
