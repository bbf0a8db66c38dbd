"""Several processes at work in one folder: of two, one is refused, or both keep everything."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import forked

from ebama.output.png import read_metadata

pytestmark = pytest.mark.slow
SMALL = ["--size", "32x32", "--parser", "rules"]


def at_once(folder: Path, *commands: list[str]) -> list[tuple[int | None, str, str]]:
    """Exit codes and outputs, which are written to that folder, of processes that run side by side."""
    started = [forked(command, folder / str(k)) for k, command in enumerate(commands)]
    for process in started:
        process.join()
    shown = [[(folder / f"{k}.{name}").read_text() for name in ("out", "err")] for k in range(len(commands))]
    return [(process.exitcode, out, err) for process, (out, err) in zip(started, shown, strict=True)]


def test_two_generate_keep_all_their_pictures(tmp_path: Path) -> None:
    common = ["generate", "a red car", "--method", "sd", "--seeds", "0:3", "--batch-size", "1", *SMALL]
    common += ["--out", str(tmp_path / "a")]
    results = at_once(tmp_path, [*common, "--steps", "2"], [*common, "--steps", "3"])
    assert [code for code, _, _ in results] == [0, 0]
    for (_, shown, _), steps in zip(results, (2, 3), strict=True):
        *pictures, sheet = map(Path, shown.splitlines())
        assert [read_metadata(path)["sampler"]["steps"] for path in pictures] == [steps] * 3
        assert read_metadata(sheet) == {"pictures": [path.name for path in pictures]}
    assert len(list((tmp_path / "a").rglob("*"))) == 1 + 8


def test_of_two_evaluations_with_other_settings_one_is_refused(tmp_path: Path) -> None:
    common = ["evaluate", "--benchmark", "singles", "--limit", "1", "--methods", "sd", "--seeds", "0", *SMALL]
    common += ["--out", str(tmp_path / "a"), "--steps"]
    results = at_once(tmp_path, [*common, "2"], [*common, "3"])
    assert sorted(code for code, _, _ in results) == [0, 2]
    assert next(error for code, _, error in results if code).count("begun with other settings (steps was") == 1
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"images.jsonl", "scores.jsonl"} <= names
    assert not [name for name in names if name.startswith("images-") or name.endswith(".tmp")]
