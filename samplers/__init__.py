"""Samplers: they turn noise into a latent by calling a noise estimator. Nothing here knows of networks or prompts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .ddim import DDIM
from .pndm import PNDM
from .sampler import Sampler
from .schedule import NoiseSchedule

__all__ = ["DDIM", "PNDM", "NoiseSchedule", "Sampler", "get", "names"]


_SAMPLERS: dict[str, type[DDIM] | type[PNDM]] = {"pndm": PNDM, "ddim": DDIM}


def names() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(_SAMPLERS)


def get(name: str, steps: int = 50, **options: Any) -> Sampler:
    """The sampler called `name`, with `steps` steps and other fields of its class.

    Raises ValueError for an unknown name, a field that the class does not have, or a value out of range.
    """
    if name not in _SAMPLERS:
        raise ValueError(f"sampler is {name!r}; expected one of {', '.join(names())}.")
    sampler = _SAMPLERS[name]
    known = {field.name for field in fields(sampler)}
    if unknown := sorted(options.keys() - known):
        raise ValueError(f"Sampler {name!r} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
    return sampler(steps, **options)
