"""`inspect`: what files are and hold, without reading weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from weights_samples import TINY, compvis_state, lightning_extras, random_model, save_with_globals

from ebama.models import SD_V1, SD_V2, SDXL, StableDiffusionConfig
from ebama.weights import CheckpointError, inspect, load, save
from ebama.weights.layouts.compvis import ema_name
from ebama.weights.networks import build_on_meta
from ebama.weights.tokenizer import clip_merges, clip_tokens


def _sparse_file(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of float32 zeros that takes no room on disk: a header and a hole."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _shapes(config: StableDiffusionConfig) -> dict[str, tuple[int, ...]]:
    parts = build_on_meta(config)
    model = SimpleNamespace(config=config, **({"text_encoder_2": None} | parts))
    return {name: tuple(weight.shape) for name, weight in compvis_state(model).items()}  # type: ignore[arg-type]


def _sd_v1_shapes() -> dict[str, tuple[int, ...]]:
    return _shapes(SD_V1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "kind", "parameters"),
    [
        (SD_V2, "Stable Diffusion 2", (865_910_724, 83_653_863, 340_387_840)),
        (SDXL, "Stable Diffusion XL", (2_567_463_684, 83_653_863, 123_060_480, 694_659_840)),
    ],
)
def test_inspect_recognises_full_size_files_of_other_kinds(
    tmp_path: Path, config: StableDiffusionConfig, kind: str, parameters: tuple[int, ...]
) -> None:
    _sparse_file(tmp_path / "m.safetensors", _shapes(config))
    found = inspect(tmp_path / "m.safetensors")
    assert (found.kind, found.complete, found.config) == (kind, True, config.name)
    assert tuple(part.parameters for part in found.components.values()) == parameters
    assert ("predicts epsilon: the deviation of " in str(found)) == (config == SD_V2)


@pytest.mark.slow
def test_inspect_counts_a_full_size_file_in_under_two_seconds(tmp_path: Path) -> None:
    path, shapes = tmp_path / "v1.safetensors", _sd_v1_shapes()
    prefix = "model.diffusion_model."
    shapes |= {ema_name(key.removeprefix(prefix)): s for key, s in shapes.items() if key.startswith(prefix)}
    _sparse_file(path, shapes)
    assert path.stat().st_size > 7_700_000_000
    start = time.process_time()
    found = inspect(path)
    assert time.process_time() - start < 2
    assert (found.kind, found.layout, found.containers) == ("Stable Diffusion v1", "compvis", ("safetensors",))
    assert found.complete
    assert found.safe
    assert found.ema
    assert found.config == "sd-v1"
    counts = {name: (part.tensors, part.parameters, part.dtypes) for name, part in found.components.items()}
    assert counts == {
        "unet": (686, 859_520_964, ("float32",)),
        "vae": (248, 83_653_863, ("float32",)),
        "text_encoder": (196, 123_060_480, ("float32",)),
    }
    text = str(found)
    assert "859,520,964" in text
    assert "complete: can be loaded" in text
    assert json.loads(json.dumps(found.as_dict()))["components"]["vae"]["parameters"] == 83_653_863


@pytest.mark.slow
def test_inspect_lists_what_a_full_size_file_lacks(tmp_path: Path) -> None:
    path, shapes = tmp_path / "v1.safetensors", _sd_v1_shapes()
    gone = "model.diffusion_model.out.2.bias"
    del shapes[gone]
    shapes["first_stage_model.quant_conv.weight"] = (4, 4, 1, 1)
    shapes["first_stage_model.more"] = (1,)
    _sparse_file(path, shapes)
    found = inspect(path)
    assert not found.complete
    assert not found.ema
    assert found.components["unet"].differences.missing == (gone,)
    assert found.components["vae"].differences.unexpected == ("first_stage_model.more",)
    assert found.components["vae"].differences.mismatched == (
        "first_stage_model.quant_conv.weight [4, 4, 1, 1] instead of [8, 8, 1, 1]",
    )
    assert not found.components["text_encoder"].differences
    assert f"unet: 1 missing: {gone}" in str(found)
    assert "NOT complete" in str(found)


@pytest.mark.slow
def test_inspect_recognises_an_inpainting_file(tmp_path: Path) -> None:
    path, shapes = tmp_path / "inpainting.safetensors", _sd_v1_shapes()
    shapes["model.diffusion_model.input_blocks.0.0.weight"] = (320, 9, 3, 3)
    _sparse_file(path, shapes)
    found = inspect(path)
    assert found.kind == "an inpainting model"
    assert found.layout is None
    assert not found.complete
    assert list(found.components) == ["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
def test_inspect_does_not_read_the_weights_of_pickles(tmp_path: Path, legacy: bool) -> None:
    path, state = tmp_path / "m.ckpt", compvis_state(random_model())
    save_with_globals({**lightning_extras(), "state_dict": state}, path, legacy=legacy)
    found = inspect(path)
    assert found.containers == ("legacy" if legacy else "zip",)
    assert found.safe
    assert not found.complete, "it is compared with the full size"
    model = random_model()
    assert found.components["vae"].parameters == sum(p.numel() for p in model.vae.parameters())
    assert found.components["vae"].dtypes == ("float32",)


@pytest.mark.slow
def test_inspect_reads_the_configuration_of_a_folder(tmp_path: Path) -> None:
    save(random_model(), tmp_path / "m", dtype=torch.bfloat16)
    found = inspect(tmp_path / "m")
    assert (found.layout, found.containers, found.config) == ("diffusers", ("safetensors",), "m")
    assert found.complete
    assert found.components["text_encoder"].dtypes == ("bfloat16",)
    shutil.rmtree(tmp_path / "m" / "vae")
    with pytest.raises(CheckpointError, match="without vae/"):
        inspect(tmp_path / "m")


@pytest.mark.slow
def test_inspect_and_load_agree_on_a_folders_tokenizer(tmp_path: Path) -> None:
    save(random_model(), tmp_path / "m")
    folder = tmp_path / "m" / "tokenizer"
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(clip_tokens(clip_merges()))}))
    merges = "\n".join(["#version: 0.2", *map(" ".join, clip_merges())]) + "\n"
    refusals = []
    for text in (merges, merges.replace("\n", "\r\n"), "\ufeff" + merges, merges + "\n\n", merges[:9999], ""):
        (folder / "merges.txt").write_text(text, encoding="utf-8", newline="")
        found, refusal = inspect(tmp_path / "m"), None
        try:
            load(tmp_path / "m")
        except CheckpointError as error:
            refusal = str(error)
            assert f"{refusal}\nNOT complete" in str(found)
        assert (found.refused_tokenizer, found.complete) == (refusal, refusal is None)
        assert json.loads(json.dumps(found.as_dict()))["refused_tokenizer"] == refusal
        refusals.append(refusal)
    assert refusals[0] is None
    assert None not in refusals[2:]


@pytest.mark.parametrize("content", [b"", b"<html>", b"hello"])
def test_inspect_refuses_what_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.ckpt is "):
        inspect(tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="There is no file"):
        inspect(tmp_path / "n.ckpt")


def test_inspect_recognises_a_lora(tmp_path: Path) -> None:
    weights: dict[str, Tensor] = {"unet.lora_up.weight": torch.zeros(2, 3), "unet.lora_down.weight": torch.zeros(3)}
    save_file(weights, tmp_path / "lora.safetensors")
    found = inspect(tmp_path / "lora.safetensors")
    assert found.kind.startswith("a LoRA")
    assert (found.components["weights"].tensors, found.components["weights"].parameters) == (2, 9)
    assert TINY.name not in str(found)


@pytest.mark.slow
def test_the_command_does_without_transformers(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors")
    code = (
        "import sys; from ebama.cli import main; code = main(sys.argv[1:]); "
        "sys.exit('transformers was imported' if 'transformers' in sys.modules else code)"
    )
    subprocess.run([sys.executable, "-c", code, "inspect", str(tmp_path / "m.safetensors")], check=True, timeout=60)
