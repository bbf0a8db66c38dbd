"""PNG files that know how they were made, and pictures of any origin."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo, iTXt

from .claims import write_new
from .files import to_json, written_whole
from .reading import parse_object, read_bytes

KEY = "ebama"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are read: none whose reader starts another program, as that of EPS does."""
MAX_PIXELS = 2**26
_SUBFILE = 254
"""TIFF's tag that says whether a picture is a smaller one of another in the file: NewSubfileType."""
START = b"\x89PNG\r\n\x1a\n"
END = b"IEND\xaeB`\x82"
"""The last chunk of every PNG, with its checksum."""


def as_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB of 8 bits as it is meant to be seen: turned as its EXIF orientation says, on white where it is
    transparent; grey of 12 and 16 bits and of floating point is scaled (Pillow would cut it off at 255). ValueError for
    grey whose scale nothing tells, and for a picture whose file was closed."""
    try:
        image.load()
    except (AssertionError, ValueError, OSError) as error:
        raise ValueError("the picture's file was closed or cut before it was read; call its load() before") from error
    opened, image = image, _upright(image)
    if image.mode.startswith(("I", "F")):
        image = _in_8_bits(image, opened)
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits, of which Pillow kept 8
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _in_8_bits(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Grey of more bits, of integers from 0 to 255 or to the largest of its bits, or of floating point from 0 to 1 (a
    filter may go beyond it) or one of these. `opened` is the image before it was turned, which knows its file."""
    of_tiff: Any = getattr(opened, "tag_v2", {})
    grey, clear = np.asarray(image), image.info.get("transparency")
    low, high = grey.min(), grey.max()
    if not 0 <= low <= high <= 65535:  # or NaN
        raise ValueError(
            f"the picture's grey goes from {low} to {high}; expected 0 to 1, to 255 or to 65535: scale it."
        )
    if image.mode.startswith("I;16") or (image.mode == "I" and opened.format == "PNG"):
        white = 2 ** of_tiff.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] - 1
    else:
        white = 65535 if high > 255 else 1 if image.mode == "F" and high < 2 else 255
    light = (grey * (255 / white)).clip(0, 255).round()
    if of_tiff.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is the least
        light = 255 - light
    if clear is not None:
        light[grey == clear] = 255
    return Image.fromarray(light.astype(np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF orientation says; what is damaged there says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # whatever Pillow's reader of EXIF raises: SyntaxError, TypeError, struct.error, ...
        return image


def encoded(image: Image.Image, metadata: dict[str, Any] | None = None) -> bytes:
    """A picture as PNG, with `metadata` as JSON in its text chunk "ebama"."""
    info = PngInfo()
    if metadata is not None:
        info.add_itxt(KEY, to_json(metadata))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def save_png(image: Image.Image, path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write what `encoded` makes; the file appears whole or not at all."""
    content = encoded(image, metadata)
    with written_whole(path) as partial:
        partial.write_bytes(content)


def save_new_png(image: Image.Image, path: Path, metadata: dict[str, Any]) -> Path:
    """Write what `encoded` makes as `path`, or as a numbered file beside it; returns its path.

    Only a picture of the same recipe is replaced, and none that another process writes at the same time.
    """
    content = encoded(image, metadata)
    return write_new(path, lambda partial: partial.write_bytes(content), lambda other: _has_recipe(other, metadata))


def decoded(content: bytes) -> Image.Image:
    """The picture that a file's content is, read to its end; ValueError if it is none, or cut, or too large."""
    try:
        try:
            return _loaded(content)
        except ValueError:  # texts, say, that Pillow finds too long once they are unpacked
            return _loaded(_without_texts(content))
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # which names an object in memory
        raise ValueError(f"no picture that can be read: it is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # whatever Pillow's readers raise: OSError, SyntaxError, DecompressionBombError, ...
        raise ValueError(f"no picture that can be read: {error}") from error


def _loaded(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than {MAX_PIXELS}")
    if getattr(image, "tag_v2", {}).get(_SUBFILE) == 1:
        raise ValueError("it is a camera's raw file, whose first picture is a thumbnail; convert it")
    image.load()
    if image.format == "PNG" and content[25] == 0:  # grey
        largest = 2 ** content[24] - 1
        if largest < 255 and image.info.get("transparency", 256) <= largest:
            image.info["transparency"] *= 255 // largest  # Pillow has scaled the greys, but not the one to see through
    return image


def _without_texts(content: bytes) -> bytes:
    """A PNG without its texts, but for ours, and without its colour profile; any other content as it is."""
    if not content.startswith(START):
        return content
    kept, at = [START], len(START)
    while at + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        chunk = content[at : at + size + 12]  # its size and name, and its checksum
        if name not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP") or chunk[8:].startswith(KEY.encode() + b"\0"):
            kept.append(chunk)
        at += len(chunk)
    return b"".join(kept)


def read_picture(path: Path) -> Image.Image:
    """The picture in a file; ValueError, naming the file, if it is none, and OSError if it cannot be opened."""
    content = read_bytes(path)
    try:
        return decoded(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata that `save_png` stored; ValueError if the file is no PNG of ours."""
    content = read_bytes(path)
    try:
        image = decoded(content)
    except ValueError as error:
        raise ValueError(f"{path} holds no recipe, but {error}.") from error
    return metadata_of(image, path)


def metadata_of(image: Image.Image, path: Path | str) -> dict[str, Any]:
    """The metadata of a picture that `decoded` read: chunks behind the pixels are there too; messages name `path`."""
    text = image.info.get(KEY)
    if not isinstance(text, str):
        raise ValueError(f"{path} holds no recipe; expected a PNG that `generate` wrote (its text chunk {KEY!r}).")
    if not isinstance(text, iTXt):  # another program wrote it again, in UTF-8 still, where Pillow expects Latin-1
        with suppress(UnicodeError):
            text = text.encode("latin-1").decode()
    try:
        return parse_object(text)
    except ValueError as error:
        raise ValueError(
            f"{path} holds a text chunk {KEY!r} that is no recipe; expected a PNG that `generate` wrote."
        ) from error


def is_whole(path: Path) -> bool:
    """Whether a PNG is there and can be read to its end."""
    try:
        content = read_bytes(path)
        decoded(content)
    except (OSError, ValueError):
        return False
    return content.endswith(END)


def _has_recipe(path: Path, metadata: dict[str, Any]) -> bool:
    try:
        return _comparable(read_metadata(path)) == _comparable(metadata)
    except (ValueError, OSError):
        return False


def _comparable(metadata: dict[str, Any]) -> str:
    return to_json({key: value for key, value in metadata.items() if key != "versions"}, sort_keys=True)
