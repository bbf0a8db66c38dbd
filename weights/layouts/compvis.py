"""Names of weights in CompVis files, in diffusers folders and in our models, related by rule for any configuration.

Ours are diffusers' present names. A `Renaming` relates them to CompVis's, and to those that converters, mergers and
diffusers of 2022 wrote, by dotted prefixes; the longest prefix that matches decides. Names here lack what stands before
them in a file (see `keys`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ebama.models import StableDiffusionConfig, TextConfig, UNetConfig, VAEConfig

from ..files.tensors import Entry
from . import openclip
from .keys import EMA_PREFIX, PREFIXES
from .padding import is_openclip
from .renaming import ITSELF, Block, Parts, Renaming


def _alone(name: str, entry: Entry) -> list[tuple[str, Entry]]:
    return [(name, entry)]


def _as_they_are(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights


@dataclass(frozen=True)
class ComponentNames:
    """Names of one component's weights.

    Attributes:
        prefix: how their keys begin in a CompVis file.
        to_compvis: the rest of the key of our name.
        to_ours: our name of a name without prefix; None for what is no weight, KeyError for what the network does not
            have.
        split: the weights, each with a name without prefix, of which an entry of a file consists.
        join: weights by our names -> those of a CompVis file, by names that `to_compvis` takes.
    """

    prefix: str
    to_compvis: Callable[[str], str]
    to_ours: Callable[[str], str | None]
    split: Callable[[str, Entry], list[tuple[str, Entry]]] = _alone
    join: Callable[[dict[str, Tensor]], dict[str, Tensor]] = _as_they_are

    def key(self, name: str) -> str:
        """The key of our `name` in a CompVis file."""
        return self.prefix + self.to_compvis(name)


def component_names(config: StableDiffusionConfig) -> dict[str, ComponentNames]:
    """Names of each component's weights."""
    unet, vae = unet_renaming(config.unet), vae_renaming(config.vae)
    names = {
        "unet": ComponentNames(PREFIXES["unet"][0], unet.to_compvis, unet.to_ours),
        "vae": ComponentNames(
            PREFIXES["vae"][0],
            vae.to_compvis,
            lambda name: None if name.startswith(_VAE_TRAINING) else vae.to_ours(name),
        ),
    }
    if config.text_2 is None:
        return names | {"text_encoder": _text_names(config.text, "cond_stage_model.")}
    first, second = (_text_names(text, f"conditioner.embedders.{i}.") for i, text in enumerate(config.texts))
    return names | {"text_encoder": first, "text_encoder_2": second}


def _text_names(config: TextConfig, prefix: str) -> ComponentNames:
    renaming = Renaming(openclip.text_blocks(config))

    def to_ours(name: str) -> str | None:
        stripped = text_name(name, projects=config.projection_width is not None)
        return None if stripped is None or openclip.is_unread(stripped, config) else renaming.to_ours(stripped)

    def to_openclip(name: str) -> str:
        return renaming.to_compvis(openclip.fused_name(name))

    if is_openclip(config):
        return ComponentNames(f"{prefix}model.", to_openclip, to_ours, openclip.split, openclip.join)
    return ComponentNames(f"{prefix}transformer.", "text_model.{}".format, to_ours, openclip.split)


_UNET_RESNET: Parts = {
    ".norm1": (".in_layers.0",),
    ".conv1": (".in_layers.2",),
    ".time_emb_proj": (".emb_layers.1",),
    ".norm2": (".out_layers.0",),
    ".conv2": (".out_layers.3",),
    ".conv_shortcut": (".skip_connection",),
}
_VAE_RESNET: Parts = {
    ".norm1": (".norm1",),
    ".conv1": (".conv1",),
    ".norm2": (".norm2",),
    ".conv2": (".conv2",),
    ".conv_shortcut": (".nin_shortcut",),
}
_VAE_ATTENTION: Parts = {
    ".group_norm": (".norm",),
    ".to_q": (".q", ".query"),
    ".to_k": (".k", ".key"),
    ".to_v": (".v", ".value"),
    ".to_out.0": (".proj_out", ".proj_attn"),
}
_VAE_TRAINING = ("loss.", "model_ema.")  # weights of the autoencoder's training, left in some files


def unet_renaming(config: UNetConfig) -> Renaming:
    """CompVis numbers the blocks through all levels and each block's modules within it."""
    return Renaming(_unet_blocks(config))


