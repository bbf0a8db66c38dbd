"""Stable Diffusion from scratch with open attention, and energy-based guidance (EBAMA) on it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline import Pipeline
    from .result import Result

__version__ = "0.1.0"
__all__ = ["Pipeline", "Result", "__version__"]

# In a checkout, models/, samplers/ and weights/ lie beside this folder; installed, they lie inside the package.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "models" / "__init__.py").is_file():
    __path__.append(str(_root))


def __getattr__(name: str) -> object:
    """Import the pipeline (and with it transformers and spaCy) only when it is asked for."""
    if name in ("Pipeline", "Result"):
        return getattr(importlib.import_module(".pipeline", __name__), name)
    raise AttributeError(f"module 'ebama' has no attribute {name!r}")
