"""Checkpoints as trainers, mergers and converters leave them: other names, wrappers, leftovers, variants, EMA alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from weights_samples import COMPONENTS, TINY, compvis_state, differing, random_model

from ebama.models import UNetConfig, VAEConfig
from ebama.weights import CheckpointError, StableDiffusion, clip_tokenizer, inspect, load, save
from ebama.weights.checkpoint import open_checkpoint
from ebama.weights.layouts.compvis import ema_name
from ebama.weights.layouts.diffusers import read_folder_config
from ebama.weights.layouts.keys import Key, name_in_folder, read_key
from ebama.weights.networks import expected_shapes
from ebama.weights.verify import differences, summary

State = dict[str, Tensor]
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."


SMALL = replace(
    TINY,
    unet=UNetConfig(widths=(8, 16), attention=(True, False), heads=(1, 1), blocks=1, context_width=8, norm_groups=2),
    vae=VAEConfig(widths=(4, 8), blocks=1, norm_groups=2),
    text=replace(TINY.text, layers=1),
)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return random_model(SMALL)


@lru_cache(maxsize=1)
def shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    return expected_shapes(SMALL)


def unlike(model: StableDiffusion, path: Path, *, ema: bool = False) -> list[str]:
    """Weights by which a checkpoint differs from a model, as `load` would fill them in; it would refuse no file here
    that this does not raise for."""
    checkpoint = open_checkpoint(path, SMALL, ema=ema)
    if found := differences(checkpoint, shapes()):
        raise CheckpointError(summary(path, found))
    return [
        f"{component}.{name}"
        for component in COMPONENTS
        for name, weight in getattr(model, component).state_dict().items()
        if not torch.equal(checkpoint.components[component].entries[name].read().reshape(weight.shape), weight)
    ]


@pytest.fixture(scope="module")
def state(model: StableDiffusion) -> State:
    return compvis_state(model)


@pytest.fixture(scope="module")
def folder(model: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names") / "m"
    save(model, path)
    shutil.rmtree(path / "tokenizer")  # slow to read, and nothing here changes it
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def our_names(sd: StableDiffusion, component: str, prefix: str) -> State:
    return {prefix + name: weight for name, weight in getattr(sd, component).state_dict().items()}


def without(state: State, prefix: str) -> State:
    return {key: weight for key, weight in state.items() if not key.startswith(prefix)}


def renamed(state: State, old: str, new: str) -> State:
    assert any(old in key for key in state)
    return {key.replace(old, new): weight for key, weight in state.items()}


def every_key(change: Callable[[str], str]) -> Callable[[State], State]:
    return lambda state: {change(key): weight for key, weight in state.items()}


WRAPPED: dict[str, Callable[[State], object]] = {
    "model.": every_key("model.{}".format),
    "module.": every_key("module.{}".format),
    "state_dict.state_dict.": every_key("state_dict.state_dict.{}".format),
    "_orig_mod.": every_key("_orig_mod.{}".format),
    "module.model.": every_key("module.model.{}".format),
    "compiled parts": every_key(lambda key: key.replace(UNET, UNET + "_orig_mod.").replace(VAE, VAE + "module.")),
    "wrapped blocks": every_key(
        lambda key: key.replace("middle_block.1.", "middle_block._checkpoint_wrapped_module.1.")
    ),
    "no model.": every_key(lambda key: key.removeprefix("model.")),
    "no text_model.": every_key(lambda key: key.replace("text_model.", "")),
    "no transformer.": every_key(lambda key: key.replace(".transformer.", ".", 1)),
    "nested twice": lambda state: {"state_dict": {"state_dict": state}, "epoch": 3},
    "under model": lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}},
    "under module": lambda state: {"module": state},
    "model in state_dict": lambda state: {"state_dict": {"model": state}},
    "by parts": lambda state: {
        "model": {"diffusion_model": {key.removeprefix(UNET): w for key, w in state.items() if key.startswith(UNET)}},
        **without(state, UNET),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapping", WRAPPED)
def test_what_wraps_a_state_dict_is_seen_through(
    model: StableDiffusion, state: State, tmp_path: Path, wrapping: str
) -> None:
    torch.save(WRAPPED[wrapping](state), tmp_path / "m.ckpt")
    assert unlike(model, tmp_path / "m.ckpt") == []


# Layers of the VAE's attention by CompVis's names, and what converters call them.
ATTENTION = {
    "present": {".q.": ".to_q.", ".k.": ".to_k.", ".v.": ".to_v.", ".proj_out.": ".to_out.0."},
    "of 2022": {".q.": ".query.", ".k.": ".key.", ".v.": ".value.", ".proj_out.": ".proj_attn."},
    "half": {".q.": ".to_q.", ".norm.": ".group_norm."},
}


@pytest.mark.parametrize("path", [".mid.attn_1.", ".mid_block.attentions.0."])
@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("names", ATTENTION)
def test_the_vaes_attention_goes_by_any_of_its_names(
    model: StableDiffusion, state: State, tmp_path: Path, names: str, rank: int, path: str
) -> None:
    changed = {}
    for key, weight in state.items():
        name = key
        if ".attn_1." in key:
            for old, new in ATTENTION[names].items():
                name = name.replace(old, new)
            weight = weight[:, :, 0, 0].clone() if rank == 2 and weight.ndim == 4 else weight
        changed[name.replace(".mid.attn_1.", path)] = weight
    assert changed.keys() != state.keys()
    save_file(changed, tmp_path / "m.safetensors")
    assert unlike(model, tmp_path / "m.safetensors") == []


@pytest.mark.parametrize(
    ("component", "old", "new"),
    [
        ("unet", UNET, UNET),
        ("unet", UNET, "unet."),
        ("vae", VAE, VAE),
        ("vae", VAE, "vae."),
        ("text_encoder", TEXT, TEXT),
        ("text_encoder", TEXT, "text_encoder.text_model."),
    ],
)
def test_parts_of_a_single_file_may_have_diffusers_names(
    model: StableDiffusion, state: State, tmp_path: Path, component: str, old: str, new: str
) -> None:
    save_file({**without(state, old), **our_names(model, component, new)}, tmp_path / "m.safetensors")
    assert unlike(model, tmp_path / "m.safetensors") == []


def test_names_of_one_part_may_be_mixed(model: StableDiffusion, state: State, tmp_path: Path) -> None:
    mixed = renamed(state, "input_blocks.0.0", "conv_in")
    mixed = renamed(mixed, "middle_block.0.in_layers.0", "middle_block.0.norm1")
    mixed = renamed(mixed, "encoder.norm_out", "encoder.conv_norm_out")
    mixed = renamed(mixed, "nin_shortcut", "conv_shortcut")
    save_file(mixed, tmp_path / "m.safetensors")
    assert unlike(model, tmp_path / "m.safetensors") == []


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "state_dict.", "{own}"])
def test_a_folder_may_have_the_names_of_single_files(
    model: StableDiffusion, state: State, copy: Path, prefix: str
) -> None:
    for component, own in zip(COMPONENTS, (UNET, VAE, TEXT), strict=True):
        (file,) = (copy / component).glob("*.safetensors")
        new = prefix.format(own=own)
        save_file({new + key.removeprefix(own): w for key, w in state.items() if key.startswith(own)}, file)
    assert unlike(model, copy) == []


@pytest.mark.slow
def test_other_peoples_weights_are_still_unexpected(model: StableDiffusion, state: State, tmp_path: Path) -> None:
    for name in ("model.diffusion_model.label_emb.0.0.weight", "first_stage_model.encoder.mid.attn_1.r.weight"):
        save_file({**state, name: torch.zeros(1)}, tmp_path / "m.safetensors")
        with pytest.raises(CheckpointError, match=f"1 unexpected \\({name}\\)"):
            load(tmp_path / "m.safetensors", config=TINY)
    save_file({**state, "vae.quant_conv.bias": torch.zeros(8)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"quant_conv.bias twice, as .*quant_conv.bias and as .*quant_conv.bias"):
        unlike(model, tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("model.diffusion_model.out.2.bias", Key("unet", "out.2.bias")),
        ("module.model.model.diffusion_model.out.2.bias", Key("unet", "out.2.bias")),
        ("model_ema.diffusion_modelout2bias", Key("unet", "out2bias", True)),
        ("ema.model.diffusion_model.out.2.bias", Key("unet", "out.2.bias", True)),
        ("model_ema.decay", Key(None, "decay", True)),
        ("first_stage_model.loss.logvar", Key("vae", "loss.logvar")),
        ("model.betas", Key(None, "betas")),
        ("optimizer.model.diffusion_model.x", Key(None, "optimizer.model.diffusion_model.x")),
        ("module", Key(None, "")),
        ("", Key(None, "")),
    ],
)
def test_keys_are_taken_apart(key: str, read: Key) -> None:
    assert read_key(key) == read


def test_a_folders_key_of_another_component_stays_whole() -> None:
    assert name_in_folder("vae.quant_conv.bias", "vae") == "quant_conv.bias"
    assert name_in_folder("vae.quant_conv.bias", "unet") == "vae.quant_conv.bias"
    assert name_in_folder("ema.unet.conv_in.bias", "unet") == "ema.unet.conv_in.bias"


# --- leftovers ---

CLIP_LEFTOVERS = {
    "text_projection.weight": torch.ones(8, 8),
    "logit_scale": torch.ones(()),
    "visual_projection.weight": torch.ones(8, 8),
    "vision_model.embeddings.class_embedding": torch.ones(8),
    "vision_model.embeddings.position_ids": torch.arange(5)[None],
    "text_model.embeddings.position_ids": torch.arange(77.0)[None],
}


@pytest.mark.parametrize("leftover", ["text_projection.weight", "logit_scale", "all"])
@pytest.mark.parametrize("infix", ["", "text_model."])
def test_the_rest_of_a_whole_clip_is_ignored(
    model: StableDiffusion, state: State, copy: Path, leftover: str, infix: str
) -> None:
    more = CLIP_LEFTOVERS if leftover == "all" else {leftover: CLIP_LEFTOVERS[leftover]}
    file = copy / "text_encoder" / "model.safetensors"
    save_file({**our_names(model, "text_encoder", infix), **more}, file)
    assert unlike(model, copy) == []
    found = inspect(copy)
    assert found.complete
    assert found.notes == (f"text_encoder: ignored {', '.join(sorted(more))}",)
    single = {
        **without(state, TEXT + "text_model.embeddings.position_ids"),
        **{TEXT + name: more[name] for name in more},
    }
    save_file(single, copy / "m.safetensors")
    assert unlike(model, copy / "m.safetensors") == []


@pytest.mark.parametrize("name", ["bundle_emb.mine.string_to_param.*", "bundle_emb.a.b.emb_params"])
def test_embeddings_added_to_a_checkpoint_are_ignored(
    model: StableDiffusion, state: State, copy: Path, name: str
) -> None:
    save_file({**state, name: torch.ones(2, 8)}, copy / "m.safetensors")
    assert unlike(model, copy / "m.safetensors") == []


@pytest.mark.slow
def test_a_folder_whose_text_encoder_is_a_whole_clip_opens(model: StableDiffusion, copy: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 8, "patch_size": 4}
    clip = CLIPModel(CLIPConfig(text_config={**text, "vocab_size": 49408}, vision_config=vision, projection_dim=4))
    clip.text_model.load_state_dict(model.text_encoder.state_dict())
    shutil.rmtree(copy / "text_encoder")
    clip.save_pretrained(copy / "text_encoder")
    assert json.loads((copy / "text_encoder" / "config.json").read_text())["model_type"] == "clip"
    loaded = load(copy)
    assert differing(model, loaded) == []
    assert loaded.config.text == SMALL.text


def test_a_whole_clips_settings_may_leave_out_what_is_usual(model: StableDiffusion, copy: Path) -> None:
    config = copy / "text_encoder" / "config.json"
    text = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config.write_text(json.dumps({"model_type": "clip", "text_config": text, "vision_config": {}, "projection_dim": 4}))
    assert read_folder_config(copy).text == SMALL.text
    config.write_text(json.dumps({"text_config": {}}))
    with pytest.raises(CheckpointError, match=r"contexts of width 8 but the text encoder writes width 512"):
        read_folder_config(copy)


# --- moving averages ---


@pytest.fixture(scope="module")
def averages(state: State) -> State:
    """The U-Net's own weights, as the trainer's averages would be called."""
    return {ema_name(key.removeprefix(UNET)): w.clone() for key, w in state.items() if key.startswith(UNET)}


EMA: dict[str, Callable[[str], str]] = {
    "collapsed": lambda name: ema_name(name),
    "dotted": "model_ema.diffusion_model.{}".format,
    "ema.": "ema.model.diffusion_model.{}".format,
    "ema_model.": "ema_model.diffusion_model.{}".format,
    "in a module": lambda name: "module." + ema_name(name),
}


@pytest.mark.slow
@pytest.mark.parametrize("spelling", EMA)
def test_averages_go_by_any_of_their_names(model: StableDiffusion, state: State, tmp_path: Path, spelling: str) -> None:
    other = random_model(SMALL, seed=1)
    unet = {EMA[spelling](key.removeprefix(UNET)): w for key, w in compvis_state(other).items() if key.startswith(UNET)}
    save_file({**state, **unet, "model_ema.decay": torch.ones(())}, tmp_path / "m.safetensors")
    assert unlike(model, tmp_path / "m.safetensors") == []
    assert unlike(replace(model, unet=other.unet), tmp_path / "m.safetensors", ema=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_of_averages_alone_opens(
    model: StableDiffusion, state: State, averages: State, tmp_path: Path, ema: bool, wrapped: bool
) -> None:
    alone: State = {**without(state, UNET), **averages, "model_ema.num_updates": torch.tensor(3)}
    torch.save({"state_dict": alone} if wrapped else alone, tmp_path / "m.ckpt")
    assert unlike(model, tmp_path / "m.ckpt", ema=ema) == []
    del alone["model_ema.diffusion_modelout2bias"]
    save_file(alone, tmp_path / "less.safetensors")
    message = "only some of the EMA weights" if ema else r"unet: 1 missing \(model_ema\.diffusion_modelout2bias\)"
    with pytest.raises(CheckpointError, match=message):
        unlike(model, tmp_path / "less.safetensors", ema=ema)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ema", "ema_state_dict", "model_ema"])
@pytest.mark.parametrize("ema", [False, True])
def test_a_whole_model_of_averages_opens(
    model: StableDiffusion, state: State, tmp_path: Path, name: str, ema: bool
) -> None:
    torch.save({name: state, "step": 3}, tmp_path / "m.ckpt")
    assert unlike(model, tmp_path / "m.ckpt", ema=ema) == []
    double = {key: 2 * weight for key, weight in state.items() if key.startswith(UNET)}
    torch.save({"state_dict": state, name: double}, tmp_path / "both.ckpt")
    changed = unlike(model, tmp_path / "both.ckpt", ema=ema)
    assert bool(changed) == ema
    assert all(weight.startswith("unet.") for weight in changed)


def test_of_two_averages_none_is_chosen(model: StableDiffusion, state: State, averages: State, tmp_path: Path) -> None:
    second = {f"ema.{key}": 2 * weight for key, weight in state.items() if key.startswith(UNET)}
    save_file({**state, **averages, **second}, tmp_path / "m.safetensors")
    assert unlike(model, tmp_path / "m.safetensors") == []
    with pytest.raises(CheckpointError, match=rf"unet: {len(second)} unexpected \((ema|model_ema)\."):
        unlike(model, tmp_path / "m.safetensors", ema=True)


def test_averages_do_not_need_the_trained_weights(
    model: StableDiffusion, state: State, averages: State, tmp_path: Path
) -> None:
    save_file({**without(state, UNET + "out.2.bias"), **averages}, tmp_path / "m.safetensors")
    assert unlike(model, tmp_path / "m.safetensors", ema=True) == []
    with pytest.raises(CheckpointError, match=r"unet: 1 missing \(model\.diffusion_model\.out\.2\.bias\)"):
        unlike(model, tmp_path / "m.safetensors")


# --- variants ---


def _as_variant(folder: Path, variant: str, ending: str = "safetensors") -> Path:
    (file,) = folder.glob("*.safetensors")
    stem = "pytorch_model" if ending == "bin" and folder.name == "text_encoder" else file.stem
    new = folder / f"{stem}.{variant}.{ending}"
    file.rename(new) if ending == "safetensors" else torch.save(load_file(file), new)
    file.unlink(missing_ok=True)
    return new


@pytest.mark.parametrize(
    ("variant", "ending"),
    [
        ("fp16", "bin"),
        ("bf16", "safetensors"),
        ("bf16", "bin"),
        ("non_ema", "safetensors"),
        ("fp8-e4m3", "safetensors"),
    ],
)
def test_the_only_variant_of_a_folder_is_opened(model: StableDiffusion, copy: Path, variant: str, ending: str) -> None:
    for component in COMPONENTS:
        _as_variant(copy / component, variant, ending)
    assert unlike(model, copy) == []
    found = inspect(copy)
    assert found.notes == tuple(f"{component}: variant {variant}" for component in COMPONENTS)
    assert f"unet: variant {variant}" in str(found)


def test_of_several_variants_the_plain_one_is_opened(model: StableDiffusion, copy: Path) -> None:
    for component in COMPONENTS:
        (file,) = (copy / component).glob("*.safetensors")
        for variant in ("fp16", "bf16"):
            save_file({}, file.with_name(f"{file.stem}.{variant}.safetensors"))
    assert unlike(model, copy) == []
    for component in COMPONENTS:
        (copy / component / ("model" if component == "text_encoder" else "diffusion_pytorch_model")).with_suffix(
            ".safetensors"
        ).unlink()
    for use in (load, inspect):
        with pytest.raises(CheckpointError, match=r"unet holds several variants, bf16, fp16, and none without"):
            use(copy)  # type: ignore[operator]


def test_shards_of_a_variant_are_opened(model: StableDiffusion, copy: Path) -> None:
    file = _as_variant(copy / "unet", "bf16")
    shard = "diffusion_pytorch_model.bf16-00001-of-00001.safetensors"
    file.rename(copy / "unet" / shard)
    index = {"weight_map": dict.fromkeys(model.unet.state_dict(), shard)}
    for name in ("diffusion_pytorch_model.bf16.safetensors.index", "diffusion_pytorch_model.safetensors.index.bf16"):
        (copy / "unet" / f"{name}.json").write_text(json.dumps(index))
        assert unlike(model, copy) == []
        assert inspect(copy).notes == ("unet: variant bf16",)
        (copy / "unet" / f"{name}.json").unlink()
    with pytest.raises(CheckpointError, match=f"unet holds no weights; .* there is: config.json, {shard}"):
        load(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.bf16.safetensors"])
def test_trainers_names_of_a_components_file_are_known(model: StableDiffusion, copy: Path, name: str) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    file.unlink()
    torch.save(weights, copy / "unet" / name) if name.endswith("bin") else save_file(weights, copy / "unet" / name)
    assert unlike(model, copy) == []


def test_a_folder_of_other_frameworks_lists_what_it_holds(copy: Path) -> None:
    (copy / "vae" / "diffusion_pytorch_model.safetensors").rename(copy / "vae" / "diffusion_flax_model.msgpack")
    with pytest.raises(CheckpointError, match=r"vae holds no weights; .* there is: .*diffusion_flax_model\.msgpack"):
        load(copy)


# --- values of config.json ---


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("vae", "scaling_factor", None),
        ("vae", "layers_per_block", None),
        ("vae", "mid_block_add_attention", None),
        ("unet", "sample_size", None),
        ("unet", "transformer_layers_per_block", None),
        ("text_encoder", "hidden_act", None),
    ],
)
def test_null_is_what_is_not_said(model: StableDiffusion, copy: Path, file: str, key: str, value: object) -> None:
    config = copy / file / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), key: value}))
    assert unlike(model, copy) == []


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("vae", "scaling_factor", "0.18215"),
        ("vae", "scaling_factor", [0.18215]),
        ("vae", "norm_num_groups", "8"),
        ("vae", "latent_channels", None),
        ("unet", "cross_attention_dim", 8.0),
        ("unet", "block_out_channels", [16, None]),
        ("unet", "norm_num_groups", True),
        ("text_encoder", "vocab_size", None),
        ("text_encoder", "hidden_size", "8"),
    ],
)
def test_a_value_of_another_type_is_named(copy: Path, file: str, key: str, value: object) -> None:
    config = copy / file / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), key: value}))
    with pytest.raises(CheckpointError) as caught:
        load(copy)
    message = str(caught.value)
    assert f"{config}" in message
    assert key in message
    assert "not supported between" not in message
    assert "\n" not in message


@pytest.mark.slow
def test_a_text_encoder_of_more_positions_has_a_tokenizer_of_as_many(copy: Path) -> None:
    longer = replace(TINY, text=replace(TINY.text, positions=248))
    save(random_model(longer), copy)
    loaded = load(copy)
    assert loaded.tokenizer.model_max_length == 248
    assert loaded.encode_text(["a crown " * 100]).shape == (1, 248, 8)
    assert clip_tokenizer().model_max_length == 77
    shutil.rmtree(copy / "tokenizer")
    with pytest.raises(CheckpointError, match=r"has no tokenizer/ folder, and its text encoder .*248 positions"):
        load(copy)
