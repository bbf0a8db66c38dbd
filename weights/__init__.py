"""Checkpoints of Stable Diffusion v1: open, inspect and save them."""

from __future__ import annotations

from .errors import CheckpointError
from .inspection import Inspection, inspect
from .load import load
from .save import save
from .stable_diffusion import StableDiffusion
from .tokenizer import clip_tokenizer

__all__ = ["CheckpointError", "Inspection", "StableDiffusion", "clip_tokenizer", "inspect", "load", "save"]
