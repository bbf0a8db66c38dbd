"""Pictures of any kind as the VAE sees them, and runs that start from one."""

from __future__ import annotations

import io
import math
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import model, noise, relative, run, transfer
from torch import Tensor

from ebama import Pipeline, methods
from ebama.output.png import START, as_rgb, decoded, encoded
from ebama.output.recipe import Recipe
from ebama.samplers import DDIM, PNDM, NoiseSchedule, Sampler
from ebama.starts import digest, encode, fitted

RED, BLUE = (255, 0, 0), (0, 0, 255)
CATS, CROWN = "a red cat and a blue dog", "a purple crown and a blue suitcase"
SIDE = 32  # of a picture of the tiny model, whose VAE halves it


def picture(seed: int = 0, width: int = SIDE, height: int = SIDE) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


# --- what a picture looks like ---


def turned(orientation: int) -> Image.Image:
    """Red above blue when it is seen as its EXIF orientation says."""
    upright = np.zeros((6, 4, 3), np.uint8)
    upright[:3], upright[3:], upright[:, :1] = RED, BLUE, 255  # white at the left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    image.getexif()[0x0112] = orientation
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_as_its_exif_says(orientation: int) -> None:
    assert np.array_equal(as_rgb(turned(orientation)), as_rgb(turned(1)))
    assert digest(as_rgb(turned(orientation))) == digest(as_rgb(turned(1)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the damage
def test_a_file_with_damaged_exif_is_a_picture_all_the_same() -> None:
    buffer = io.BytesIO()
    turned(6).save(buffer, "JPEG", exif=turned(6).getexif())
    content, rng = buffer.getvalue(), np.random.default_rng(0)
    header = content.index(b"Exif") + 6
    read = 0
    for _ in range(100):
        damaged = bytearray(content)
        for at in rng.integers(header, header + 30, 3):
            damaged[at] = rng.integers(256)
        with suppress(ValueError):  # the reader may refuse it, in one line
            image = decoded(bytes(damaged))
            assert as_rgb(image).mode == "RGB"
            read += 1
    assert read > 10


def transparent(mode: str) -> Image.Image:
    """Nothing but black that is not seen."""
    image = Image.new("RGBA", (3, 2), (0, 0, 0, 0)).convert(mode)
    return decoded(encoded(image))


def keyed() -> Image.Image:
    image = Image.new("RGB", (3, 2))
    image.info["transparency"] = (0, 0, 0)
    return image


def palette() -> Image.Image:
    image = Image.new("P", (3, 2))
    image.putpalette([0, 0, 0, 9, 9, 9])
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize("image", [transparent("RGBA"), transparent("LA"), keyed(), palette()], ids=lambda i: i.mode)
def test_what_is_transparent_is_white(image: Image.Image) -> None:
    assert as_rgb(image).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_of_few_greys_the_one_to_see_through_is_white(bits: int) -> None:
    largest = 2**bits - 1
    greys = [0, 1, largest // 2, largest]
    row = sum(grey << (32 - bits * (place + 1)) for place, grey in enumerate(greys)).to_bytes(4, "big")
    for clear in greys:
        chunks = {
            b"IHDR": struct.pack(">IIBBBBB", len(greys), 1, bits, 0, 0, 0, 0),
            b"tRNS": struct.pack(">H", clear),
            b"IDAT": zlib.compress(b"\0" + row[: (bits * len(greys) + 7) // 8]),
            b"IEND": b"",
        }
        content = START + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks.items()
        )
        shown = [255 if grey == clear else 255 * grey // largest for grey in greys]
        assert np.asarray(as_rgb(decoded(content)))[0, :, 0].tolist() == shown


def test_half_transparent_is_half_white() -> None:
    assert as_rgb(Image.new("RGBA", (1, 1), (0, 0, 100, 51))).getpixel((0, 0)) == (204, 204, 224)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize("size", [(SIDE, SIDE), (1, 1), (33, 31), (500, 3), (3, 500), (64, 48)])
def test_every_picture_is_fitted(mode: str, size: tuple[int, int]) -> None:
    image = Image.linear_gradient("L").resize(size)
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    (found,) = fitted(image, (24, 40))
    assert (found.size, found.mode) == ((40, 24), "RGB")
    assert found.tobytes() == fitted([as_rgb(image)], (24, 40))[0].tobytes()


def test_a_picture_of_the_size_stays_as_it_is_and_others_lose_both_sides_alike() -> None:
    assert fitted(picture(), (SIDE, SIDE))[0].tobytes() == picture().tobytes()
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = RED
    assert np.array_equal(fitted(Image.fromarray(wide), (8, 8))[0], np.full((8, 8, 3), RED))
    assert np.array_equal(fitted(Image.fromarray(wide.swapaxes(0, 1)), (8, 8))[0], np.full((8, 8, 3), RED))


def test_a_digest_is_of_size_and_pixels() -> None:
    image = Image.new("RGB", (4, 2))
    others = [Image.new("RGB", (2, 4)), Image.new("RGB", (4, 2), (0, 0, 1))]
    assert len({digest(image), digest(image.copy()), *map(digest, others)}) == 3
    assert len(digest(image)) == 64


# --- latents ---


@torch.no_grad()
def test_a_latent_is_the_posteriors_mean_scaled(tmp_path: Path) -> None:
    vae, pipeline = model().vae, Pipeline(model())
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    x = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None] / 127.5 - 1
    expected = vae.encode(x).mean * vae.scale
    for given in (picture(), str(tmp_path / "a.png"), tmp_path / "a.png", [picture()]):
        found = pipeline.encode(given)
        assert (found.dtype, found.device.type) == (torch.float32, "cpu")
        assert relative(found, expected) <= 1e-6
    assert pipeline.encode(picture(), size=(48, 16)).shape == (1, 4, 24, 8)
    many = pipeline.encode([picture(k) for k in range(9)])
    for k in (0, 8):
        assert relative(many[k : k + 1], pipeline.encode(picture(k))) <= 1e-5


def test_a_picture_that_the_vae_cannot_hold_is_an_error() -> None:
    vae = replace(model()).vae
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(vae), "encode", lambda self, x: type("P", (), {"mean": torch.full((1, 4, 2, 2), math.nan)}))
        with pytest.raises(FloatingPointError, match="infinite or NaN values of a picture"):
            encode(vae, [picture()])


# --- runs that start in one ---


@torch.no_grad()
def by_hand(x: Tensor, prompt: str, steps: int, left: int, seed: int) -> Tensor:
    """The last `left` of DDIM's steps, from the picture's latent under the seed's noise, written out."""
    sd, stride = model(), 1000 // steps
    alpha = NoiseSchedule().alpha(1 + (left - 1) * stride)
    z = math.sqrt(alpha) * x + math.sqrt(1 - alpha) * torch.randn(
        x.shape[1:], generator=torch.Generator().manual_seed(seed)
    )
    contexts = sd.encode_text(["", prompt])
    for i in reversed(range(left)):
        t = 1 + i * stride
        without, with_prompt = sd.unet(z.repeat(2, 1, 1, 1), t, contexts).chunk(2)
        z = transfer(z, without + 7.5 * (with_prompt - without), t, stride)
    return z


@pytest.mark.parametrize(("strength", "left"), [(1, 3), (0.6, 2), (0.3, 1)])
def test_a_strength_is_the_last_part_of_the_steps_from_the_noised_picture(strength: float, left: int) -> None:
    expected = by_hand(Pipeline(model()).encode(picture()), CATS, 3, left, seed=3)
    found = run(CATS, "sd", image=picture(), strength=strength, steps=3, sampler="ddim", seeds=[3])
    assert relative(found.latents, expected) <= 1e-5
    if strength == 0.6:
        same = run(CATS, "sd", image=picture(), strength=0.6, sampler=DDIM(3), seeds=[3])
        assert torch.equal(same.latents, found.latents)


@pytest.mark.slow
def test_latents_are_the_noise_and_the_strength_is_four_fifths() -> None:
    seeded = run(CATS, "sd", image=picture(), steps=5, sampler="ddim", seeds=[3])
    given = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(3))[None]
    found = run(CATS, "sd", image=picture(), latents=given, strength=0.8, steps=5, sampler="ddim")
    assert torch.equal(found.latents, seeded.latents)
    assert found.recipes[0].seed is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "method"),
    [(DDIM(2, eta=1.0), "sd"), pytest.param(PNDM(2), "ebama", marks=pytest.mark.slow)],
    ids=["eta", "guided"],
)
def test_a_batch_of_pictures_is_what_they_are_one_by_one(sampler: Sampler, method: str) -> None:
    options: dict[str, Any] = {"strength": 0.5, "sampler": sampler}
    together = run([CATS, CROWN], method, image=[picture(1), picture(2)], seeds=[3, 4], batch_size=3, **options)
    single = [
        run(prompt, method, image=picture(k), seeds=[seed], **options)
        for k, prompt in ((1, CATS), (2, CROWN))
        for seed in (3, 4)
    ]
    for k, one in enumerate(single):
        assert relative(together.latents[k : k + 1], one.latents) <= 1e-4
    assert together.metadata == [one.metadata[0] for one in single]


