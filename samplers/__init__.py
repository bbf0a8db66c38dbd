"""Samplers: they turn noise into a latent by calling a noise estimator. Nothing here knows of networks or prompts."""

from __future__ import annotations

from .ddim import DDIM
from .pndm import PNDM
from .sampler import Sampler
from .schedule import NoiseSchedule

__all__ = ["DDIM", "PNDM", "NoiseSchedule", "Sampler", "get", "names"]


def names() -> tuple[str, ...]:
    """The names `get` knows."""
    return ("pndm", "ddim")


def get(name: str, steps: int = 50) -> Sampler:
    """The deterministic sampler called `name`, with `steps` steps; ValueError if either is out of range."""
    if name == "pndm":
        return PNDM(steps)
    if name == "ddim":
        return DDIM(steps)
    raise ValueError(f"sampler is {name!r}; expected one of {', '.join(names())}.")
