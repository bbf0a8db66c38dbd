"""PNG files that know how they were made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

KEY = "ebama"


def save_png(image: Image.Image, path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a picture, with `metadata` as JSON in its text chunk "ebama"; the file appears whole or not at all."""
    info = PngInfo()
    if metadata is not None:
        info.add_itxt(KEY, json.dumps(metadata, ensure_ascii=False))
    partial = path.with_name(f".{path.name}.tmp")
    try:
        image.save(partial, format="PNG", pnginfo=info)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_metadata(path: Path) -> dict[str, Any]:
    """What `save_png` stored; ValueError if the file is no PNG of ours."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(KEY)
    except (UnidentifiedImageError, SyntaxError):  # the second: a PNG with broken chunks
        text = None
    if text is None:
        raise ValueError(f"{path} holds no recipe; expected a PNG that `generate` wrote (its text chunk {KEY!r}).")
    try:
        metadata = json.loads(text)
    except json.JSONDecodeError:
        metadata = None
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} holds a text chunk {KEY!r} that is no recipe; expected a PNG that `generate` wrote.")
    return metadata
