"""`--from-png` on files that somebody edited: each makes a picture or is refused in one line, at once."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from mutations import edited, garbled
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ebama import cli, methods
from ebama.commands import model as commands_model
from ebama.models import MINIATURE
from ebama.output.files import to_json
from ebama.output.png import encoded
from ebama.output.recipe import Recipe
from ebama.prompt import Group
from ebama.samplers import DDIM, NoiseSchedule


class Reached(ValueError):
    """Everything that can be checked without a model was right."""


def recipe(name: str) -> dict[str, Any]:
    """What a run of a method writes."""
    return Recipe(
        prompt="a purple crown and a blue suitcase",
        seed=5,
        method=methods.get(name).complete(MINIATURE).describe(),
        sampler=DDIM(4, eta=0.5, schedule=NoiseSchedule(kind="linear", beta_start=1e-4, beta_end=0.02)),
        guidance=7.5,
        negative_prompt="",
        groups=(Group((3,), ((2,),)), Group((7,), ((6,),))),
        parser="rules",
        latent=(4, 16, 16),
        model="miniature",
        fingerprint="0123456789abcdef",
        versions={"ebama": "0.1.0"},
        weights=None,
        dtype="float32",
    ).to_metadata()


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of the pipeline, which is not there."""
    calls: list[dict[str, Any]] = []

    def pipeline(**arguments: Any) -> None:
        calls.append(arguments)
        raise Reached("there is no model")

    opened = Mock(side_effect=pipeline, sd=Mock(config=MINIATURE))
    monkeypatch.setattr(commands_model, "open_pipeline", lambda *_, **__: opened)
    return calls


def ending(path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which a file is refused."""
    start = time.process_time()
    assert cli.main(["generate", "--from-png", str(path), "--out", str(out)]) == 2
    assert time.process_time() - start < 5
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1, shown.err
    assert shown.err.startswith("error: ")
    assert len(shown.err) < 1100
    assert not out.exists()
    return shown.err


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_edited_recipes(
    seed: int, reached: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    recipes = [recipe(name) for name in methods.names()]
    endings = []
    for _ in range(100):
        (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (4, 4)), edited(rng.choice(recipes), rng)))
        endings.append(ending(tmp_path / "a.png", tmp_path / "out", capsys))
    assert 5 < len(reached) < 60  # some say what a run could have said
    assert len(set(endings)) > 30


@pytest.mark.slow
def test_garbled_recipes_and_pictures(
    reached: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, stored = random.Random(7), recipe("ebama")
    content = encoded(Image.effect_noise((16, 16), 50).convert("RGB"), stored)
    for _ in range(50):
        info = PngInfo()
        info.add_itxt("ebama", garbled(to_json(stored), rng))
        Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
        ending(tmp_path / "a.png", tmp_path / "out", capsys)
        at = rng.randrange(len(content))
        (tmp_path / "a.png").write_bytes(
            content[:at] + rng.randbytes(rng.randrange(9)) + content[at + rng.randrange(9) :]
        )
        ending(tmp_path / "a.png", tmp_path / "out", capsys)


def test_an_unedited_recipe_reaches_the_model(
    reached: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in methods.names():
        (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (4, 4)), recipe(name)))
        assert ending(tmp_path / "a.png", tmp_path / "out", capsys) == "error: there is no model\n"
    assert [call["method"].method.name for call in reached] == list(methods.names())
    assert {call["parser"] for call in reached} == {"rules"}
