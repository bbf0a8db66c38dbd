"""Names of files fit into what file systems take: bytes, not letters."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ebama.output.naming import file_name, slug
from ebama.output.png import as_rgb, decoded, read_picture


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red car, and a cat!", "a-red-car-and-a-cat"),
        ("a " * 80, "-".join("a" * 40) + "-"),
        ("!?", "prompt"),
        ("猫と犬", "猫と犬"),
    ],
)
def test_slug_of_a_prompt(prompt: str, name: str) -> None:
    assert slug(prompt) == name


@pytest.mark.parametrize("letter", ["a", "é", "猫", "𝔞", "𐍈"])
@pytest.mark.parametrize("count", [1, 79, 80, 300])
def test_names_of_long_texts_of_any_letters_can_be_written(letter: str, count: int, tmp_path: Path) -> None:
    for name in (slug(letter * count), file_name(letter * count)):
        assert 0 < len(name.encode()) <= 130
        (tmp_path / f"{name}-seed0000.png").write_text("")


def test_file_names_of_texts_that_differ_differ() -> None:
    texts = ["ebama+a=1", "ebama+a=1/2", "ebama+a=1:2", "a" * 200, "a" * 201]
    assert file_name("ebama+intensity_weight=0") == "ebama+intensity_weight=0"
    assert len({file_name(text) for text in texts}) == len(texts)


def test_names_in_a_locale_of_ascii_are_those_of_utf_8(tmp_path: Path) -> None:
    texts = ["a café and a 猫", "猫", "plain", "é:😂"]
    lines = ["import sys", "from pathlib import Path", "from ebama.output.naming import file_name, slug"]
    lines += [f"[Path(sys.argv[1], name).touch() for text in {texts!a} for name in (slug(text), file_name(text))]"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {**os.environ, **ascii_only, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", "\n".join(lines), str(tmp_path)], env=environment, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {name(text) for text in texts for name in (slug, file_name)}


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (128 * 257, 128), (255 * 257, 255), (200, 1)])
def test_grey_of_16_bits_is_scaled_to_8(value: int, grey: int, tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 3), value, np.uint16)).save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        assert as_rgb(image).getpixel((0, 0)) == (grey,) * 3


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "RGB", "1", "CMYK"])
def test_other_images_are_what_pillow_makes_of_them(mode: str) -> None:
    image = Image.linear_gradient("L").resize((4, 4)).convert("RGB").convert(mode)
    assert as_rgb(image).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        (np.float32([[0.0, 0.5, 1.0]]), [0, 128, 255]),
        (np.float32([[0.0, 0.5, 1.00001]]), [0, 128, 255]),
        (np.float32([[0.0, 0.5, 1.2]]), [0, 128, 255]),
        (np.float32([[0, 127.5, 255]]), [0, 128, 255]),
        (np.float32([[0, 32768, 65535]]), [0, 128, 255]),
        (np.int32([[0, 128, 255]]), [0, 128, 255]),
        (np.int32([[0, 32896, 65535]]), [0, 128, 255]),
        (np.uint16([[0, 128, 255]]), [0, 0, 1]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_grey_of_more_bits_is_seen_in_its_scale(values: Any, grey: list[int], tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "grey.tif")
    assert np.asarray(as_rgb(read_picture(tmp_path / "grey.tif")))[0, :, 0].tolist() == grey


def test_a_clear_colour_of_16_bits_is_on_white() -> None:
    image = Image.new("RGB", (2, 1), (3, 7, 11))
    image.putpixel((1, 0), (3, 7, 12))
    image.info["transparency"] = (1000, 2000, 3001)  # of which Pillow keeps the upper 8 bits in the pixels
    assert [as_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (3, 7, 12)]


@pytest.mark.parametrize(
    "values",
    [np.uint16([[0, 32896, 65535]]), np.float32([[0, 0.5, 1]])],
    ids=["16 bits", "floating point"],
)
def test_grey_whose_white_is_the_least_is_turned(values: Any, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "grey.tif", tiffinfo={262: 0})
    assert np.asarray(as_rgb(read_picture(tmp_path / "grey.tif")))[0, :, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize(("three_bytes", "grey"), [(b"\xff\xff\xff", 255), (b"\x80\x08\x00", 128), (b"\0\0\0", 0)])
def test_grey_of_12_bits_is_scaled_to_8(three_bytes: bytes, grey: int) -> None:
    """A TIFF of 2 x 1 pixels in three bytes."""
    facts = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in facts.items())
    content = (
        b"II*\0" + struct.pack("<I", 12) + three_bytes + b"\0" + struct.pack("<H", len(facts)) + entries + b"\0" * 4
    )
    assert as_rgb(decoded(content)).getpixel((0, 0)) == (grey,) * 3


@pytest.mark.parametrize("orientation", [1, 6])
def test_grey_of_16_bits_is_white_where_it_is_transparent(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    grey = Image.fromarray(np.uint16([[0, 30000, 65535]]))
    grey.save(tmp_path / "grey.png", transparency=30000, exif=exif)
    assert np.asarray(as_rgb(read_picture(tmp_path / "grey.png")))[..., 0].ravel().tolist() == [0, 255, 255]


@pytest.mark.parametrize("values", [[[0.0, np.nan]], [[-0.5, 0.5]], [[0.0, 1e6]], [[0.0, np.inf]]], ids=str)
def test_grey_without_a_scale_is_refused(values: Any, tmp_path: Path) -> None:
    Image.fromarray(np.array(values, np.float32)).save(tmp_path / "grey.tif")
    with pytest.raises(ValueError, match=r"the picture's grey goes from .* expected 0 to 1, to 255 or to 65535"):
        as_rgb(read_picture(tmp_path / "grey.tif"))
