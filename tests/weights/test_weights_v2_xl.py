"""Checkpoints of the kinds of Stable Diffusion 2 and XL: single files, folders, tokenizers, what the U-Net predicts."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from reference import TINY_V2, TINY_V2_V, TINY_XL
from safetensors.torch import load_file, save_file
from torch import Tensor
from weights_samples import (
    TINY,
    components,
    compvis_state,
    differing,
    openclip_state,
    random_model,
    small_tokenizer,
)

from ebama.models import SD_V1, SD_V2, SD_V2_V, SDXL, Context, StableDiffusionConfig
from ebama.pipeline import Pipeline
from ebama.weights import CheckpointError, StableDiffusion, clip_tokenizer, inspect, load, save
from ebama.weights.checkpoint import Checkpoint, from_single_file
from ebama.weights.files.tensors import Entry, TensorFile
from ebama.weights.layouts.compvis import component_names
from ebama.weights.layouts.diffusers import read_folder_config
from ebama.weights.layouts.padding import without_special_padding
from ebama.weights.layouts.writing import folder_jsons
from ebama.weights.networks import expected_shapes
from ebama.weights.tokenizer import read_tokenizer
from ebama.weights.verify import differences

model = cache(random_model)
KINDS = [TINY_V2, TINY_V2_V, TINY_XL]
kinds = pytest.mark.parametrize("config", KINDS, ids=lambda config: config.name)


@cache
def stored(config: StableDiffusionConfig) -> TemporaryDirectory[str]:
    """Holds the folder of such a model, written once; without its tokenizers, which take long to open."""
    holder = TemporaryDirectory()
    save(model(config), Path(holder.name, "m"))
    for folder in Path(holder.name, "m").glob("tokenizer*"):
        shutil.rmtree(folder)
    return holder


def folder_of(config: StableDiffusionConfig, path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(Path(stored(config).name, "m"), path))


def saved(config: StableDiffusionConfig, path: Path, change: Callable[[dict[str, Tensor]], object] = len) -> Path:
    """The single file that the trainer of such a model would have saved."""
    state = compvis_state(model(config))
    change(state)
    save_file(state, path)
    return path


# --- single files ---


@pytest.mark.slow
@kinds
def test_a_single_file_opens(config: StableDiffusionConfig, tmp_path: Path) -> None:
    path = saved(config, tmp_path / "m.safetensors")
    found = load(path, config=config)
    assert differing(model(config), found) == []
    assert found.config == config


@pytest.mark.slow
@kinds
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_opens(config: StableDiffusionConfig, legacy: bool, tmp_path: Path) -> None:
    state = {"state_dict": compvis_state(model(config)), "global_step": 110000}
    torch.save(state, tmp_path / "m.ckpt", _use_new_zipfile_serialization=not legacy)
    assert differing(model(config), load(tmp_path / "m.ckpt", config=config)) == []


@pytest.mark.slow
@pytest.mark.parametrize("config", [pytest.param(TINY_V2_V, marks=pytest.mark.slow), TINY_XL], ids=lambda c: c.name)
def test_from_layout_to_layout_and_back(config: StableDiffusionConfig, tmp_path: Path) -> None:
    save(model(config), tmp_path / "folder" / config.name)
    from_folder = load(tmp_path / "folder" / config.name)
    assert differing(model(config), from_folder) == []
    assert from_folder.config == config
    save(from_folder, tmp_path / "m.safetensors", layout="compvis")
    from_file = load(tmp_path / "m.safetensors", config=replace(config, prediction="epsilon"))
    assert differing(model(config), from_file) == []
    assert from_file.config == config  # the file says what it predicts
    save(from_file, tmp_path / "again" / config.name)
    for file in (tmp_path / "folder").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "folder")).read_bytes(), file


@kinds
def test_a_written_single_file_has_its_trainers_keys(config: StableDiffusionConfig, tmp_path: Path) -> None:
    save(model(config), tmp_path / "m.safetensors", layout="compvis")
    written, trained = load_file(tmp_path / "m.safetensors"), compvis_state(model(config))
    unread = ("betas", "alphas_cumprod", "logit_scale", "position_ids")
    unread += (() if config.text_2 else ("text_projection",)) + (f"resblocks.{config.text.layers}.",) * (
        config.text_2 is None
    )
    assert written.keys() - {"v_pred"} == {key for key in trained if not any(part in key for part in unread)}
    for key in written.keys() - {"v_pred"}:
        assert torch.equal(written[key], trained[key]), key
    assert ("v_pred" in written) == (config.prediction == "v")


@pytest.mark.slow
def test_other_prefixes_and_wrappers_are_the_same_model(tmp_path: Path) -> None:
    for config, old, new in (
        (TINY_V2, "cond_stage_model.", "conditioner.embedders.0."),
        (TINY_V2, "cond_stage_model.", "model.cond_stage_model."),
        (TINY_XL, "conditioner.", "module.conditioner."),
        (TINY_XL, "model.diffusion_model.", "diffusion_model."),
    ):
        state = {key.replace(old, new, 1): weight for key, weight in compvis_state(model(config)).items()}
        save_file(state, tmp_path / "m.safetensors")
        assert differing(model(config), load(tmp_path / "m.safetensors", config=config)) == []


def test_text_encoders_by_the_names_of_transformers(tmp_path: Path) -> None:
    """As those who convert folders to single files may leave them."""
    state = compvis_state(model(TINY_XL))
    state = {key: weight for key, weight in state.items() if not key.startswith("conditioner.embedders.1.")}
    encoder = model(TINY_XL).text_encoder_2
    assert encoder is not None
    for name, weight in encoder.state_dict().items():
        prefix = "" if name.startswith("text_projection") else "text_model."
        state[f"conditioner.embedders.1.{prefix}{name}"] = weight
    save_file(state, tmp_path / "m.safetensors")
    assert differing(model(TINY_XL), load(tmp_path / "m.safetensors", config=TINY_XL)) == []


def test_what_other_programs_leave_beside_the_weights(tmp_path: Path) -> None:
    """Marks, the rest of a CLIP, tables of noise, ids that a merger made floats, metadata; a projection transposed."""
    state = compvis_state(model(TINY_XL))
    first, second = "conditioner.embedders.0.", "conditioner.embedders.1.model."
    state |= {
        "scaled_fp8": torch.zeros(0),
        "denoiser.sigmas": torch.ones(1000),
        f"{first}logit_scale": torch.tensor(4.6),
        f"{first}text_projection": torch.eye(8),
        f"{first}transformer.text_projection.weight": torch.eye(16),
        f"{first}transformer.text_model.embeddings.position_ids": torch.arange(77.0)[None],
        f"{second}attn_mask": torch.zeros(77, 77),
        f"{second}text_projection.weight": state.pop(f"{second}text_projection").T.contiguous(),
    }
    metadata = {"sd_merge_recipe": '{"type": "webui"}', "workflow": '{"nodes": [{"type": "KSampler"}]}'}
    save_file(state, tmp_path / "m.safetensors", metadata)
    assert differing(model(TINY_XL), load(tmp_path / "m.safetensors", config=TINY_XL)) == []


@kinds
def test_what_other_programs_look_for(config: StableDiffusionConfig, tmp_path: Path) -> None:
    """The keys by which AUTOMATIC1111's web UI and ComfyUI tell the kinds apart, in the file that is written."""
    save(model(config), tmp_path / "m.safetensors", layout="compvis")
    shapes = {key: tuple(weight.shape) for key, weight in load_file(tmp_path / "m.safetensors").items()}
    assert shapes["model.diffusion_model.input_blocks.0.0.weight"][1] == 4
    assert shapes["first_stage_model.decoder.conv_in.weight"][1] == 4
    ids = "embeddings.token_embedding.weight"
    if config.text_2 is None:
        width = config.text.width
        assert shapes["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"] == (3 * width, width)
    else:
        assert shapes["conditioner.embedders.1.model.ln_final.weight"] == (config.text_2.width,)
        assert shapes["conditioner.embedders.1.model.text_projection"] == (config.text_2.width, 20)
        assert shapes[f"conditioner.embedders.0.transformer.text_model.{ids}"] == (49408, config.text.width)
        assert shapes["model.diffusion_model.label_emb.0.0.weight"][1] == config.unet.vector_width
    assert ("v_pred" in shapes) == (config.prediction == "v")  # ComfyUI's mark, an empty tensor as there