def test_one_picture_is_for_all_prompts_and_of_the_size_asked_for() -> None:
    options: dict[str, Any] = {"strength": 0.5, "steps": 2, "size": (32, 48)}
    one = run([CATS, CROWN], "sd", image=picture(), **options)
    two = run([CATS, CROWN], "sd", image=[picture(), picture()], **options)
    assert one.latents.shape == (2, 4, 16, 24)
    assert torch.equal(one.latents, two.latents)
    assert (
        one.latents.shape == run([CATS, CROWN], "sd", image=picture(), strength=0.5, latents=one.latents).latents.shape
    )


@pytest.mark.slow
def test_p2p_edits_a_picture() -> None:
    prompts = ["a red cat", "a blue cat"]
    found = run(prompts, "p2p", image=picture(), strength=0.5, steps=4)
    assert relative(found.latents[:1], run(prompts[0], "sd", image=picture(), strength=0.5, steps=4).latents) <= 1e-5
    assert relative(found.latents[1:], run(prompts[1], "sd", image=picture(), strength=0.5, steps=4).latents) > 1e-3


# --- recipes ---


def test_a_recipe_names_the_picture_and_makes_it_again() -> None:
    found = run(CATS, "sd", image=picture(), strength=0.5, steps=4, seeds=[3])
    metadata = found.metadata[0]
    assert metadata["image"] == {"sha256": digest(picture()), "strength": 0.5}
    recipe = Recipe.from_metadata(metadata)
    assert recipe == found.recipes[0]
    again = Pipeline(model())(method="sd", image=picture(), output="latent", progress=False, **recipe.arguments())
    assert torch.equal(again.latents, found.latents)
    assert again.metadata == found.metadata
    assert "image" not in run(CATS, "sd").metadata[0]


