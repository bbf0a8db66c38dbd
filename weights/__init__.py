"""Checkpoints of Stable Diffusion v1: open, inspect and save them.

(`load` and `clip_tokenizer` need transformers, which is slow to import, and bring it when they are first asked for.)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import CheckpointError
from .inspection import Inspection, inspect
from .saving import save
from .stable_diffusion import StableDiffusion
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from .loading import load
    from .tokenizer import clip_tokenizer

__all__ = [
    "CheckpointError",
    "Inspection",
    "StableDiffusion",
    "Vocabulary",
    "clip_tokenizer",
    "inspect",
    "load",
    "save",
]

_LAZY = {"load": ".loading", "clip_tokenizer": ".tokenizer"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)
