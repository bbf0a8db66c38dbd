"""A small rule-based dependency parser for prompts: no model, no data, no spaCy."""

from __future__ import annotations

from .dependencies import analyse

__all__ = ["analyse"]
