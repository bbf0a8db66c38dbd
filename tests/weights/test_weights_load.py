"""`load`: every layout of a checkpoint gives the same model, and anything incomplete is refused."""

from __future__ import annotations

import json
import os
import shutil
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from weights_samples import (
    COMPONENTS,
    TINY,
    compvis_state,
    differing,
    lightning_extras,
    random_model,
    save_with_globals,
)

from ebama.models import UNet, UNetConfig
from ebama.weights import CheckpointError, StableDiffusion, clip_tokenizer, inspect, load
from ebama.weights.checkpoint import open_checkpoint
from ebama.weights.files.mapped import is_finite, populate
from ebama.weights.layouts.token_table import IDS, ROWS, TABLE, UNKNOWN, expand, trim

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return random_model()


@pytest.fixture(scope="module")
def folder(model: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder written here, with the keys a converter of 2022 leaves out of `config.json`."""
    path = tmp_path_factory.mktemp("diffusers")
    configs = {
        "unet": {
            "attention_head_dim": [2, 4],
            "block_out_channels": [16, 32],
            "cross_attention_dim": 8,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "in_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "out_channels": 4,
            "sample_size": 16,
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        },
        "vae": {
            "block_out_channels": [8, 16],
            "in_channels": 3,
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "out_channels": 3,
        },
        "text_encoder": {
            "hidden_size": 8,
            "intermediate_size": 16,
            "max_position_embeddings": 77,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "vocab_size": 49408,
        },
    }
    for name, config in configs.items():
        (path / name).mkdir()
        (path / name / "config.json").write_text(json.dumps(config))
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        save_file(getattr(model, name).state_dict(), path / name / f"{stem}.safetensors")
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def _rewrite(file: Path, change: Callable[[State], State]) -> None:
    weights = {name: weight.clone() for name, weight in load_file(file).items()}
    save_file(change(weights), file)


def _single(state: State, path: Path) -> StableDiffusion:
    save_file(state, path)
    return load(path, config=TINY)


@pytest.mark.slow
def test_folder_says_its_own_configuration(model: StableDiffusion, folder: Path) -> None:
    loaded = load(folder)
    assert (loaded.config.unet, loaded.config.vae, loaded.config.text) == (TINY.unet, TINY.vae, TINY.text)
    assert loaded.config.sample_size == 16
    assert loaded.tokenizer is clip_tokenizer()
    assert differing(model, loaded) == []


def test_loaded_networks_are_ready_to_run(folder: Path) -> None:
    loaded = load(folder)
    for name in COMPONENTS:
        network = getattr(loaded, name)
        assert not network.training
        assert all(not m.training for m in network.modules())
        for tensor in (*network.parameters(), *network.buffers()):
            assert tensor.device.type == "cpu"
            assert not tensor.requires_grad


def test_weights_loaded_in_inference_mode_can_be_part_of_a_gradient(folder: Path) -> None:
    with torch.inference_mode():
        loaded = load(folder)
    weights = [weight for name in COMPONENTS for weight in getattr(loaded, name).state_dict().values()]
    assert not any(weight.is_inference() for weight in weights)


@pytest.mark.slow
def test_fingerprint_tells_weights_apart(folder: Path) -> None:
    sd = load(folder)
    before = sd.fingerprint()
    assert len(before) == 16
    assert load(folder).fingerprint() == before
    assert load(folder, dtype=torch.float16).fingerprint() != before
    assert load(folder, dtype=torch.bfloat16).fingerprint() != before
    sd.unet.to(memory_format=torch.channels_last)
    assert sd.fingerprint() == before  # how a tensor lies in memory is not what it says
    for network in (sd.unet, sd.vae, sd.text_encoder):
        (*_, (_, last)) = network.named_parameters()
        last.data.mul_(1.001).add_(1e-3)
        assert sd.fingerprint() != before
        before = sd.fingerprint()


@pytest.mark.slow
def test_loading_leaves_global_state_alone(folder: Path, tmp_path: Path) -> None:
    save_with_globals({**lightning_extras(), "state_dict": compvis_state(random_model())}, tmp_path / "m.ckpt")
    load(folder)  # importing what transformers imports lazily may register more
    random, dtype = torch.get_rng_state(), torch.get_default_dtype()
    safe, gradient = set(torch.serialization.get_safe_globals()), torch.is_grad_enabled()
    threads, filters = torch.get_num_threads(), list(warnings.filters)
    load(tmp_path / "m.ckpt", config=TINY)
    inspect(tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="no EMA"):
        load(tmp_path / "m.ckpt", config=TINY, ema=True)
    assert (torch.get_num_threads(), list(warnings.filters)) == (threads, filters)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.get_default_dtype() == dtype
    assert set(torch.serialization.get_safe_globals()) == safe
    assert torch.is_grad_enabled() == gradient
    assert torch.empty(1).device.type == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_folder_of_pickles_loads(model: StableDiffusion, copy: Path, variant: str) -> None:
    for name in COMPONENTS:
        (file,) = (copy / name).glob("*.safetensors")
        stem = "pytorch_model" if name == "text_encoder" else "diffusion_pytorch_model"
        torch.save(load_file(file), copy / name / f"{stem}{variant}.bin")
        file.unlink()
    assert differing(model, load(copy)) == []


@pytest.mark.slow
def test_folder_of_half_precision_files_loads(model: StableDiffusion, copy: Path) -> None:
    for name in COMPONENTS:
        (file,) = (copy / name).glob("*.safetensors")
        _rewrite(file, lambda weights: {key: weight.half() for key, weight in weights.items()})
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    loaded = load(copy)
    for name in COMPONENTS:
        for key, weight in getattr(loaded, name).state_dict().items():
            assert weight.dtype == torch.float32
            assert torch.equal(weight, getattr(model, name).state_dict()[key].half().float())


def test_full_precision_is_preferred(model: StableDiffusion, copy: Path) -> None:
    for name in COMPONENTS:
        (file,) = (copy / name).glob("*.safetensors")
        save_file({}, file.with_name(f"{file.stem}.fp16.safetensors"))
    assert differing(model, load(copy)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "index", ["{stem}.safetensors.index.json", "{stem}.safetensors.index.fp16.json", "{stem}.bin.index.json"]
)
def test_folder_of_shards_loads(model: StableDiffusion, copy: Path, index: str) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    names, where = list(weights), {}
    for i, part in enumerate((names[::2], names[1::2])):
        shard = f"diffusion_pytorch_model-0000{i + 1}-of-00002.{'bin' if '.bin.' in index else 'safetensors'}"
        write = torch.save if ".bin." in index else save_file
        write({name: weights[name].clone() for name in part}, copy / "unet" / shard)
        where.update(dict.fromkeys(part, shard))
    file.unlink()
    listing = copy / "unet" / index.format(stem="diffusion_pytorch_model")
    listing.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert differing(model, load(copy)) == []
    (copy / "unet" / shard).unlink()
    with pytest.raises(CheckpointError, match=f"{listing.name}.*{shard}"):
        load(copy)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("component", "stem", "shards_count"),
    [
        ("unet", "diffusion_pytorch_model", True),
        ("vae", "diffusion_pytorch_model", True),
        ("text_encoder", "model", False),
    ],
)
def test_of_shards_beside_a_whole_file_those_count_that_diffusers_reads(
    model: StableDiffusion, copy: Path, component: str, stem: str, shards_count: bool
) -> None:
    file, shard = (copy / component / f"{stem}{part}.safetensors" for part in ("", "-00001-of-00001"))
    weights = load_file(file)
    stale = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    save_file(weights if shards_count else stale, shard)
    save_file(stale if shards_count else weights, file)
    index = {"weight_map": dict.fromkeys(weights, shard.name)}
    (copy / component / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    assert differing(model, load(copy)) == []


def test_an_index_that_is_left_of_shards_that_are_gone_is_passed_over(model: StableDiffusion, copy: Path) -> None:
    for component, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        index = {"weight_map": {"a": f"{stem}-00001-of-00002.safetensors"}}
        (copy / component / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    assert differing(model, load(copy)) == []


@pytest.mark.parametrize(("names", "rank"), [("old", 2), ("old", 4), ("new", 4)])
def test_folder_with_other_vae_attention_loads(model: StableDiffusion, copy: Path, names: str, rank: int) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(weights: State) -> State:
        renamed = {}
        for name, weight in weights.items():
            if ".attentions.0." in name and "group_norm" not in name:
                path, _, kind = name.rpartition(".")
                stem, layer = path.split(".attentions.0.")
                if names == "old":
                    name = f"{stem}.attentions.0.{old[layer]}.{kind}"
                if kind == "weight" and rank == 4:
                    weight = weight[:, :, None, None].clone()
            renamed[name] = weight
        assert len(renamed) == len(weights)
        assert sum("query" in name for name in renamed) == (4 if names == "old" else 0)
        return renamed

    _rewrite(copy / "vae" / "diffusion_pytorch_model.safetensors", rename)
    assert differing(model, load(copy)) == []


@pytest.mark.parametrize(
    ("infix", "ids"),
    [("text_model.", torch.int64), ("text_model.", torch.float16), ("text_model.", None), ("", torch.int64)],
)
def test_folder_with_other_names_of_the_text_encoder_loads(
    model: StableDiffusion, copy: Path, infix: str, ids: torch.dtype | None
) -> None:
    def rename(weights: State) -> State:
        renamed = {f"{infix}{name}": weight for name, weight in weights.items()}
        if ids is not None:
            renamed[f"{infix}embeddings.position_ids"] = torch.arange(77)[None].to(ids)
        return renamed

    _rewrite(copy / "text_encoder" / "model.safetensors", rename)
    assert differing(model, load(copy)) == []


@pytest.mark.slow
def test_folder_with_links_and_a_tokenizer_loads(model: StableDiffusion, copy: Path, tmp_path: Path) -> None:
    clip_tokenizer().save_pretrained(copy / "tokenizer")
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "0123abc", tmp_path / "cache" / "blobs"
    blobs.mkdir(parents=True)
    for i, file in enumerate([file for file in copy.rglob("*") if file.is_file()]):
        link = snapshot / file.relative_to(copy)
        link.parent.mkdir(parents=True, exist_ok=True)
        file.rename(blobs / f"{i:064x}")  # the cache names files by their hash alone
        link.symlink_to(os.path.relpath(blobs / f"{i:064x}", link.parent))
    loaded = load(snapshot)
    assert differing(model, loaded) == []
    assert loaded.tokenizer is not clip_tokenizer()
    assert loaded.tokenizer("a crown")["input_ids"] == clip_tokenizer()("a crown")["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_single_safetensors_file_loads(model: StableDiffusion, tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: w.to(dtype) if w.is_floating_point() else w for key, w in compvis_state(model).items()}
    loaded = _single(state, tmp_path / "model.safetensors")
    for name in COMPONENTS:
        for key, weight in getattr(loaded, name).state_dict().items():
            assert torch.equal(weight, getattr(model, name).state_dict()[key].to(dtype).float()), key


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("content", ["bare", "state_dict", "lightning", "lightning with numpy 2", "real numpy"])
def test_single_pickle_loads(model: StableDiffusion, tmp_path: Path, legacy: bool, content: str) -> None:
    state = compvis_state(model)
    holds: dict[object, object] = dict(state)
    if content != "bare":
        extras = lightning_extras("numpy._core" if content.endswith("2") else "numpy.core")
        holds = {**(extras if "lightning" in content else {}), "state_dict": state}
        if content == "real numpy":
            holds["score"] = np.float64(0.25)
    save_with_globals(holds, tmp_path / "model.ckpt", legacy=legacy)
    assert differing(model, load(tmp_path / "model.ckpt", config=TINY)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "named"), [("safetensors", "m.ckpt"), ("zip", "m.safetensors"), ("legacy", "m.bin")]
)
def test_content_counts_and_not_the_name(model: StableDiffusion, tmp_path: Path, written: str, named: str) -> None:
    state, path = compvis_state(model), tmp_path / named
    if written == "safetensors":
        save_file(state, path)
    else:
        save_with_globals(state, path, legacy=written == "legacy")
    assert differing(model, load(path, config=TINY)) == []


@pytest.mark.slow
def test_variants_of_single_files_load_alike(model: StableDiffusion, tmp_path: Path) -> None:
    state = compvis_state(model)
    without_infix = {key.replace("transformer.text_model.", "transformer."): weight for key, weight in state.items()}
    minimal = {key: w for key, w in state.items() if "." in key and not key.endswith("position_ids")}
    merged = {key: w.float() for key, w in state.items()}
    full = {**state, "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
    linear = {key: w[:, :, 0, 0].clone() if ".attn_1." in key and w.ndim == 4 else w for key, w in state.items()}
    training = {**state, "first_stage_model.loss.logvar": torch.zeros(()), "logvar": torch.zeros(1000)}
    for variant in (without_infix, minimal, merged, full, linear, training):
        assert differing(model, _single(variant, tmp_path / "variant.safetensors")) == []


@pytest.mark.slow
def test_ema_takes_the_moving_averages(model: StableDiffusion, tmp_path: Path) -> None:
    state, averaged = compvis_state(model), compvis_state(random_model(seed=1))
    path, pickled = tmp_path / "full.safetensors", tmp_path / "full.ckpt"
    for key, weight in averaged.items():
        if key.startswith("model.diffusion_model."):
            state["model_ema." + key.removeprefix("model.").replace(".", "")] = weight
    save_file(state, path)
    assert differing(model, load(path, config=TINY)) == []
    torch.save({"state_dict": {**state, "model_ema.num_updates": torch.tensor(3, dtype=torch.int32)}}, pickled)
    for file in (path, pickled):
        loaded = load(file, config=TINY, ema=True)
        assert differing(replace(model, unet=random_model(seed=1).unet), loaded) == []

    gone = "out.2.bias"
    save_file({key: w for key, w in state.items() if key != f"model.diffusion_model.{gone}"}, path)
    averages = replace(model, unet=random_model(seed=1).unet)
    assert differing(averages, load(path, config=TINY, ema=True)) == [], "the averages are all there"

    del state["model_ema.diffusion_modelout2bias"]
    save_file(state, path)
    with pytest.raises(CheckpointError, match="only some of the EMA weights"):
        load(path, config=TINY, ema=True)


def test_ema_is_refused_without_moving_averages(model: StableDiffusion, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    # Pruned files may keep the two numbers of an average without its weights.
    save_file(
        {**compvis_state(model), "model_ema.decay": torch.ones(()), "model_ema.num_updates": torch.ones(())}, path
    )
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds no EMA weights"):
        load(path, config=TINY, ema=True)
    with pytest.raises(CheckpointError, match="diffusers folder, which holds no EMA"):
        load(folder, ema=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_load_converts_to_the_given_dtype(model: StableDiffusion, folder: Path, dtype: torch.dtype) -> None:
    loaded = load(folder, dtype=dtype)
    for name in COMPONENTS:
        for key, weight in getattr(loaded, name).state_dict().items():
            assert weight.dtype == dtype
            assert torch.equal(weight, getattr(model, name).state_dict()[key].to(dtype))
    assert loaded.encode_text(["a crown"]).dtype == dtype
    with pytest.raises(ValueError, match=r"torch\.int8"):
        load(folder, dtype=torch.int8)


@pytest.mark.slow
def test_weights_stay_mapped_and_the_file_untouched(folder: Path, copy: Path) -> None:
    loaded = load(copy)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    before = file.read_bytes()
    with torch.no_grad():
        loaded.unet.conv_in.bias.zero_()
    assert file.read_bytes() == before
    file.unlink()
    assert torch.equal(loaded.unet.conv_out.bias, load(folder).unet.conv_out.bias)


@pytest.mark.slow
def test_differences_are_listed_by_component(model: StableDiffusion, tmp_path: Path) -> None:
    state, path = compvis_state(model), tmp_path / "broken.safetensors"
    for key in [key for key in state if key.startswith("model.diffusion_model.input_blocks.")][:12]:
        del state[key]
    state["first_stage_model.encoder.extra.weight"] = torch.zeros(1)
    state["first_stage_model.quant_conv.weight"] = torch.zeros(8, 8, 3, 3)
    with pytest.raises(CheckpointError) as caught:
        _single(state, path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "unet: 12 missing (model.diffusion_model.input_blocks.0.0.weight, " in message
    assert message.count("model.diffusion_model.") == 10
    assert "vae: 1 unexpected (first_stage_model.encoder.extra.weight)" in message
    assert "vae: 1 mismatched (first_stage_model.quant_conv.weight [8, 8, 3, 3] instead of [8, 8, 1, 1])" in message
    assert "text_encoder" not in message


def test_only_the_vae_attention_may_change_rank(model: StableDiffusion, tmp_path: Path) -> None:
    state = compvis_state(model)
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    state[key] = state[key][:, :, 0, 0].clone()
    with pytest.raises(CheckpointError, match=r"1 mismatched .*proj_in.weight \[32, 32\] instead of \[32, 32, 1, 1\]"):
        _single(state, tmp_path / "linear.safetensors")


def test_weight_under_two_names_is_refused(model: StableDiffusion, tmp_path: Path) -> None:
    state = compvis_state(model)
    norm = "final_layer_norm.bias"
    state[f"cond_stage_model.transformer.{norm}"] = torch.zeros(8)
    with pytest.raises(CheckpointError, match=f"{norm} twice"):
        _single(state, tmp_path / "twice.safetensors")


@pytest.mark.parametrize(("value", "why"), [(float("nan"), "NaN or infinite"), (float("-inf"), "NaN or infinite")])
def test_values_that_are_not_finite_are_refused(model: StableDiffusion, tmp_path: Path, value: float, why: str) -> None:
    state = compvis_state(model)
    key = "first_stage_model.decoder.conv_in.weight"
    state[key] = state[key].clone().index_fill_(0, torch.tensor([1]), value)
    with pytest.raises(CheckpointError, match=rf"bad\.safetensors: {key} has values that are {why}"):
        _single(state, tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
)
def test_is_finite_looks_at_every_value(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    infinite = () if dtype == torch.float8_e4m3fn else (torch.inf, -torch.inf)  # it has none
    for value in (0.0, -0.0, 1.0, -1.0, limits.max, limits.min, limits.tiny, torch.nan, -torch.nan, *infinite):
        weight = torch.zeros(300_000, dtype=torch.float64)
        weight[-1] = value
        assert is_finite(weight.to(dtype)) == (abs(value) <= limits.max), value
    assert is_finite(torch.zeros(2, 0, dtype=dtype))


def test_a_file_that_became_shorter_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(1 << 20)}, path)
    weight = load_file(path)["a"]
    populate(weight)
    os.truncate(path, 100)
    with pytest.raises(OSError, match=r"Input/output error"):
        populate(weight)


def test_weights_are_converted_one_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def watched(read: Callable[[], Tensor]) -> Tensor:
        nonlocal most
        tensor = read().clone()
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    def opened(*args: Any, **kwargs: Any) -> Any:
        checkpoint = open_checkpoint(*args, **kwargs)
        for part in checkpoint.components.values():
            for name, entry in part.entries.items():
                part.entries[name] = replace(entry, read=partial(watched, entry.read))
        return checkpoint

    monkeypatch.setattr("ebama.weights.loading.open_checkpoint", opened)
    load(folder, dtype=torch.bfloat16)
    assert most == 2, "the one in hand and the one before"


def test_nothing_may_be_left_on_the_meta_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(UNet):
        def __init__(self, config: UNetConfig) -> None:
            super().__init__(config)
            self.register_buffer("table", torch.zeros(3), persistent=False)

        def to(self, *args: Any) -> Forgetful:
            return self

    monkeypatch.setattr("ebama.weights.networks.UNet", Forgetful)
    with pytest.raises(RuntimeError, match="Forgetful was left without values for table"):
        load(folder)


@pytest.mark.slow
def test_values_beyond_the_range_of_the_dtype_are_refused(model: StableDiffusion, tmp_path: Path) -> None:
    state, path = compvis_state(model), tmp_path / "large.safetensors"
    state["first_stage_model.quant_conv.bias"] = torch.full((8,), 7e4)
    save_file(state, path)
    load(path, config=TINY, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"quant_conv.bias has values that overflow torch.float16"):
        load(path, config=TINY, dtype=torch.float16)


def test_large_sums_are_not_mistaken_for_overflow(model: StableDiffusion, tmp_path: Path) -> None:
    state, path = compvis_state(model), tmp_path / "large.safetensors"
    state["first_stage_model.quant_conv.bias"] = torch.full((8,), 6e4)
    save_file(state, path)
    assert load(path, config=TINY, dtype=torch.float16).vae.quant_conv.bias.tolist() == [6e4] * 8


def test_other_noise_schedules_are_refused(copy: Path) -> None:
    file = copy / "scheduler" / "scheduler_config.json"
    file.parent.mkdir(exist_ok=True)
    for name, value in (
        ("prediction_type", "sample"),
        ("beta_schedule", "linear"),
        ("rescale_betas_zero_snr", True),
        ("sigma_data", 0.5),
        ("trained_betas", [0.1]),
    ):
        file.write_text(json.dumps({"beta_schedule": "scaled_linear", name: value}))
        with pytest.raises(CheckpointError, match=rf"scheduler_config\.json: {name} is .*nothing else is built"):
            load(copy)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    file.write_text(json.dumps({"_class_name": "EulerDiscreteScheduler", "steps_offset": 0, **betas}))
    load(copy)
    for absent in betas:  # diffusers then takes those of DDPM
        file.write_text(json.dumps({name: value for name, value in betas.items() if name != absent}))
        with pytest.raises(
            CheckpointError, match=rf"scheduler_config\.json: {absent} are missing.*; expected {absent} "
        ):
            load(copy)


def test_unknown_networks_in_config_json_are_refused(copy: Path) -> None:
    file = copy / "unet" / "config.json"
    original = json.loads(file.read_text())
    for change, words in {
        '{"use_linear_projection": true}': "attentions.0.proj_in.weight",
        '{"use_linear_projection": 1}': "use_linear_projection is 1",
        '{"upcast_attention": "no"}': "upcast_attention is 'no'",
        '{"transformer_layers_per_block": [1, 2, 3]}': "depth has 3 entries",
        '{"transformer_layers_per_block": [[1, 2], 3]}': "transformer_layers_per_block is [[1, 2], 3]",
        '{"act_fn": "gelu"}': "act_fn is 'gelu'",
        '{"addition_embed_type": "text_time"}': "lacks 'projection_class_embeddings_input_dim'",
        '{"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 9}': "vector has width 9",
        '{"addition_embed_type": "image"}': "addition_embed_type is 'image'",
        '{"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}': "AttnDownBlock2D",
        '{"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}': "mirror",
        '{"block_out_channels": [16, 30]}': "30 is not divisible",
        '{"cross_attention_dim": 9}': "contexts of width 9",
        '{"layers_per_block": [1, 2]}': "layers_per_block",
        '{"sample_size": [16, 8]}': "unet/config.json: sample_size is [16, 8]; only equal entries",
        '{"layers_per_block": "two"}': "two",
        '{"block_out_channels": 7}': "block_out_channels is 7",
        '{"block_out_channels": []}': "block_out_channels is []",
        '{"sample_size": 15}': "sample_size 15",
        '{"in_channels": 9, "block_out_channels": [320, 320], "norm_num_groups": 32}': "an inpainting model",
        '{"layers_per_block": 20000000}': "at most 100",
        '{"block_out_channels": [16, 3200000000]}': "at most 1,000,000",
        '{"cross_attention_dim": 1280, "block_out_channels": [384, 768]}': "a Stable Diffusion XL refiner",
        '{"cross_attention_dim": 1024, "block_out_channels": [320, 320], "class_embed_type": "projection"}': "unCLIP",
    }.items():
        file.write_text(json.dumps({**original, **json.loads(change)}))
        with pytest.raises(CheckpointError) as caught:
            load(copy)
        assert words in str(caught.value)
        assert str(copy) in str(caught.value)
    for text in ("{", "[]"):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=r"unet.config\.json"):
            load(copy)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"unet.config\.json is missing"):
        load(copy)


def test_json_may_begin_with_a_byte_order_mark(model: StableDiffusion, copy: Path) -> None:
    for file in (path for path in copy.rglob("*.json") if path.parent.name != "tokenizer"):
        file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert differing(model, load(copy)) == []


def test_keys_that_change_no_network_are_ignored(model: StableDiffusion, copy: Path) -> None:
    file = copy / "vae" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sample_size": [32, 16], "force_upcast": True}))
    assert differing(model, load(copy)) == []


def test_a_configuration_given_by_hand_wins(folder: Path) -> None:
    wrong = replace(TINY, unet=UNetConfig(**{**vars(TINY.unet), "blocks": 2}))
    with pytest.raises(CheckpointError, match=r"unet: .* missing"):
        load(folder, config=wrong)


@pytest.mark.slow
def test_trimmed_token_table_loads_whole(model: StableDiffusion, copy: Path) -> None:
    ids = torch.tensor([49407, 320, 6902])
    table = torch.ones(49408, 8).mul_(0.25)
    table[ids] = torch.randn(3, 8)
    parts = trim(table, ids)
    assert parts[IDS].tolist() == [320, 6902, 49407]
    assert torch.equal(expand(parts[ROWS], parts[IDS], parts[UNKNOWN], 49408), table)

    def replace_table(weights: State) -> State:
        del weights[TABLE]
        return {**weights, **parts}

    file = copy / "text_encoder" / "model.safetensors"
    _rewrite(file, replace_table)
    assert file.stat().st_size < 50_000
    loaded = load(copy)
    assert torch.equal(loaded.text_encoder.state_dict()[TABLE], table)

    _rewrite(file, lambda weights: {**weights, IDS: torch.tensor([1, 2, 49408])})
    with pytest.raises(CheckpointError, match=r"ids outside 0\.\.49407"):
        load(copy)
    many = {ROWS: torch.zeros(50_000, 8), IDS: torch.zeros(50_000, dtype=torch.int64)}  # more than it has tokens
    _rewrite(file, lambda weights: weights | many)
    with pytest.raises(CheckpointError, match=r"rows \[50000, 8\], .*; expected .*, n at most 49,408"):
        load(copy)
    _rewrite(file, lambda weights: {**weights, IDS: torch.tensor([1, 2])})
    with pytest.raises(CheckpointError, match=f"trimmed token table of {copy / 'text_encoder'}"):
        load(copy)


def test_trimming_loses_nothing() -> None:
    table = torch.zeros(5, 2)
    with pytest.raises(ValueError, match="outside `ids` differ"):
        trim(torch.arange(10.0).view(5, 2), torch.tensor([0]))
    for ids in ([], [5], [-1], [0, 1, 2, 3, 4]):
        with pytest.raises(ValueError, match="table of 5 rows"):
            trim(table, torch.tensor(ids))


def test_encode_text_pads_and_cuts_to_77_positions(model: StableDiffusion) -> None:
    prompts = ["a purple crown", "", "crown " * 100]
    contexts = model.encode_text(prompts)
    assert contexts.shape == (3, 77, 8)
    ids = torch.tensor([[49406, *clip_tokenizer()(p)["input_ids"][1:-1][:75], 49407] for p in prompts[2:]])
    assert torch.allclose(contexts[2], model.text_encoder(ids)[0], atol=1e-5)
    assert torch.allclose(contexts[1:2], model.encode_text([""]), atol=1e-5)
    assert not model.encode_text(["a"]).requires_grad
    for wrong in ("a purple crown", [1]):
        with pytest.raises(TypeError, match="list of strings"):
            model.encode_text(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no prompts"):
        model.encode_text([])


@pytest.mark.slow
def test_folders_written_by_diffusers_load(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        scaling_factor=0.5,
    )
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).eval()
    config = text.config
    config.vocab_size = 49408
    for name, network in zip(COMPONENTS, (unet, vae, text), strict=True):
        network.save_pretrained(tmp_path / name)
    loaded = load(tmp_path)
    assert loaded.vae.scale == 0.5
    z = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        context = loaded.encode_text(["a purple crown"])
        ids = clip_tokenizer()("a purple crown", padding="max_length", return_tensors="pt")["input_ids"]
        pairs = [
            (context, text(ids).last_hidden_state),
            (loaded.unet(z, 500, context), unet(z, 500, context).sample),
            (loaded.vae.decode(z), vae.decode(z).sample),
            (loaded.vae.encode(torch.tanh(z[:, :3])).mean, vae.encode(torch.tanh(z[:, :3])).latent_dist.mean),
        ]
    for ours, theirs in pairs:
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5
