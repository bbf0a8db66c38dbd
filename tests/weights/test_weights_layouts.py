"""The key rules, against names and shapes derived here from CompVis's construction, and against diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import pytest
import torch

from ebama.models import MINIATURE, SD_V1, VAE, TextConfig, TextEncoder, UNet, UNetConfig, VAEConfig
from ebama.weights.layouts.compvis import (
    ema_name,
    rank_may_differ,
    text_name,
    unet_renaming,
    vae_renaming,
)
from ebama.weights.networks import expected_shapes

Shape = tuple[int, ...]
UNETS = {
    "sd-v1": SD_V1.unet,
    "miniature": MINIATURE.unet,
    "one-level": UNetConfig(widths=(16,), attention=(True,), heads=(2,), blocks=1, context_width=8, norm_groups=8),
    "outer-without-attention": UNetConfig(
        widths=(16, 32, 48), attention=(False, True, False), heads=(1, 2, 4), blocks=3, context_width=8, norm_groups=8
    ),
    "no-attention-but-the-middle": UNetConfig(
        widths=(32, 16), attention=(False, False), heads=(1, 1), blocks=2, depth=2, context_width=24, norm_groups=16
    ),
    "eleven-blocks": UNetConfig(
        widths=(8, 16), attention=(True, True), heads=(1, 1), blocks=11, context_width=8, norm_groups=8
    ),
}
VAES = {
    "sd-v1": SD_V1.vae,
    "miniature": MINIATURE.vae,
    "one-level": VAEConfig(widths=(8,), blocks=1, norm_groups=4),
    "no-attention": VAEConfig(widths=(8, 16), blocks=3, norm_groups=4, mid_attention=False),
    "five-levels": VAEConfig(widths=(8, 8, 16, 16, 8), blocks=1, latent_channels=3, norm_groups=8),
}


def _layer(name: str, *weight: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", weight
    if bias:
        yield f"{name}.bias", weight[:1]


def _transformer(name: str, width: int, context: int, depth: int) -> Iterator[tuple[str, Shape]]:
    yield from _layer(f"{name}.norm", width)
    yield from _layer(f"{name}.proj_in", width, width, 1, 1)
    for d in range(depth):
        block = f"{name}.transformer_blocks.{d}"
        for attention, source in (("attn1", width), ("attn2", context)):
            yield from _layer(f"{block}.{attention}.to_q", width, width, bias=False)
            yield from _layer(f"{block}.{attention}.to_k", width, source, bias=False)
            yield from _layer(f"{block}.{attention}.to_v", width, source, bias=False)
            yield from _layer(f"{block}.{attention}.to_out.0", width, width)
        yield from _layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from _layer(f"{block}.ff.net.2", width, 4 * width)
        for i in (1, 2, 3):
            yield from _layer(f"{block}.norm{i}", width)
    yield from _layer(f"{name}.proj_out", width, width, 1, 1)


def _unet_block(name: str, before: int, width: int, time: int) -> Iterator[tuple[str, Shape]]:
    yield from _layer(f"{name}.in_layers.0", before)
    yield from _layer(f"{name}.in_layers.2", width, before, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", width, time)
    yield from _layer(f"{name}.out_layers.0", width)
    yield from _layer(f"{name}.out_layers.3", width, width, 3, 3)
    if before != width:
        yield from _layer(f"{name}.skip_connection", width, before, 1, 1)


def compvis_unet(config: UNetConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes in a CompVis U-Net: blocks are appended to two lists, as its constructor does."""
    time, levels = 4 * config.widths[0], len(config.widths)

    def transformer(name: str, width: int) -> Iterator[tuple[str, Shape]]:
        return _transformer(name, width, config.context_width, config.depth)

    yield from _layer("time_embed.0", time, config.widths[0])
    yield from _layer("time_embed.2", time, time)
    yield from _layer("input_blocks.0.0", config.widths[0], config.in_channels, 3, 3)
    n, width, skips = 1, config.widths[0], [config.widths[0]]
    for level in range(levels):
        for _ in range(config.blocks):
            yield from _unet_block(f"input_blocks.{n}.0", width, config.widths[level], time)
            width = config.widths[level]
            if config.attention[level]:
                yield from transformer(f"input_blocks.{n}.1", width)
            skips.append(width)
            n += 1
        if level != levels - 1:
            yield from _layer(f"input_blocks.{n}.0.op", width, width, 3, 3)
            skips.append(width)
            n += 1
    yield from _unet_block("middle_block.0", width, width, time)
    yield from transformer("middle_block.1", width)
    yield from _unet_block("middle_block.2", width, width, time)
    n = 0
    for level in reversed(range(levels)):
        for i in range(config.blocks + 1):
            yield from _unet_block(f"output_blocks.{n}.0", width + skips.pop(), config.widths[level], time)
            width, modules = config.widths[level], 1
            if config.attention[level]:
                yield from transformer(f"output_blocks.{n}.1", width)
                modules = 2
            if level and i == config.blocks:
                yield from _layer(f"output_blocks.{n}.{modules}.conv", width, width, 3, 3)
            n += 1
    yield from _layer("out.0", width)
    yield from _layer("out.2", config.out_channels, width, 3, 3)