@pytest.mark.parametrize(
    "image", ["a.png", {}, {"sha256": "/home/a.png"}, {"sha256": "0" * 64, "strength": 2}, {"sha256": "0" * 63}, []]
)
def test_a_recipe_of_what_is_no_picture_is_refused(image: object) -> None:
    metadata = run(CATS, "sd", steps=1).metadata[0]
    with pytest.raises(ValueError, match=r"image is .*expected the sha256"):
        Recipe.from_metadata({**metadata, "image": image})


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image": 3}, "image is 3; expected a picture of PIL, or the path of one"),
        ({"image": noise(1)}, "image is tensor.*expected a picture"),
        ({"image": np.zeros((4, 4, 3))}, "image is array.*expected a picture"),
        ({"image": ""}, "image is ''; expected a picture of PIL"),
        ({"image": [picture(), "a\0b"]}, "expected a picture of PIL, or the path of one"),
        ({"image": []}, "expected at least one picture"),
        ({"image": [picture(), None]}, "image is None"),
        ({"image": [picture()] * 3}, "3 pictures for 2 prompts; give one for all or one for each"),
        ({"image": Image.new("RGB", (0, 4))}, "0x4 pixels"),
        ({"image": Path(__file__)}, "test_images.py: no picture that can be read"),
        ({"image": picture(), "strength": 0}, r"strength is 0; expected a share of the steps, above 0 and at most 1"),
        ({"image": picture(), "strength": math.nan}, "strength is nan"),
        ({"image": picture(), "strength": "much"}, "strength is 'much'"),
        ({"image": picture(), "strength": True}, "strength is True"),
        ({"image": picture(), "strength": 0.1}, r"The last 0\.1 of 2 steps are none; expected a share from 0\.5 to 1"),
        ({"strength": 0.5}, r"strength is 0\.5; expected none where no image is given"),
        ({"image": picture(), "size": (30, 31)}, "multiples of"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        run([CATS, CROWN], "sd", **options)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(CATS, "sd", image=tmp_path / "none.png")


@pytest.mark.parametrize("name", ["initno", "self-cross", "ebama,initno"])
def test_a_method_that_makes_its_own_noise_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="chooses the initial noise, and here a picture says where sampling begins"):
        run(CATS, methods.parse(name), image=picture())


def test_and_serves_where_it_makes_none() -> None:
    guided = run(CATS, methods.get("initno", max_rounds=0, max_refinements=0), image=picture(), strength=0.5)
    assert guided.losses.isfinite().any()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF"])
def test_a_picture_whose_file_was_closed_is_named(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x", format=kind)
    with Image.open(tmp_path / "x") as image:
        pass
    with pytest.raises(ValueError, match=r"file was closed .* before it was read; call its load\(\) before"):
        as_rgb(image)


def test_a_cameras_raw_file_is_no_thumbnail(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.dng", format="TIFF", tiffinfo={254: 1})
    with pytest.raises(ValueError, match="it is a camera's raw file, whose first picture is a thumbnail; convert it"):
        decoded((tmp_path / "x.dng").read_bytes())
