"""A user's own classes under strict mypy, as the installed package types them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="needs mypy")
ROOT = Path(__file__).resolve().parents[2]
CODE = """
from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ebama.guidance import Energy, GradientMethod, GuidanceResult, Guide, Method, Start, Step, Task
from ebama.guidance import guide_for, start_for
from ebama.models import AttentionRecords, Control, Network, Site
from ebama.prompt import Group
from ebama.weights import StableDiffusion


class Mine:
    def sites(self, latent_shape: Sequence[int]) -> list[Site]:
        return []

    def attention(
        self,
        z: Tensor,
        t: int | Tensor,
        context: Tensor,
        resolution: int | tuple[int, int] | None = 16,
        kind: object = "cross",
        *,
        sites: Iterable[Site | str] | None = None,
        control: Control | None = None,
        checkpoint: bool = False,
    ) -> AttentionRecords:
        return AttentionRecords([])

    def __call__(
        self,
        z: Tensor,
        t: int | Tensor,
        context: Tensor,
        *,
        record: Iterable[Site | str] | None = None,
        control: Control | None = None,
        checkpoint: bool = False,
    ) -> Tensor | tuple[Tensor, AttentionRecords]:
        return z


@dataclass(frozen=True)
class Own(GradientMethod):
    name: ClassVar[str] = "own"
    step_size: float = 1.0
    guided_steps: int | None = None

    def energy(self, task: Task) -> Energy:
        def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
            return records.where(kind="cross").mean_scores().mean((1, 2, 3))

        return energy

    def sites(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        return list(task.network.sites(latent_shape))

    def step(self, task: Task) -> Step:
        def step(z: Tensor, gradient: Tensor, step_size: float, samples: list[int], i: int) -> Tensor:
            return z - step_size * gradient.sign()

        return step


class Moving(Method):
    def start(self, task: Task) -> Start:
        return lambda z: z * len(task.groups)

    def guide(self, task: Task) -> Guide:
        def guide(z: Tensor, t: int, i: int) -> GuidanceResult:
            return GuidanceResult(z)

        return guide


mine: Network = Mine()
guide = guide_for(["syngen", Own()], Mine(), torch.zeros(1, 7, 8), [Group((1,))], [1, 2], calls=10, sites=["a"])
result: GuidanceResult = guide(torch.zeros(1, 4, 8, 8), 0.5, 0)
z: Tensor = start_for(Moving(), mine, torch.zeros(1, 7, 8), [[]], [[]], calls=10)(result.latents)


def with_mine(sd: StableDiffusion) -> StableDiffusion:
    return dataclasses.replace(sd, unet=mine)
"""
WRONG = CODE.replace(
    "latent_shape: Sequence[int]) -> list[Site]:\n        return []", "size: int) -> list[Site]:\n        return []"
)

SETTINGS = """
[mypy]
strict = true
follow_imports = silent
[mypy-transformers.*,spacy.*,tokenizers.*,safetensors.*,numpy.*,jinja2.*,matplotlib.*,PIL.*,torch.*]
follow_imports = skip
follow_imports_for_stubs = true
[mypy-torch,torch._C,torch._C._VariableFunctions,torch._tensor,torch.nn,torch.nn.modules,torch.nn.modules.module]
follow_imports = silent
"""
"""Of torch its tensors, its functions and `nn.Module`: all of it takes seven times as long."""


@pytest.mark.slow
def test_strict_mypy_accepts_classes_of_your_own(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    sources = shutil.ignore_patterns("__pycache__", "*.gz", "*.safetensors", "*.json", "*.txt", "app", "training")
    shutil.copytree(ROOT / "ebama", tmp_path / "ebama", ignore=sources)
    for folder in ("models", "samplers", "weights"):
        shutil.copytree(ROOT / folder, tmp_path / "ebama" / folder, ignore=sources)
    (tmp_path / "right.py").write_text(CODE)
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    assert request.config.cache is not None
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(request.config.cache.mkdir("mypy"))]
    done = subprocess.run([*command, "right.py", "wrong.py"], cwd=tmp_path, capture_output=True, text=True)
    complaints = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line for line in complaints if line.startswith("right.py")] == [], done.stdout
    assert any(line.startswith("wrong.py") for line in complaints), done.stdout + done.stderr
