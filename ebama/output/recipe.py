"""What makes an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def complete(metadata: dict[str, Any], weights: Path | None, dtype: str) -> dict[str, Any]:
    """What a pipeline says of a picture, and what it was loaded from: all that it takes to make it again."""
    return {**metadata, "weights": str(weights) if weights else None, "dtype": dtype}
