"""What the environment asks of progress bars and cannot be is one line, and never ends a run that has begun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TQDM_ASCII", "1"),
        ("TQDM_BAR_FORMAT", "{nope}"),
        ("TQDM_NCOLS", "x" * 900),
    ],
)
def test_what_cannot_be_shown_is_named(name: str, value: str, tmp_path: Path) -> None:
    command = [sys.executable, "train_free.py", "generate", "a red cat", "--steps", "1", "--out", str(tmp_path)]
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, name: value}, capture_output=True, text=True, check=False
    )
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: No progress can be shown as the environment asks, {name}={value[:80]!r} (")
    assert "Traceback" not in ran.stderr
    assert (ran.returncode, list(tmp_path.rglob("*.png"))) == (2, [])
