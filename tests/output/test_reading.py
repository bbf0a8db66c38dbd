"""Files of unknown origin are refused in one line, at once, whatever they are."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ebama.output import reading
from ebama.output.files import to_json
from ebama.output.png import decoded, is_whole, metadata_of, read_metadata, read_picture, save_png

READERS = (reading.read_bytes, reading.read_text, reading.read_object, read_picture, read_metadata)


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth > 1 else {}


@pytest.mark.parametrize("reader", READERS)
def test_pipes_and_devices_are_not_read(reader: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(ValueError, match=rf"^{path} is a pipe or a device; expected a regular file\.$"):
            reader(path)
    with pytest.raises(OSError, match="directory"):
        reader(tmp_path)


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(ValueError, match=r"large is too large; expected at most 256 MiB\.$"):
        reading.read_bytes(path)
    assert reading.read_bytes(Path(__file__), Path(__file__).stat().st_size) == Path(__file__).read_bytes()


def test_no_more_memory_is_taken_than_a_file_needs() -> None:
    tracemalloc.start()
    try:
        content = reading.read_bytes(Path(__file__), 2**31)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(content) + 100_000
    finally:
        tracemalloc.stop()
    assert content == Path(__file__).read_bytes()


def test_a_text_has_no_byte_order_mark_and_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("\ufeffé".encode())
    assert reading.read_text(tmp_path / "text") == "é"
    for content in ("é".encode("utf-16"), b"\xff\xfe", b"caf\xe9"):
        (tmp_path / "text").write_bytes(content)
        with pytest.raises(ValueError, match=r"text is no text in UTF-8 \(.* at byte \d\)\.$"):
            reading.read_text(tmp_path / "text")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("3", 1),
        ("[]", 1),
        ("null", 1),
        ('{"a": 1,\n "b": }', 2),
        ('{"a": ' + "9" * 5000 + "}", 1),
        ('{"a": ' + "[" * 33 + "]" * 33 + "}", 1),
        ('{"a": ' + "[" * 10**5 + "]" * 10**5 + "}", 1),
        ('{"a":' * 10**5, 1),
        ('{"a": 1, "b": 2, "a": 1}', 1),
        ('{"a": [{"b": 2, "b": 3}]}', 1),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_that_is_no_object_is_named_with_its_line(text: str, line: int, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=rf"^Line {line} of .*run\.json is damaged: expected a JSON object"):
        reading.read_object(tmp_path / "run.json")


def test_a_link_that_leads_nowhere_is_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "run.json").symlink_to(tmp_path / "gone.json")
    with pytest.raises(ValueError, match=r"run\.json is a link that leads nowhere"):
        reading.read_object(tmp_path / "run.json")


def test_json_is_read_up_to_its_depth(tmp_path: Path) -> None:
    assert reading.read_object(tmp_path / "none.json") == {}
    assert reading.parse_object(json.dumps(nested(reading.MAX_DEPTH))) == nested(reading.MAX_DEPTH)
    with pytest.raises(ValueError, match="nested deeply"):
        reading.parse_object(json.dumps(nested(reading.MAX_DEPTH + 2)))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says its size, and holds nothing."""
    chunks = b""
    for name, content in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", b""),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9000, 12000, 60000, 2**31 - 1])
def test_pictures_of_too_many_pixels_are_not_opened(side: int, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    for reader in (read_picture, read_metadata):
        with pytest.raises(ValueError, match=r"bomb\.png.*no picture that can be read: .*pixels"):
            reader(tmp_path / "bomb.png")


def test_formats_that_start_other_programs_are_no_pictures() -> None:
    with pytest.raises(ValueError, match="no picture that can be read: it is none of PNG, JPEG"):
        decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


def test_a_cut_picture_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    assert not is_whole(path)
    save_png(Image.effect_noise((64, 64), 90).convert("RGB"), path, {"a": 1})
    assert is_whole(path)
    content = path.read_bytes()
    for end in (0, 8, 100, len(content) // 2, len(content) - 200):
        path.write_bytes(content[:end])
        assert not is_whole(path)
    path.write_bytes(content[: len(content) // 2] + b"x" * 20 + content[len(content) // 2 + 20 :])
    assert not is_whole(path)


@pytest.mark.parametrize("value", ["\udcff", "a\ud800b", "é猫🐱", "\0", "\\udcff"])
def test_any_text_survives_in_a_recipe(value: str, tmp_path: Path) -> None:
    save_png(Image.new("RGB", (4, 4)), tmp_path / "a.png", {"weights": value})
    assert read_metadata(tmp_path / "a.png") == {"weights": value}


@pytest.mark.parametrize("after", [False, True])
def test_text_before_and_behind_the_pixels_is_read(after: bool, tmp_path: Path) -> None:
    info = PngInfo()
    info.add(b"tEXt", b"ebama\0" + b'{"seed": 3}', after_idat=after)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    assert read_metadata(tmp_path / "a.png") == {"seed": 3}


@pytest.mark.parametrize("chunk", ["tEXt", "zTXt"])
@pytest.mark.parametrize("text", ["a red piñata", "猫🐱 and a “car”", "plain"])
def test_a_recipe_that_another_program_wrote_again_is_the_same(chunk: str, text: str, tmp_path: Path) -> None:
    content, info = to_json({"prompt": text}).encode(), PngInfo()
    info.add(chunk.encode(), b"ebama\0" + (content if chunk == "tEXt" else b"\0" + zlib.compress(content)))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    assert read_metadata(tmp_path / "a.png") == {"prompt": text}


def test_an_address_is_no_picture() -> None:
    with pytest.raises(ValueError, match=r"https:/a\.b/c\.png is an address, which is not opened; fetch it first"):
        read_picture(Path("https://a.b/c.png"))


def test_a_recipe_in_latin_1_is_read(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("ebama", '{"prompt": "a piñata"}')
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    assert read_metadata(tmp_path / "a.png") == {"prompt": "a piñata"}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["zTXt", "iTXt", "iCCP", "tEXt"])
def test_a_picture_opens_whatever_other_texts_lie_in_it(name: str, after: bool) -> None:
    packed, info, file = zlib.compress(b"x" * 2_000_000), PngInfo(), io.BytesIO()
    text = {"zTXt": b"\0\0" + packed, "iTXt": b"\0\1\0\0\0" + packed, "iCCP": b"\0\0" + packed, "tEXt": b"\0" + b"x"}
    for _ in range(70 if name == "zTXt" else 1):
        info.add(name.encode(), b"XML:com.adobe.xmp" + text[name], after_idat=after)
    info.add_itxt("ebama", '{"seed": 3}')
    Image.new("RGB", (4, 4), (10, 20, 30)).save(file, "PNG", pnginfo=info)
    image = decoded(file.getvalue())
    assert (image.getpixel((0, 0)), metadata_of(image, "it")) == ((10, 20, 30), {"seed": 3})


@pytest.mark.parametrize("text", ["", "3", "[]", '{"a":' * 3000, '{"a": ' + "[" * 50 + "]" * 50 + "}", "9" * 9999])
def test_a_recipe_that_is_no_object_is_named(text: str, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_itxt("ebama", text)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(
        ValueError, match=re.escape(f"{tmp_path / 'a.png'} holds a text chunk 'ebama' that is no recipe")
    ):
        read_metadata(tmp_path / "a.png")
