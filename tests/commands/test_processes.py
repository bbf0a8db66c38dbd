"""Several processes at work in one folder: of two, one is refused, or both keep everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ebama.output.png import read_metadata

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
SMALL = ["--size", "32x32", "--parser", "rules"]


def at_once(*commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit codes and outputs of processes that run side by side."""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "train_free.py", *command], env=environment, **options)
        for command in commands
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


def test_two_generate_keep_all_their_pictures(tmp_path: Path) -> None:
    common = [
        "generate",
        "a red car",
        "--method",
        "sd",
        "--seeds",
        "0:3",
        "--batch-size",
        "1",
        *SMALL,
        "--out",
        str(tmp_path),
    ]
    results = at_once([*common, "--steps", "2"], [*common, "--steps", "3"])
    assert [code for code, _, _ in results] == [0, 0]
    for (_, shown, _), steps in zip(results, (2, 3), strict=True):
        *pictures, sheet = map(Path, shown.splitlines())
        assert [read_metadata(path)["sampler"]["steps"] for path in pictures] == [steps] * 3
        assert read_metadata(sheet) == {"pictures": [path.name for path in pictures]}
    assert len(list(tmp_path.rglob("*"))) == 1 + 8


def test_of_two_evaluations_with_other_settings_one_is_refused(tmp_path: Path) -> None:
    common = [
        "evaluate",
        "--benchmark",
        "singles",
        "--limit",
        "1",
        "--methods",
        "sd",
        "--seeds",
        "0",
        *SMALL,
        "--steps",
    ]
    results = at_once([*common, "2", "--out", str(tmp_path / "a")], [*common, "3", "--out", str(tmp_path / "a")])
    assert sorted(code for code, _, _ in results) == [0, 2]
    assert next(error for code, _, error in results if code).count("begun with other settings (steps was") == 1
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"images.jsonl", "scores.jsonl"} <= names
    assert not [name for name in names if name.startswith("images-") or name.endswith(".tmp")]
