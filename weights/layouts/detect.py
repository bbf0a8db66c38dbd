"""What a file of weights is, told from its names and shapes: a kind of Stable Diffusion, or something else."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ebama.models import SD_V1, SD_V2, SDXL, StableDiffusionConfig

from .keys import Key, read_key

Shapes = Mapping[str, tuple[int, ...]]

_EMBEDDING = "a textual-inversion embedding"
_EMBEDDING_SHAPES = ((768,), (1024,), (1280,))  # vectors of the text encoders of v1, v2 and XL, under free names
_CHANGE = "(a change to a checkpoint, not a checkpoint; merge it into one with the program that it is made for)"
# Parts of names that only one kind of file has; the first kind that matches is reported.
_MARKS = {
    kind: re.compile(marks)
    for kind, marks in {
        "an IP-Adapter": r"ip_adapter\.|to_k_ip\.|^image_proj\.",
        f"a DoRA {_CHANGE}": r"\.dora_scale$|lora_magnitude_vector",
        f"a LoRA {_CHANGE}": r"lora_(up|down|mid|A|B|embedding_A)\b|lora\.(up|down)\.",
        f"a LoHa {_CHANGE}": r"\.hada_[wt][12]",
        f"a LoKr {_CHANGE}": r"\.lokr_[wt][12]",
        f"an OFT {_CHANGE}": r"\bb?oft_(blocks|diag|R|S|r|s)\b|^oft_",
        f"an IA3 {_CHANGE}": r"\.on_input$|\bia3_l\b",
        f"a VeRA {_CHANGE}": r"vera_(lambda|A|B)",
        f"a full difference of LyCORIS {_CHANGE}": r"\.diff(_b)?$",
        f"an adapter {_CHANGE}": r"^(lora|lycoris|loha|lokr|glora)_|^base_model\.model\.|\.(a1|b1)\.weight$",
        _EMBEDDING: r"^(?!bundle_emb\.).*(emb_params|string_to_param\.)",  # no checkpoint with some
        "a ControlNet": r"control_model\.|controlnet_cond_embedding\.|input_hint_block\.",
        "a T2I-Adapter": r"^(adapter\.)?body\.\d+\.(block1|in_conv|resnets)\b|^adapter\.body\.",
        "a hypernetwork": r"^\d+\.\d+\.linear\.",
        "a motion module (AnimateDiff)": r"motion_modules\.",
        "a transformer-based diffusion model (Stable Diffusion 3, Flux or the like)": r"joint_blocks\.|double_blocks\.|"
        r"transformer_blocks\.0\.norm1_context\.|adaln_single\.|double_layers\.|(^|\.)(t_block|txt_in|y_embedder|"
        r"style_embedder|cap_embedder)\.|^blocks\.0\.(cross_)?attn|\.conv_depth\.",
        "a Stable Cascade model": r"clip_(txt_)?(pooled_)?mapper\.|effnet_mapper\.|\.channelwise\.",
        "a Kandinsky model": r"add_embedding\.image_proj\.|(^|\.)prd_embedding$|\.spatial_norm\.",
        "a DeepFloyd IF model": r"add_embedding\.pool\.",
        "a video model": r"\.time_stack\.|temporal_transformer_blocks\.|\.time_mixer\.",
        "a GLIGEN model (told boxes)": r"\.fuser\.|position_net\.",
        "a latent diffusion model before Stable Diffusion": r"cond_stage_model\.transformer\.attn_layers\.",
    }.items()
}
_VAE = "a VAE alone"
# How names begin in files that hold a part of a checkpoint.
_PARTS = {
    "one component of a diffusers folder (give the folder that holds unet/, vae/ and text_encoder/)": "down_blocks. "
    "encoder.down_blocks. text_model. encoder.layers.",
    _VAE: "encoder.down. decoder.up.",
}
_CONV_IN = ("input_blocks.0.0.weight", "conv_in.weight")
_BY_CHANNELS = {
    5: "a depth-guided model",
    7: "an upscaling model",
    8: "an image-editing (InstructPix2Pix) model",
    9: "an inpainting model",
}


_LABELS = "label_emb."
FULL_SIZE = (256, 320, 384)
"""First widths of published U-Nets: the upscaler's, most, the XL refiner's."""
_BY_CONTEXT = {768: SD_V1, 1024: SD_V2, 2048: SDXL}


def kind_name(config: StableDiffusionConfig) -> str:
    """The kind of Stable Diffusion that a configuration is of, whatever its size."""
    return {"1": "Stable Diffusion v1", "2": "Stable Diffusion 2", "xl": "Stable Diffusion XL"}[config.version]


def unet_kind(in_channels: int, context_width: int, labels: bool) -> str | None:
    """The kind of model with these inputs of a full-size U-Net, where it is none that can be built; `labels` says
    whether it is told classes or pictures too."""
    if in_channels in _BY_CHANNELS:
        return _BY_CHANNELS[in_channels]
    if context_width == 1280:
        return "a Stable Diffusion XL refiner"
    return "an unCLIP model (told a picture)" if labels and context_width < 2048 else None


def preset_of(shapes: Shapes) -> StableDiffusionConfig:
    """The kind of Stable Diffusion that a single file is of, as far as its names and its context's width tell."""
    keys = {read_key(key): shape for key, shape in shapes.items()}
    if any(key.component == "text_encoder_2" for key in keys):
        return SDXL
    context = _context({key: shape for key, shape in keys.items() if key.component == "unet"})
    return _BY_CONTEXT.get(context[-1] if context else 0, SD_V1)


def file_kind(shapes: Shapes) -> str | None:
    """The kind of a single file of other weights; None if nothing speaks against Stable Diffusion v1, 2 or XL."""
    if not shapes:
        return "a file without any weights"
    for kind, marks in _MARKS.items():
        if any(marks.search(name) for name in shapes):
            return kind
    if all(_is_embedding(name, shape) for name, shape in shapes.items()):
        return _EMBEDDING
    keys = {read_key(key): shape for key, shape in shapes.items()}
    if other := _other_unet({key: shape for key, shape in keys.items() if key.component == "unet"}):
        return other
    if (components := {key.component for key in keys} - {None}) and components != {"vae"}:
        return None
    names = [key.name for key in keys]
    if components:
        return _VAE
    parts = (kind for kind, starts in _PARTS.items() if any(name.startswith(tuple(starts.split())) for name in names))
    return next(parts, "a file of other weights")


def _is_embedding(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor may be the vectors of a word, as many as a prompt can hold; a word with a dot is one of several
    vectors, or the name could be a weight's."""
    is_word = "." not in name or (len(shape) == 2 and shape[0] <= 75)
    return is_word and shape[-1:] in _EMBEDDING_SHAPES


def _other_unet(shapes: Mapping[Key, tuple[int, ...]]) -> str | None:
    conv_in = next((shape for key, shape in shapes.items() if key.name in _CONV_IN), ())
    context = _context(shapes)
    full_size = len(conv_in) == 4 and len(context) == 2 and conv_in[0] in FULL_SIZE
    labels = any(key.name.startswith(_LABELS) for key in shapes)
    return unet_kind(conv_in[1], context[1], labels) if full_size else None


def _context(shapes: Mapping[Key, tuple[int, ...]]) -> tuple[int, ...]:
    return next((shape for key, shape in shapes.items() if key.name.endswith("attn2.to_k.weight")), ())
