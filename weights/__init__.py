"""Checkpoints of Stable Diffusion v1, 2 and XL: open, inspect and save them."""

from __future__ import annotations

from .errors import CheckpointError
from .inspection import Inspection, inspect
from .loading import load
from .saving import save
from .stable_diffusion import StableDiffusion
from .tokenizer import clip_tokenizer
from .vocabulary import Vocabulary

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
