"""Pictures of a run -> one WebP sheet of thumbnails a prompt, small enough together for one page."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

BUDGET = 17_000_000
"""Bytes of all sheets together; base64 makes a third more of them."""
CHOICES = ((256, 90), (192, 90), (128, 90), (96, 90), (64, 90), (64, 75), (64, 50), (32, 50))
"""(side in pixels, WebP quality), best first."""
SAMPLES = 6
MARGIN = 1.1
LARGEST = 16383
"""Pixels that a side of a WebP picture may have."""


@dataclass(frozen=True)
class Sheets:
    """How the sheets are laid out: `side` pixels a thumbnail, `columns` of them in a row, picture by picture.

    `files` has an entry for each prompt: the paths of its pictures, None where there is none.
    """

    files: Sequence[Sequence[Path | None]]
    side: int
    quality: int
    columns: int

    def encode(self) -> Iterator[bytes]:
        """The WebP file of each prompt's sheet in turn; empty if none of its pictures can be read."""
        for files in tqdm(self.files, desc="thumbnails", unit="prompt"):
            yield _sheet(files, self.side, self.quality, self.columns)


def plan(files: Sequence[Sequence[Path | None]], budget: int = BUDGET) -> Sheets:
    """Choose the largest thumbnails whose sheets, judged by some of the prompts, stay within `budget` bytes.

    No picture is enlarged. If even the smallest choice is too large, it is taken all the same.
    """
    places = max(map(len, files), default=1)
    columns = math.ceil(math.sqrt(max(places, 1)))
    step = max(len(files) // SAMPLES, 1)
    some = list(files[::step])
    largest = max((max(image.size) for image in map(_opened, _existing(some)) if image), default=64)
    kept = sum(1 for _ in _existing(files)) / max(sum(1 for _ in _existing(some)), 1)
    choices = [(side, quality) for side, quality in CHOICES if side <= largest and side * columns <= LARGEST]
    for side, quality in choices:
        size = sum(len(_sheet(each, side, quality, columns)) for each in some)
        if size * kept * MARGIN <= budget:
            return Sheets(files, side, quality, columns)
    return Sheets(files, *CHOICES[-1], columns)


def _existing(files: Sequence[Sequence[Path | None]]) -> Iterator[Path]:
    return (path for each in files for path in each if path is not None)


def _sheet(files: Sequence[Path | None], side: int, quality: int, columns: int) -> bytes:
    sheet = Image.new("RGB", (columns * side, math.ceil(len(files) / columns) * side), "white")
    found = False
    for place, path in enumerate(files):
        if path is not None and (image := _opened(path)):
            small = ImageOps.pad(image, (side, side), Image.Resampling.LANCZOS, color="white")
            sheet.paste(small, (place % columns * side, place // columns * side))
            found = True
    if not found:
        return b""
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


def _opened(path: Path) -> Image.Image | None:
    """A picture in RGB; None if there is none or it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError):
        return None
