"""The README's Python runs, on the miniature."""

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_quick_start_is_one_block_of_two_commands() -> None:
    section = README.split("## Quick start")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert len(block.strip().splitlines()) == 2


@pytest.mark.slow
def test_the_scores_of_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[0], names)
    assert "torch.Size([1, 4, 256, 77])" in capsys.readouterr().out
    assert isinstance(names["records"].mean_scores(), torch.Tensor)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_batch_of_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    block = BLOCKS[1].replace('load("sd-v1-4.ckpt", device="cuda")', "load()")
    exec(block.replace('method="ebama")', 'method="ebama", steps=2)'), names)
    assert (tmp_path / "cat.png").is_file()
    assert names["result"].losses.shape == (8, 3)  # type: ignore[attr-defined]


def test_single_modules_import() -> None:
    names: dict[str, object] = {}
    exec(BLOCKS[2], names)
    assert {"UNet", "PNDM", "gaussian_peak", "binding_loss"} <= names.keys()