IN_PROJ = "transformer.resblocks.0.attn.in_proj_weight"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "prefix"), [(TINY_V2, "cond_stage_model.model."), (TINY_XL, "conditioner.embedders.1.model.")]
)
def test_what_does_not_fit_is_named_by_the_files_own_keys(
    config: StableDiffusionConfig, prefix: str, tmp_path: Path
) -> None:
    def refusal(change: Callable[[dict[str, Tensor]], object]) -> str:
        path = saved(config, tmp_path / "m.safetensors", change)
        with pytest.raises(CheckpointError) as caught:
            load(path, config=config)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    fused = prefix + IN_PROJ
    assert f"3 missing ({fused}" in refusal(lambda state: state.pop(fused))
    assert f"1 unexpected ({fused})" in refusal(lambda state: state.update({fused: state[fused][:-1]}))
    short = refusal(lambda state: state.update({fused: state[fused][:-3].contiguous()}))
    assert f"3 mismatched ({fused} [" in short
    assert "are NaN or infinite" in refusal(lambda state: state[fused].fill_(torch.nan))
    layer = f"{prefix}transformer.resblocks.7.ln_1.weight"
    assert f"1 unexpected ({layer})" in refusal(lambda state: state.update({layer: torch.ones(2)}))
    norm = f"{prefix}ln_final.weight"
    assert f"1 missing ({norm})" in refusal(lambda state: state.pop(norm))


