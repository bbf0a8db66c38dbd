"""Names of weights in CompVis files, in diffusers folders and in our models, related by rule for any configuration.

Ours are diffusers' present names. A `Renaming` relates them to CompVis's by pairs of dotted prefixes; the longest
prefix that matches decides. Names lack the prefix of their component in a file (`COMPVIS_PREFIX`); `FileKeys` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ebama.models import StableDiffusionConfig, UNetConfig, VAEConfig

COMPVIS_PREFIX = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
EMA_PREFIX = "model_ema."
# Weights of the autoencoder's training, kept in some files.
_TRAINING_ONLY = ("first_stage_model.loss.", "first_stage_model.model_ema.")
Pair = tuple[str, str]


class Renaming:
    """A bijection between our names and CompVis's, given as pairs (our prefix, CompVis prefix)."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._theirs = dict(pairs)
        self._ours = {theirs: ours for ours, theirs in self._theirs.items()}

    def to_compvis(self, name: str) -> str:
        """CompVis's name of our `name`; KeyError if the configuration has no such weight."""
        return _rename(name, self._theirs)

    def to_ours(self, name: str) -> str:
        """Our name of CompVis's `name`; KeyError if the configuration has no such weight."""
        return _rename(name, self._ours)


def _rename(name: str, prefixes: dict[str, str]) -> str:
    head, tail = name, ""
    while head not in prefixes:
        head, dot, last = head.rpartition(".")
        if not dot:
            raise KeyError(name)
        tail = f".{last}{tail}"
    return prefixes[head] + tail


@dataclass(frozen=True)
class FileKeys:
    """Keys of one component's weights in a CompVis file."""

    prefix: str
    to_compvis: Callable[[str], str]
    to_ours: Callable[[str], str | None]

    def key(self, name: str) -> str:
        """The file's key of our `name`."""
        return self.prefix + self.to_compvis(name)

    def name(self, key: str) -> str | None:
        """Our name of the file's `key`; None for what is no weight, KeyError for what the network does not have."""
        return None if key.startswith(_TRAINING_ONLY) else self.to_ours(key.removeprefix(self.prefix))


def file_keys(config: StableDiffusionConfig) -> dict[str, FileKeys]:
    """Keys of each component of a CompVis file."""
    unet, vae = unet_renaming(config.unet), vae_renaming(config.vae)
    return {
        "unet": FileKeys(COMPVIS_PREFIX["unet"], unet.to_compvis, unet.to_ours),
        "vae": FileKeys(COMPVIS_PREFIX["vae"], vae.to_compvis, vae.to_ours),
        "text_encoder": FileKeys(COMPVIS_PREFIX["text_encoder"], "text_model.{}".format, text_name),
    }


_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _joined(ours: str, theirs: str, parts: Mapping[str, str]) -> Iterator[Pair]:
    for our_part, their_part in parts.items():
        yield f"{ours}.{our_part}", f"{theirs}.{their_part}"


def unet_renaming(config: UNetConfig) -> Renaming:
    """CompVis numbers the blocks through all levels and each block's modules within it."""
    return Renaming(_unet_pairs(config))


def _unet_pairs(config: UNetConfig) -> Iterator[Pair]:
    levels, blocks = len(config.widths), config.blocks
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "conv_in", "input_blocks.0.0"
    for i in range(levels):
        first = 1 + i * (blocks + 1)  # a downsampler ends each level but the last
        for j in range(blocks):
            yield from _joined(f"down_blocks.{i}.resnets.{j}", f"input_blocks.{first + j}.0", _UNET_RESNET)
            yield f"down_blocks.{i}.attentions.{j}", f"input_blocks.{first + j}.1"
        yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{first + blocks}.0.op"
    yield from _joined("mid_block.resnets.0", "middle_block.0", _UNET_RESNET)
    yield "mid_block.attentions.0", "middle_block.1"
    yield from _joined("mid_block.resnets.1", "middle_block.2", _UNET_RESNET)
    for i in range(levels):
        first = i * (blocks + 1)
        attends = config.attention[levels - 1 - i]
        for j in range(blocks + 1):
            yield from _joined(f"up_blocks.{i}.resnets.{j}", f"output_blocks.{first + j}.0", _UNET_RESNET)
            if attends:
                yield f"up_blocks.{i}.attentions.{j}", f"output_blocks.{first + j}.1"
        # The upsampler follows whatever its block holds.
        yield f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{first + blocks}.{2 if attends else 1}.conv"
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"


def vae_renaming(config: VAEConfig) -> Renaming:
    """CompVis numbers the decoder's levels as the encoder's, so they run backwards."""
    return Renaming(_vae_pairs(config))


def _vae_pairs(config: VAEConfig) -> Iterator[Pair]:
    levels = len(config.widths)
    for same in (
        "quant_conv",
        "post_quant_conv",
        "encoder.conv_in",
        "encoder.conv_out",
        "decoder.conv_in",
        "decoder.conv_out",
    ):
        yield same, same
    for i in range(levels):
        for j in range(config.blocks):
            yield from _joined(f"encoder.down_blocks.{i}.resnets.{j}", f"encoder.down.{i}.block.{j}", _VAE_RESNET)
        yield f"encoder.down_blocks.{i}.downsamplers.0.conv", f"encoder.down.{i}.downsample.conv"
        theirs = f"decoder.up.{levels - 1 - i}"
        for j in range(config.blocks + 1):
            yield from _joined(f"decoder.up_blocks.{i}.resnets.{j}", f"{theirs}.block.{j}", _VAE_RESNET)
        yield f"decoder.up_blocks.{i}.upsamplers.0.conv", f"{theirs}.upsample.conv"
    for side in ("encoder", "decoder"):
        yield f"{side}.conv_norm_out", f"{side}.norm_out"
        yield from _joined(f"{side}.mid_block.resnets.0", f"{side}.mid.block_1", _VAE_RESNET)
        yield from _joined(f"{side}.mid_block.resnets.1", f"{side}.mid.block_2", _VAE_RESNET)
        yield from _joined(f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1", _VAE_ATTENTION)


_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def modern_vae_name(name: str) -> str:
    """The present diffusers name of a VAE weight: folders of 2022 call the attention's layers query, key, value."""
    path, _, parameter = name.rpartition(".")
    parent, _, layer = path.rpartition(".")
    if parent.endswith(".mid_block.attentions.0") and layer in _OLD_ATTENTION:
        return f"{parent}.{_OLD_ATTENTION[layer]}.{parameter}"
    return name


def rank_may_differ(component: str, name: str) -> bool:
    """Whether layouts store this weight (by our name) as a matrix or as a 1x1 convolution: the VAE's attention."""
    return component == "vae" and ".attentions." in name and name.endswith(".weight") and "group_norm" not in name


def text_name(name: str) -> str | None:
    """Our name of a text encoder's weight: without `text_model.`; None for `position_ids`, which is no weight."""
    name = name.removeprefix("text_model.")
    return None if name.endswith("position_ids") else name


def ema_name(compvis_name: str) -> str:
    """Key of the moving average of a CompVis U-Net weight (named without prefix).

    The trainer deleted the dots; `100` may have been `1.0.0` or `10.0`, so this only goes one way.
    """
    return EMA_PREFIX + ("diffusion_model." + compvis_name).replace(".", "")
