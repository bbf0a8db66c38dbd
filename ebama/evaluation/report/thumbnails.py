"""Pictures of a run -> one WebP sheet of thumbnails a prompt, small enough together for one page."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from ...output.png import as_rgb, read_picture
from ...runtime.progress import Bar

BUDGET = 17_000_000
"""Bytes of all sheets together; base64 makes a third more of them."""
CHOICES = ((256, 90), (192, 90), (128, 90), (96, 90), (64, 90), (64, 75), (64, 50), (32, 50))
"""(side in pixels, WebP quality), best first."""
SAMPLE = 200
"""About how many pictures the size is judged by."""
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
        for files in Bar(self.files, desc="thumbnails", unit="prompt"):
            images = (_opened(path) for path in files)
            yield _sheet(images, len(files), self.side, self.quality, self.columns)


def plan(files: Sequence[Sequence[Path | None]], budget: int = BUDGET) -> Sheets:
    """Choose the largest thumbnails whose sheets, judged by some of the prompts, stay within `budget` bytes.

    Pictures of up to 256 pixels are not enlarged. If even the smallest choice is too large, it is taken all the same.
    """
    places = max(map(len, files), default=0) or 1
    columns = math.ceil(math.sqrt(places))
    some = files[:: math.ceil(len(files) / max(SAMPLE // places, 1)) or 1]
    shrunk = [[_opened(path, CHOICES[0][0]) for path in paths] for paths in some]
    sides = [max(image.size) for images in shrunk for image in images if image]
    parts = sum(path is not None for paths in files for path in paths) / max(len(sides), 1)
    for side, quality in CHOICES:
        if side > max(sides, default=0) or side * columns > LARGEST:
            continue
        size = sum(len(_sheet(images, len(images), side, quality, columns)) for images in shrunk)
        if size * parts * MARGIN <= budget:
            return Sheets(files, side, quality, columns)
    return Sheets(files, *CHOICES[-1], columns)


def _sheet(images: Iterable[Image.Image | None], count: int, side: int, quality: int, columns: int) -> bytes:
    sheet = Image.new("RGB", (columns * side, math.ceil(count / columns) * side), "white")
    is_blank = True
    for place, image in enumerate(images):
        if image:
            small = ImageOps.pad(image, (side, side), Image.Resampling.LANCZOS, color="white")
            sheet.paste(small, (place % columns * side, place // columns * side))
            is_blank = False
    if is_blank:
        return b""
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def _opened(path: Path | None, side: int | None = None) -> Image.Image | None:
    """A picture in RGB, no larger than `side` pixels; None if there is none or it cannot be read."""
    if path is None:
        return None
    try:
        image = as_rgb(read_picture(path))
    except (OSError, ValueError):
        return None
    if side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image