@pytest.mark.slow
def test_a_v1_file_is_not_taken_for_others(tmp_path: Path) -> None:
    path = saved(TINY, tmp_path / "m.safetensors")
    for config in KINDS:
        with pytest.raises(CheckpointError, match=r"does not hold the weights of this network"):
            load(path, config=config)


# --- full size, by shapes ---


def full_size(config: StableDiffusionConfig, biases: Tensor | None = None) -> TensorFile:
    """A single file of the full size, of whose values only the U-Net's last biases can be read."""

    def unreadable() -> Tensor:
        raise AssertionError("weights are not read to open a file")

    entries = {}
    for component, names in component_names(config).items():
        shapes = expected_shapes(config)[component]
        weights = names.join({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
        for name, weight in weights.items():
            key = names.key(name)
            telling = component == "unet" and name == "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
            read = (lambda: biases) if telling and biases is not None else unreadable
            entries[key] = Entry(key, tuple(weight.shape), torch.float16, read)
    return TensorFile(Path("m.safetensors"), "safetensors", entries)


@pytest.mark.slow
@pytest.mark.parametrize("config", [SD_V1, SD_V2, SD_V2_V, SDXL], ids=lambda config: config.name)
def test_the_kind_of_a_full_size_file_is_told_from_its_shapes(config: StableDiffusionConfig) -> None:
    biases = torch.linspace(-1, 1, 320) * (0.3 if config == SD_V2_V else 0.1)
    opened = from_single_file(full_size(config, biases))
    assert opened.config == config
    assert not differences(opened, expected_shapes(config))


# --- what the U-Net predicts ---


def small_full(bias: Tensor) -> Checkpoint:
    """The kind of Stable Diffusion 2 of which only the names and one weight are there."""
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    context = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    reads = [bias]
    entries = {
        name: Entry(name, tuple(bias.shape), bias.dtype, reads.pop),
        context: Entry(context, (320, 1024), torch.float32, lambda: torch.zeros(320, 1024)),
    }
    return from_single_file(TensorFile(Path("m.ckpt"), "zip", entries))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("spread", "config"), [(0.05, SD_V2), (0.085, SD_V2), (0.095, SD_V2_V), (0.2, SD_V2_V)])
def test_weights_tell_where_nothing_else_does(spread: float, config: StableDiffusionConfig, dtype: torch.dtype) -> None:
    bias = torch.tensor([spread, -spread] * 160).to(dtype) + 1
    opened = small_full(bias)
    assert opened.config == config
    assert opened.prediction_is_guessed
    assert opened.notes[-1].startswith(
        f"predicts {config.prediction}: the deviation of model.diffusion_model.output_bl"
    )
    assert opened.notes[-1].endswith("prediction= overrides it")
    (entry,) = (entry for entry in opened.components["unet"].entries.values() if entry.key.endswith("norm1.bias"))
    assert torch.equal(entry.read(), bias)  # it can be read again, though a pickle gives it once


def test_without_its_values_the_prediction_is_open(tmp_path: Path) -> None:
    opened = small_full(torch.zeros(320, device="meta"))
    assert opened.config == SD_V2
    assert "the weight that would tell was not read" in opened.notes[-1]


@pytest.mark.slow
def test_load_says_how_it_was_told_and_can_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiny model in the place of Stable Diffusion 2."""
    monkeypatch.setattr("ebama.weights.checkpoint.SD_V2", TINY_V2)
    monkeypatch.setattr("ebama.weights.checkpoint.SD_V2_V", TINY_V2_V)
    monkeypatch.setattr("ebama.weights.checkpoint.preset_of", lambda shapes: TINY_V2)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.norm1.bias"
    monkeypatch.setattr("ebama.weights.layouts.parametrisation._TELLING", name)
    path = saved(TINY_V2, tmp_path / "m.safetensors")
    with pytest.warns(UserWarning, match=r"m\.safetensors predicts v: the deviation of .* is 0\.\d+, above 0\.09"):
        assert load(path).config == TINY_V2_V
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(path, prediction="epsilon").config == TINY_V2
        assert load(path, prediction="v").config == TINY_V2_V
        (tmp_path / "m.yaml").write_text("model:\n  params:\n    parameterization: eps\n")
        assert load(path).config == TINY_V2
        (tmp_path / "m.yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
        assert load(path).config == TINY_V2_V
        assert load(path, prediction="epsilon").config == TINY_V2
    assert "predicts v: m.yaml: model.params.parameterization is 'v'" in str(inspect(path))
    with pytest.raises(ValueError, match=r"prediction is 'x0'; expected 'epsilon', 'v' or None"):
        load(path, prediction="x0")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_folder_without_a_scheduler_is_told_by_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tiny model in the place of Stable Diffusion 2; the latents' size stays the folder's."""
    monkeypatch.setattr("ebama.weights.checkpoint.SD_V2", replace(TINY_V2, sample_size=8))
    name = "down_blocks.0.attentions.0.transformer_blocks.0.norm1.bias"
    monkeypatch.setattr("ebama.weights.layouts.parametrisation._TELLING", name)
    for config in (TINY_V2, TINY_V2_V):
        folder = folder_of(config, tmp_path / config.name)
        assert load(folder).config == config
        shutil.rmtree(folder / "scheduler")
        with pytest.warns(UserWarning, match=r"predicts v: the deviation of .* is 0\.\d+, above 0\.09"):
            found = load(folder)
        assert found.config == replace(config, prediction="v")
        assert load(folder, prediction="epsilon").config == replace(config, prediction="epsilon")


@pytest.mark.slow
def test_a_folders_scheduler_says_it(tmp_path: Path) -> None:
    folder_of(TINY_V2_V, tmp_path / "m")
    assert load(tmp_path / "m").config.prediction == "v"
    assert load(tmp_path / "m", prediction="epsilon").config.prediction == "epsilon"
    shutil.rmtree(tmp_path / "m" / "scheduler")
    assert load(tmp_path / "m").config.prediction == "epsilon"
    assert load(tmp_path / "m", prediction="v").config.prediction == "v"


# --- folders ---


@pytest.mark.parametrize("config", [SD_V2, SD_V2_V, SDXL, *KINDS], ids=lambda config: config.name)
def test_json_reads_back_as_the_configuration_it_was_written_from(
    tmp_path: Path, config: StableDiffusionConfig
) -> None:
    folder = tmp_path / config.name
    for name, values in folder_jsons(config).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values))
    assert read_folder_config(folder) == config


