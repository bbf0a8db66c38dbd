"""PNG files that know how they were made."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .files import written_whole

KEY = "ebama"


def as_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB of 8 bits; grey of 16 bits is scaled to it (Pillow would cut it off at 255)."""
    grey = np.asarray(image) if image.mode.startswith("I") else np.zeros(1)
    of_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # as older Pillows say
    if of_16_bits or grey.max() > 255:
        image = Image.fromarray((grey / 257).round().astype(np.uint8))
    return image.convert("RGB")


def encoded(image: Image.Image, metadata: dict[str, Any] | None = None) -> bytes:
    """A picture as PNG, with `metadata` as JSON in its text chunk "ebama"."""
    info = PngInfo()
    if metadata is not None:
        info.add_itxt(KEY, json.dumps(metadata, ensure_ascii=False))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def save_png(image: Image.Image, path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write what `encoded` makes; the file appears whole or not at all."""
    content = encoded(image, metadata)
    with written_whole(path) as partial:
        partial.write_bytes(content)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata that `save_png` stored; ValueError if the file is no PNG of ours."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(KEY)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, SyntaxError):  # Pillow's: no picture, or one with broken chunks
        text = None
    if text is None:
        raise ValueError(f"{path} holds no recipe; expected a PNG that `generate` wrote (its text chunk {KEY!r}).")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or nested too deeply
        metadata = None
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} holds a text chunk {KEY!r} that is no recipe; expected a PNG that `generate` wrote.")
    return metadata
