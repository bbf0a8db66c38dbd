"""The examples of the documentation run, each is short, and each makes the picture that is shown."""

from __future__ import annotations

import ast
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
COPIED = FOLDER / "copied_models.py"
SLOW = {"bounded_attention", "real_pictures", "sampler_by_hand", "score_images"}


def assert_is_the_shown_kind(made: Path) -> None:
    """A picture that shows something, as large as the committed one (the scores' has a row for each verdict)."""
    with Image.open(made) as image, Image.open(FOLDER / made.name) as shown:
        assert image.size == shown.size or made.stem == "score_images"
        assert np.asarray(image.convert("L")).std() > 10


def test_there_are_seven() -> None:
    assert len(SCRIPTS) == 7


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_is_short_says_what_it_shows_and_is_shown(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 40
    assert ast.get_docstring(ast.parse(source))
    assert script.with_suffix(".png").stat().st_size < 150_000
    overview = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"]({script.name})" in overview
    assert f"]({script.stem}.png)" in overview


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
        for path in SCRIPTS
        if path != COPIED
    ],
)
def test_an_example_runs(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script.name, "2"])  # two steps
    runpy.run_path(str(script), run_name="__main__")
    assert_is_the_shown_kind(tmp_path / f"{script.stem}.png")


@pytest.mark.slow
def test_copied_models_run_where_there_is_no_ebama(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(COPIED, tmp_path)
    blocked = (
        f"import sys, runpy; sys.modules['ebama'] = None; sys.path.insert(0, '.'); runpy.run_path('{COPIED.name}')"
    )
    picture = ROOT / "docs" / "images" / "quickstart.png"
    command = [sys.executable, "-c", blocked, str(ROOT / "weights" / "miniature"), str(picture)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_is_the_shown_kind(tmp_path / "copied_models.png")
