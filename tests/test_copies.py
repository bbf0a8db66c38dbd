"""Parts copied into another package work there."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

from ebama.smoothing import gaussian_peak

ROOT = Path(__file__).resolve().parent.parent


def test_a_copied_peak_runs_beside_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "ebama" / "kernels", tmp_path / "copied" / "kernels")
    shutil.copy(ROOT / "ebama" / "smoothing.py", tmp_path / "copied")
    (tmp_path / "copied" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    copied = import_module("copied.smoothing")
    assert copied.NAMESPACE == "copied"
    maps = torch.randn(5, 9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copied.gaussian_peak(maps), gaussian_peak(maps))
