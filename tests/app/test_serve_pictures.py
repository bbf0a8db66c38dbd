"""Pictures that visitors bring: what is shown of them, what starts from them, what those of this library ask for."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reference import model

pytest.importorskip("fastapi", reason="needs the extra app")
from fastapi.testclient import TestClient
from test_serve import PROMPT, SMALL, refusal, submit, until

from ebama import Pipeline, methods
from ebama.app.request import MAX_UPLOAD
from ebama.app.service import Service
from ebama.app.uploads import MAX_UPLOADS
from ebama.cli import main
from ebama.commands import model as commands_model
from ebama.output.png import encoded
from ebama.output.recipe import Recipe
from ebama.samplers import DDIM
from ebama.starts import fitted

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8))


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sent(client: TestClient, content: bytes) -> dict[str, Any]:
    answer = client.post("/api/pictures", content=content)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


# --- what is shown ---


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[274] = orientation
    return data


@pytest.mark.parametrize(
    "content",
    [
        file_of(PHOTO),
        file_of(PHOTO, "JPEG", exif=exif(6)),
        file_of(PHOTO.convert("RGBA"), "WEBP"),
        file_of(Image.fromarray(np.arange(35 * 7, dtype=np.uint16).reshape(7, 35) * 200)),
        file_of(PHOTO.resize((1, 1)), "GIF"),
    ],
    ids=["png", "jpeg-turned", "webp-alpha", "16-bit", "one-pixel"],
)
def test_a_picture_is_shown_as_runs_start_from_it(client: TestClient, content: bytes) -> None:
    facts = sent(client, content)
    assert (facts["request"], facts["note"]) == (None, "")
    upright = Image.open(io.BytesIO(content))
    turned = upright.getexif().get(274) == 6
    assert (facts["width"], facts["height"]) == (upright.size[::-1] if turned else upright.size)
    assert client.get(f"/api/pictures/{facts['id']}").json() == facts
    answer = client.get(f"/api/pictures/{facts['id']}/png?height=16&width=32")
    assert answer.headers["content-type"] == "image/png"
    shown = Image.open(io.BytesIO(answer.content))
    assert np.array_equal(np.asarray(shown), np.asarray(fitted(upright, (16, 32))[0]))


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"%!PS-Adobe-3.0", file_of(PHOTO)[:-99]], ids=len)
def test_what_is_no_picture_is_refused_in_one_line(client: TestClient, content: bytes) -> None:
    assert "no picture that can be read" in refusal(client.post("/api/pictures", content=content), 400)


def test_a_picture_in_a_form_is_asked_for_alone(client: TestClient) -> None:
    sent = client.post("/api/pictures", files={"file": ("x.png", b"x")})
    assert "send a picture's bytes alone, as curl --data-binary @FILE does" in refusal(sent, 400)


def test_pictures_are_bounded(client: TestClient) -> None:
    too_large = {"Content-Length": str(MAX_UPLOAD + 1)}
    assert "at most 16777216" in refusal(client.post("/api/pictures", content=b"x", headers=too_large), 413)
    assert "at most 16384" in refusal(client.post("/api/words", content=b"x" * 20_000), 413)
    assert "another site" in refusal(
        client.post("/api/pictures", content=b"x", headers={"Origin": "http://evil.example"}), 403
    )
    first, *_, last = [sent(client, file_of(PHOTO))["id"] for _ in range(MAX_UPLOADS + 1)]
    assert "Choose it again" in refusal(client.get(f"/api/pictures/{first}"), 404)
    assert "Choose it again" in refusal(client.post("/api/jobs", json=SMALL | {"image": {"id": first}}), 404)
    assert "multiples of 4" in refusal(client.get(f"/api/pictures/{last}/png?height=30&width=32"), 400)
    assert "at most 64" in refusal(client.get(f"/api/pictures/{last}/png?height=32&width=640"), 400)


# --- what starts from them ---


@pytest.mark.parametrize(
    ("changes", "image", "says"),
    [
        ({}, {"strength": 0}, "strength is 0"),
        ({}, {"strength": 1.5}, "expected a share of the steps"),
        ({}, {"strength": "all"}, "image.strength"),
        ({}, {"strength": 0.5, "invert": True, "id": "x"}, "expected none for a picture that is inverted"),
        ({}, {"path": "/etc/passwd"}, "image.path: Unexpected keyword argument"),
        ({"seeds": "0"}, {"invert": True}, "only ddim leads back"),
        ({"seeds": "0:2", "sampler": "ddim"}, {"invert": True}, "one seed"),
        ({"methods": ["sd", "initno"]}, {}, "initno chooses the initial noise"),
        ({"methods": ["syngen,self-cross"]}, {}, "self-cross chooses the initial noise"),
    ],
    ids=str,
)
def test_starts_that_cannot_be_are_one_line(client: TestClient, changes: Any, image: Any, says: str) -> None:
    request = SMALL | changes | {"image": {"id": sent(client, file_of(PHOTO))["id"]} | image}
    assert says in refusal(client.post("/api/jobs", json=request), 400)


@pytest.mark.slow
@pytest.mark.parametrize("invert", [False, True], ids=["noised", "inverted"])
def test_a_picture_from_a_picture_can_be_made_again(
    client: TestClient,
    invert: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = file_of(PHOTO, "JPEG", quality=90)
    start = {"invert": True} if invert else {"strength": 0.5}
    image = {"id": sent(client, content)["id"], **start}
    options = {"methods": ["ebama"], "seeds": "3", "sampler": "ddim", "size": [16, 32], "steps": 2, "image": image}
    job = until(client, submit(client, **options), "done")
    assert (job["parts"], job["total"]) == ((2, 2) if invert else (1, 1))
    file = client.get(f"/api/jobs/{job['id']}/pictures/0/png").content
    again = sent(client, file)["request"]
    assert again["image"] == {"strength": None if invert else 0.5, "invert": invert}
    assert job["pictures"][0]["name"].endswith("-inverted.png" if invert else "-seed0003.png")

    monkeypatch.setattr(commands_model, "load", lambda *_, **__: model())
    (tmp_path / "made.png").write_bytes(file)
    (tmp_path / "photo.jpg").write_bytes(content)
    files = ["--from-png", str(tmp_path / "made.png"), "--image", str(tmp_path / "photo.jpg"), "--out", str(tmp_path)]
    assert main(["generate", *files]) == 0
    said = capfd.readouterr().err
    assert "not the picture" not in said  # its hash is the recipe's
    made, other = (np.asarray(Image.open(tmp_path / name), int) for name in ("made.png", "made-again.png"))
    assert made.shape == (16, 32, 3)
    assert np.abs(made - other).max() <= 1  # attention that is recorded rounds otherwise


# --- recipes ---


@cache
def recipe() -> Recipe:
    options: dict[str, Any] = {"steps": 1, "parser": "rules", "progress": False}
    return Pipeline(model())(PROMPT, method="sd", seeds=[7], **options).recipes[0].loaded_from(None, "float32")


def described(text: str) -> dict[str, Any]:
    return methods.parse(text).complete(model().config).describe()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"methods": ["sd"], "seeds": "7", "groups": None, "size": [32, 32], "steps": 1, "sampler": "pndm"}),
        ({"method": described("ebama+intensity_weight=0")}, {"methods": ["ebama+intensity_weight=0"]}),
        ({"method": described("syngen,ane+step_size=5")}, {"methods": ["syngen,ane+step_size=5"]}),
        ({"latent": (4, 8, 16)}, {"size": [16, 32]}),
        ({"sampler": DDIM(9), "guidance": 3.0}, {"steps": 9, "sampler": "ddim", "guidance": 3.0}),
        ({"negative_prompt": "a \u201cfrog\u201d"}, {"negative_prompt": "a \u201cfrog\u201d"}),
        ({"image": {"sha256": "0" * 64, "strength": 0.3}}, {"image": {"strength": 0.3, "invert": False}}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_picture_asks_for_itself_again(service: Service, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    stored = replace(recipe(), **changes)
    facts = service.uploads.add(encoded(PHOTO, stored.to_metadata()), model())
    assert facts["note"] == ""
    found = {name: facts["request"][name] for name in expected}
    elsewhere = replace(stored, fingerprint="0" * 16)
    assert "other weights" in service.uploads.add(encoded(PHOTO, elsewhere.to_metadata()), model())["note"]
    assert found == {name: tuple(value) if isinstance(value, list) else value for name, value in expected.items()}


def test_boxes_come_back_by_the_names_of_their_words(service: Service) -> None:
    box = (0.0, 0.25, 0.5, 0.75)
    parsed = Pipeline(model()).read("a cat and a cat", boxes={"cat#2": box}, parser="rules")
    stored = replace(recipe(), prompt="a cat and a cat", groups=parsed.groups)
    request = service.uploads.add(encoded(PHOTO, stored.to_metadata()), model())["request"]
    assert request["boxes"] == {"cat#2": box}
    assert request["groups"] == (("cat#1", ()), ("cat#2", ()))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": None}, "seed is None; expected a seed"),
        ({"sampler": {"name": "ddim", "steps": 3, "eta": 1.0}}, "expected ddim along this model's schedule"),
        ({"sampler": {"name": "euler", "steps": 3}}, "sampler.name is 'euler'"),
        ({"sampler": {"name": "pndm", "steps": 900}}, "steps is 900"),
        ({"method": {"name": "os.system"}}, "no method 'os.system'"),
        ({"method": {"name": "ebama", "nothing": 1}}, "no option nothing"),
        ({"method": {"name": "p2p"}}, "single prompt"),
        ({"groups": [{"object": [900], "modifiers": []}]}, "lies beyond the prompt"),
        ({"crop": [3, 4]}, "crop is (3, 4)"),
        ({"latent": [4, 128, 64]}, "size is (256, 128); expected at most"),
        ({"method": {"name": "ebama", "\ud800": 1}}, "no option \\ud800"),
        ({"groups": [{"object": [1], "modifiers": [], "box": [0, 0, 1, 10**400]}]}, "four finite numbers"),
        ({"guidance": "much"}, "guidance is 'much'"),
        ({"prompt": None}, "prompt is None"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_recipe_that_the_page_cannot_follow_is_a_picture_with_a_note(
    service: Service, changes: dict[str, Any], says: str
) -> None:
    facts = service.uploads.add(encoded(PHOTO, recipe().to_metadata() | changes), model())
    assert facts["request"] is None
    assert says in facts["note"]
    assert len(facts["note"].splitlines()) == 1
    assert service.fitted(facts["id"], None).size == (32, 32)