def _unet_blocks(config: UNetConfig) -> Iterator[Block]:
    levels, blocks = len(config.widths), config.blocks
    yield "time_embedding.linear_1", "time_embed.0", ITSELF
    yield "time_embedding.linear_2", "time_embed.2", ITSELF
    if config.vector_width:
        yield "add_embedding.linear_1", "label_emb.0.0", ITSELF
        yield "add_embedding.linear_2", "label_emb.0.2", ITSELF
    yield "conv_in", "input_blocks.0.0", ITSELF
    for i in range(levels):
        first = 1 + i * (blocks + 1)  # a downsampler ends each level but the last
        for j in range(blocks):
            yield f"down_blocks.{i}.resnets.{j}", f"input_blocks.{first + j}.0", _UNET_RESNET
            yield f"down_blocks.{i}.attentions.{j}", f"input_blocks.{first + j}.1", ITSELF
        yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{first + blocks}.0.op", ITSELF
    yield "mid_block.resnets.0", "middle_block.0", _UNET_RESNET
    yield "mid_block.attentions.0", "middle_block.1", ITSELF
    yield "mid_block.resnets.1", "middle_block.2", _UNET_RESNET
    for i in range(levels):
        first = i * (blocks + 1)
        attends = config.attention[levels - 1 - i]
        for j in range(blocks + 1):
            yield f"up_blocks.{i}.resnets.{j}", f"output_blocks.{first + j}.0", _UNET_RESNET
            if attends:
                yield f"up_blocks.{i}.attentions.{j}", f"output_blocks.{first + j}.1", ITSELF
        # The upsampler follows whatever its block holds.
        yield f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{first + blocks}.{2 if attends else 1}.conv", ITSELF
    yield "conv_norm_out", "out.0", ITSELF
    yield "conv_out", "out.2", ITSELF


def vae_renaming(config: VAEConfig) -> Renaming:
    """CompVis numbers the decoder's levels as the encoder's, so they run backwards."""
    return Renaming(_vae_blocks(config))


def _vae_blocks(config: VAEConfig) -> Iterator[Block]:
    levels = len(config.widths)
    for same in (
        "quant_conv",
        "post_quant_conv",
        "encoder.conv_in",
        "encoder.conv_out",
        "decoder.conv_in",
        "decoder.conv_out",
    ):
        yield same, same, ITSELF
    for i in range(levels):
        for j in range(config.blocks):
            yield f"encoder.down_blocks.{i}.resnets.{j}", f"encoder.down.{i}.block.{j}", _VAE_RESNET
        yield f"encoder.down_blocks.{i}.downsamplers.0.conv", f"encoder.down.{i}.downsample.conv", ITSELF
        theirs = f"decoder.up.{levels - 1 - i}"
        for j in range(config.blocks + 1):
            yield f"decoder.up_blocks.{i}.resnets.{j}", f"{theirs}.block.{j}", _VAE_RESNET
        yield f"decoder.up_blocks.{i}.upsamplers.0.conv", f"{theirs}.upsample.conv", ITSELF
    for side in ("encoder", "decoder"):
        yield f"{side}.conv_norm_out", f"{side}.norm_out", ITSELF
        yield f"{side}.mid_block.resnets.0", f"{side}.mid.block_1", _VAE_RESNET
        yield f"{side}.mid_block.resnets.1", f"{side}.mid.block_2", _VAE_RESNET
        yield f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1", _VAE_ATTENTION


def rank_may_differ(component: str, name: str) -> bool:
    """Whether layouts store this weight (by our name) as a matrix or as a 1x1 convolution: the VAE's attention."""
    return component == "vae" and ".attentions." in name and name.endswith(".weight") and "group_norm" not in name


_OF_A_WHOLE_CLIP = ("vision_model.", "visual_projection", "logit_scale")


def text_name(name: str, *, projects: bool = False) -> str | None:
    """Name of a text encoder's weight without `text_model.` or OpenCLIP's `model.`; None for what it does not use:
    `position_ids`, the rest of a whole CLIP, and a projection unless it `projects`."""
    name = name.removeprefix("text_model.").removeprefix("model.")
    unused = _OF_A_WHOLE_CLIP if projects else (*_OF_A_WHOLE_CLIP, "text_projection")
    return None if name.endswith("position_ids") or name.startswith(unused) else name


def ema_name(compvis_name: str) -> str:
    """Key of the moving average of a CompVis U-Net weight (named without prefix).

    The trainer deleted the dots; `100` may have been `1.0.0` or `10.0`, so this only goes one way.
    """
    return EMA_PREFIX + ("diffusion_model." + compvis_name).replace(".", "")