def _vae_block(name: str, before: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield from _layer(f"{name}.norm1", before)
    yield from _layer(f"{name}.conv1", width, before, 3, 3)
    yield from _layer(f"{name}.norm2", width)
    yield from _layer(f"{name}.conv2", width, width, 3, 3)
    if before != width:
        yield from _layer(f"{name}.nin_shortcut", width, before, 1, 1)


def compvis_vae(config: VAEConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes in a CompVis autoencoder, by its constructor."""
    widths, z = config.widths, config.latent_channels
    for side in ("encoder", "decoder"):
        width = widths[-1]
        yield from _vae_block(f"{side}.mid.block_1", width, width)
        yield from _vae_block(f"{side}.mid.block_2", width, width)
        if config.mid_attention:
            yield from _layer(f"{side}.mid.attn_1.norm", width)
            for part in ("q", "k", "v", "proj_out"):
                yield from _layer(f"{side}.mid.attn_1.{part}", width, width, 1, 1)
    yield from _layer("encoder.conv_in", widths[0], config.image_channels, 3, 3)
    width = widths[0]
    for level in range(len(widths)):
        for j in range(config.blocks):
            yield from _vae_block(f"encoder.down.{level}.block.{j}", width, widths[level])
            width = widths[level]
        if level != len(widths) - 1:
            yield from _layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from _layer("encoder.norm_out", width)
    yield from _layer("encoder.conv_out", 2 * z, width, 3, 3)
    yield from _layer("decoder.conv_in", width, z, 3, 3)
    for level in reversed(range(len(widths))):
        for j in range(config.blocks + 1):
            yield from _vae_block(f"decoder.up.{level}.block.{j}", width, widths[level])
            width = widths[level]
        if level != 0:
            yield from _layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from _layer("decoder.norm_out", width)
    yield from _layer("decoder.conv_out", config.image_channels, width, 3, 3)
    yield from _layer("quant_conv", 2 * z, 2 * z, 1, 1)
    yield from _layer("post_quant_conv", z, z, 1, 1)


def _state(network: torch.nn.Module) -> dict[str, Shape]:
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items()}


@pytest.mark.parametrize("name", UNETS)
def test_unet_rules_are_a_bijection_that_keeps_shapes(name: str) -> None:
    config = UNETS[name]
    with torch.device("meta"):
        ours = _state(UNet(config))
    theirs = dict(compvis_unet(config))
    renaming = unet_renaming(config)
    assert {renaming.to_compvis(key): shape for key, shape in ours.items()} == theirs
    assert {renaming.to_ours(key): shape for key, shape in theirs.items()} == ours


@pytest.mark.parametrize("name", VAES)
def test_vae_rules_are_a_bijection_that_keeps_shapes(name: str) -> None:
    config = VAES[name]
    with torch.device("meta"):
        ours = _state(VAE(config))
    theirs = dict(compvis_vae(config))
    renaming = vae_renaming(config)
    assert {renaming.to_compvis(key) for key in ours} == set(theirs)
    assert {renaming.to_ours(key) for key in theirs} == set(ours)
    differ = {key for key, shape in ours.items() if theirs[renaming.to_compvis(key)] != shape}
    assert differ == {key for key in ours if rank_may_differ("vae", key)}
    assert len(differ) == (8 if config.mid_attention else 0)
    for key in differ:
        assert theirs[renaming.to_compvis(key)] == (*ours[key], 1, 1)


@pytest.mark.parametrize("config", [SD_V1.text, TextConfig(vocabulary=99, mlp_width=24, layers=3, heads=2)])
def test_expected_shapes_are_those_of_the_text_encoder(config: TextConfig) -> None:
    with torch.device("meta"):
        network = _state(TextEncoder(config))
    assert list(dict(expected_shapes(replace(SD_V1, text=config))["text_encoder"]).items()) == list(network.items())


def test_sd_v1_has_the_published_numbers_of_weights() -> None:
    counts = {
        name: (len(weights), sum(map(prod, weights.values()))) for name, weights in expected_shapes(SD_V1).items()
    }
    assert counts == {
        "unet": (686, 859_520_964),
        "vae": (248, 83_653_863),
        "text_encoder": (196, 123_060_480),
    }


def test_renaming_gives_known_names_of_sd_v1() -> None:
    unet, vae = unet_renaming(SD_V1.unet), vae_renaming(SD_V1.vae)
    for ours, theirs in {
        "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_q.weight": (
            "input_blocks.8.1.transformer_blocks.0.attn2.to_q.weight"
        ),
        "down_blocks.1.downsamplers.0.conv.bias": "input_blocks.6.0.op.bias",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.resnets.2.conv_shortcut.weight": "output_blocks.11.0.skip_connection.weight",
    }.items():
        assert unet.to_compvis(ours) == theirs
        assert unet.to_ours(theirs) == ours
    assert vae.to_compvis("decoder.up_blocks.0.resnets.2.norm1.weight") == "decoder.up.3.block.2.norm1.weight"
    assert vae.to_compvis("encoder.mid_block.attentions.0.to_out.0.bias") == "encoder.mid.attn_1.proj_out.bias"


@pytest.mark.parametrize(
    "name", ["input_blocks.99.0.in_layers.0.weight", "time_embed.1.weight", "label_emb.weight", ""]
)
def test_names_outside_the_network_are_key_errors(name: str) -> None:
    with pytest.raises(KeyError):
        unet_renaming(SD_V1.unet).to_ours(name)


def test_old_vae_attention_names_become_modern() -> None:
    stem, modern = "decoder.mid_block.attentions.0", vae_renaming(SD_V1.vae).to_ours
    assert modern(f"{stem}.query.weight") == f"{stem}.to_q.weight"
    assert modern(f"{stem}.key.bias") == f"{stem}.to_k.bias"
    assert modern(f"{stem}.value.weight") == f"{stem}.to_v.weight"
    assert modern(f"{stem}.proj_attn.bias") == f"{stem}.to_out.0.bias"
    with torch.device("meta"):
        for key in VAE(SD_V1.vae).state_dict():
            assert modern(key) == key


def test_text_names_lose_their_prefix() -> None:
    assert (
        text_name("text_model.final_layer_norm.bias") == text_name("final_layer_norm.bias") == "final_layer_norm.bias"
    )
    assert text_name("text_model.embeddings.position_ids") is None


@pytest.mark.parametrize("name", UNETS)
def test_ema_names_are_distinct(name: str) -> None:
    names = [key for key, _ in compvis_unet(UNETS[name])]
    assert ema_name("input_blocks.0.0.weight") == "model_ema.diffusion_modelinput_blocks00weight"
    assert len({ema_name(key) for key in names}) == len(names)


@pytest.mark.slow
def test_same_as_the_converters_of_diffusers() -> None:
    pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    theirs = {f"model.diffusion_model.{key}": torch.empty(1) for key, _ in compvis_unet(SD_V1.unet)}
    converted = convert_ldm_unet_checkpoint(dict(theirs), {"layers_per_block": 2})
    by_id = {id(value): key for key, value in theirs.items()}
    renaming = unet_renaming(SD_V1.unet)
    assert len(converted) == 686
    for ours, value in converted.items():
        assert by_id[id(value)] == f"model.diffusion_model.{renaming.to_compvis(ours)}"

    vae = {f"first_stage_model.{key}": torch.full(shape, i) for i, (key, shape) in enumerate(compvis_vae(SD_V1.vae))}
    order = list(vae)
    converted = convert_ldm_vae_checkpoint(vae, {"down_block_types": [""] * 4, "up_block_types": [""] * 4})
    assert len(converted) == 248
    for ours, value in converted.items():
        theirs_name = order[int(value.flatten()[0])]
        assert theirs_name == f"first_stage_model.{vae_renaming(SD_V1.vae).to_compvis(ours)}"


def test_same_names_and_shapes_as_the_models_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    expected = expected_shapes(SD_V1)
    assert _state(unet) == expected["unet"]
    assert _state(vae) == expected["vae"]