def test_the_published_configurations_are_the_presets(tmp_path: Path) -> None:
    """Keys of the files on the hub that decide something, also 2.0 at 768 without `upcast_attention`."""
    unet = folder_jsons(SD_V2)["unet/config.json"]
    assert unet["attention_head_dim"] == [5, 10, 20, 20]
    assert unet["use_linear_projection"] is True
    assert "upcast_attention" not in unet
    assert folder_jsons(SD_V2_V)["unet/config.json"]["upcast_attention"] is True
    assert folder_jsons(SD_V2_V)["scheduler/scheduler_config.json"]["prediction_type"] == "v_prediction"
    xl = folder_jsons(SDXL)["unet/config.json"]
    assert xl["transformer_layers_per_block"] == [1, 2, 10]
    assert (xl["addition_embed_type"], xl["addition_time_embed_dim"]) == ("text_time", 256)
    assert xl["projection_class_embeddings_input_dim"] == 2816
    for config, changes in ((SD_V2_V, {"upcast_attention": None}), (SDXL, {"upcast_attention": None})):
        folder = tmp_path / config.name
        for name, values in folder_jsons(config).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(values | (changes if name == "unet/config.json" else {})))
        assert read_folder_config(folder).name == config.name


@pytest.mark.slow
def test_the_vae_of_xl_stays_in_float32(tmp_path: Path) -> None:
    folder_of(TINY_XL, tmp_path / "m")
    for dtype, expected in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        sd = load(tmp_path / "m", dtype=dtype)
        assert next(sd.vae.parameters()).dtype == expected
        assert {next(getattr(sd, name).parameters()).dtype for name in components(sd) if name != "vae"} == {dtype}
    latents = torch.randn(2, 4, 8, 8)
    half, exact = (Pipeline(load(tmp_path / "m", dtype=dtype)) for dtype in (torch.float16, torch.float32))
    assert [image.tobytes() for image in half.decode(latents)] == [image.tobytes() for image in exact.decode(latents)]
    file = tmp_path / "m" / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"force_upcast": False}))
    assert next(load(tmp_path / "m", dtype=torch.float16).vae.parameters()).dtype == torch.float16
    folder_of(TINY_V2, tmp_path / "v2")
    assert next(load(tmp_path / "v2", dtype=torch.float16).vae.parameters()).dtype == torch.float16


