"""Parts copied into another package work there: without ebama, where they guide a foreign network, and beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from ebama.smoothing import gaussian_peak

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("models", "ebama/guidance", "ebama/methods", "ebama/prompt", "ebama/kernels")
FILES = (
    "ebama/boxes.py",
    "ebama/checks.py",
    "ebama/maps.py",
    "ebama/hidden.py",
    "ebama/energy.py",
    "ebama/smoothing.py",
)
PROGRAM = """
import sys

import torch

from {networks} import STYLES, foreign
from {package}.boxes import Box
from {package}.guidance import guide_for
from {package}.methods import get, names
from {package}.prompt import Group

generator = torch.Generator().manual_seed(1)
z, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 10, generator=generator)
groups, tokens = [Group((2,), ((1,),), box=Box(0, 0, 0.5, 0.7)), Group((3,))], (1, 2, 3)
results = {{}}
for name in names():
    if "guide" in get(name).complete().places:
        for style in STYLES:
            guide = guide_for(name, foreign(style)[1], context, groups, tokens, calls=2)
            results[name, style] = guide(z, 500, 0)[:2]
torch.save(results, sys.argv[1])
"""


@pytest.mark.slow
def test_copied_methods_guide_a_foreign_network_where_there_is_no_ebama(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in PARTS:
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / "theirs" / Path(part).name, ignore=skipped)
    for file in FILES:
        shutil.copy(ROOT / file, tmp_path / "theirs")
    (tmp_path / "theirs" / "__init__.py").touch()
    networks = (ROOT / "tests" / "foreign_networks.py").read_text(encoding="utf-8")
    (tmp_path / "networks.py").write_text(networks.replace("from ebama.", "from theirs."), encoding="utf-8")
    blocked = "import sys\nsys.modules |= dict.fromkeys(['ebama', 'spacy', 'transformers', 'safetensors'])\n"
    (tmp_path / "there.py").write_text(blocked + PROGRAM.format(networks="networks", package="theirs"), "utf-8")
    done = subprocess.run(
        [sys.executable, "there.py", "there.pt"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(sys, "argv", ["here.py", str(tmp_path / "here.pt")])
    exec(PROGRAM.format(networks="foreign_networks", package="ebama"), {})
    found, expected = (torch.load(tmp_path / f"{program}.pt", weights_only=True) for program in ("there", "here"))
    assert len(found) >= 24
    assert found.keys() == expected.keys()
    for case, results in found.items():
        assert all(torch.equal(value, same) for value, same in zip(results, expected[case], strict=True)), case


@pytest.mark.parametrize("part", [*PARTS, *FILES])
def test_what_is_copied_imports_its_neighbours_relatively(part: str) -> None:
    path = ROOT / part
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        assert "from ebama" not in file.read_text(encoding="utf-8"), file


def test_a_copied_peak_runs_beside_the_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "ebama" / "kernels", tmp_path / "copied" / "kernels")
    shutil.copy(ROOT / "ebama" / "smoothing.py", tmp_path / "copied")
    (tmp_path / "copied" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    copied = import_module("copied.smoothing")
    assert copied.NAMESPACE == "copied"
    maps = torch.randn(5, 9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copied.gaussian_peak(maps), gaussian_peak(maps))