@pytest.mark.slow
def test_the_folder_of_a_refiner_is_named(tmp_path: Path) -> None:
    shutil.rmtree(folder_of(TINY_XL, tmp_path / "m") / "text_encoder")
    for use in (load, inspect):
        with pytest.raises(CheckpointError, match=r"without text_encoder/.* a Stable Diffusion XL refiner"):
            use(tmp_path / "m")


@pytest.mark.slow
def test_zeros_for_an_empty_prompt_are_the_folders_choice(tmp_path: Path) -> None:
    folder_of(TINY_XL, tmp_path / "m")
    index = tmp_path / "m" / "model_index.json"
    assert load(tmp_path / "m").config.zero_empty_prompt
    index.write_text(json.dumps(json.loads(index.read_text()) | {"force_zeros_for_empty_prompt": False}))
    assert not load(tmp_path / "m").config.zero_empty_prompt
    index.unlink()
    assert load(tmp_path / "m").config.zero_empty_prompt


@pytest.mark.slow
@kinds
def test_inspect_names_the_kind(config: StableDiffusionConfig, tmp_path: Path) -> None:
    folder_of(config, tmp_path / "m")
    found = inspect(tmp_path / "m")
    assert found.kind == ("Stable Diffusion XL" if config.text_2 else "Stable Diffusion 2")
    assert found.complete
    assert found.prediction == config.prediction
    assert ("\npredicts v" in str(found)) == (config.prediction == "v")
    assert tuple(found.components) == components(model(config))
    (tmp_path / "m" / components(model(config))[-1] / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no weights"):
        inspect(tmp_path / "m")


def test_a_pickle_of_the_second_text_encoder_is_looked_at(tmp_path: Path) -> None:
    folder_of(TINY_XL, tmp_path / "m")
    weights = tmp_path / "m" / "text_encoder_2" / "model.safetensors"
    torch.save({"x": print}, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    assert inspect(tmp_path / "m").refused_globals == ("__builtin__.print",)
    with pytest.raises(CheckpointError, match=r"print"):
        load(tmp_path / "m")


# --- tokenizers ---


def tokenizer_folder(folder: Path, container: str) -> None:
    """A `tokenizer/` that fills with "!", as on the hub or as transformers saves it anew."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = clip_tokenizer()
    if container == "saved anew":
        special = {"pad_token": "!", "eos_token": "<|endoftext|>", "bos_token": "<|startoftext|>"}
        tokenizer.save_pretrained(folder)
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
        CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
        (folder / "special_tokens_map.json").unlink()
        return
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {"pad_token": "<|endoftext|>", "eos_token": {"__type": "AddedToken", "content": "<|endoftext|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    special = {
        "eos_token": {"content": "<|endoftext|>"},
        "pad_token": "!" if container == "a name" else {"content": "!"},
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    if container == "a token":  # as transformers 4 saved it for XL
        decoder = {"0": {"content": "!", "special": True}, "49407": {"content": "<|endoftext|>", "special": False}}
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": decoder}))
        (folder / "added_tokens.json").write_text(json.dumps({"!": 0, "<|endoftext|>": 49407}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "container",
    ["a name", pytest.param("a token", marks=pytest.mark.slow), pytest.param("saved anew", marks=pytest.mark.slow)],
)
def test_a_tokenizer_that_fills_with_an_exclamation_mark(tmp_path: Path, container: str) -> None:
    save(model(TINY_V2), tmp_path / "tiny-v2")
    shutil.rmtree(tmp_path / "tiny-v2" / "tokenizer")
    tokenizer_folder(tmp_path / "tiny-v2" / "tokenizer", container)
    sd = load(tmp_path / "tiny-v2")
    assert sd.config == TINY_V2
    for text in ("a cat!", "!", "wow!!! a frog ! ! and don't!"):
        assert sd.tokenizer(text)["input_ids"] == clip_tokenizer()(text)["input_ids"]
        assert torch.equal(sd.encode_text([text]), model(TINY_V2).encode_text([text]))


def test_a_tokenizer_that_is_copied_is_named_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tokenizer"
    tokenizer_folder(folder, "a name")
    (folder / "merges.txt").write_text("Entry not found")
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(folder))} could not be read as a CLIP tokenizer"):
        read_tokenizer(folder, 49408, 77)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match=r"tokenizer could not be copied into .* \(.*none.*\); let TMPDIR name"):
        read_tokenizer(folder, 49408, 77)


@pytest.mark.parametrize("number", [914, 916])
def test_an_added_token_has_the_id_that_its_file_gives_it(tmp_path: Path, number: int) -> None:
    small_tokenizer(tmp_path)  # 914 tokens
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<cat-toy>": number}))
    if number == 914:
        assert read_tokenizer(tmp_path, 920, 77).convert_tokens_to_ids("<cat-toy>") == 914
    else:
        with pytest.raises(CheckpointError, match=r"adds the token '<cat-toy>' with id 916, but it is read as 914"):
            read_tokenizer(tmp_path, 920, 77)


def test_added_tokens_stay_where_padding_is_taken_off(tmp_path: Path) -> None:
    folder, copied = tmp_path / "tokenizer", tmp_path / "copy"
    for path in (folder, copied):
        path.mkdir()
    (folder / "added_tokens.json").write_text('{"!": 0, "<cat-toy>": 49408}')
    without_special_padding(folder, copied, "!")
    assert json.loads((copied / "added_tokens.json").read_text()) == {"<cat-toy>": 49408}


@pytest.mark.slow
def test_what_we_write_fills_with_an_exclamation_mark_for_others(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    save(model(TINY_XL), tmp_path / "m")
    for name, pad in (("tokenizer", 49407), ("tokenizer_2", 0)):
        theirs = CLIPTokenizer.from_pretrained(tmp_path / "m" / name)
        assert theirs("a cat", padding="max_length", max_length=7)["input_ids"] == [49406, 320, 2368, 49407, *[pad] * 3]
    assert clip_tokenizer().pad_token == "<|endoftext|>"  # which is shared by all models


@pytest.mark.slow
def test_without_a_tokenizer_the_kind_of_text_encoder_decides(tmp_path: Path) -> None:
    for config in (TINY, TINY_V2, TINY_XL):
        assert load(folder_of(config, tmp_path / config.name)).config == config


@pytest.mark.slow
def test_a_loaded_model_runs(tmp_path: Path) -> None:
    sd: StableDiffusion = load(saved(TINY_XL, tmp_path / "m.safetensors"), config=TINY_XL)
    condition = sd.condition(["a cat", ""])
    assert isinstance(condition, Context)
    assert sd.unet(torch.zeros(2, 4, 16, 16), 500, condition).isfinite().all()
    assert sd.fingerprint() == model(TINY_XL).fingerprint()
    assert openclip_state(model(TINY_V2).text_encoder, "").keys() > {"text_projection", "logit_scale"}
