"""What a file of weights is when it is not a Stable Diffusion v1 checkpoint, told from its names and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from .compvis import COMPVIS_PREFIX

Shapes = Mapping[str, tuple[int, ...]]


def unet_kind(in_channels: int, context_width: int) -> str | None:
    """What a full-size U-Net with these inputs belongs to; None for Stable Diffusion v1 (4 and 768)."""
    if context_width in (1024, 2048):
        return "a Stable Diffusion v2 model" if context_width == 1024 else "a Stable Diffusion XL model"
    return {
        5: "a depth-guided model",
        7: "an upscaling model",
        8: "an image-editing (InstructPix2Pix) model",
        9: "an inpainting model",
    }.get(in_channels)


def file_kind(shapes: Shapes) -> str | None:
    """What else a single file of weights is; None if nothing speaks against Stable Diffusion v1."""
    if not shapes:
        return "a file without any weights"
    for what, marks in _MARKS.items():
        if any(mark in name for name in shapes for mark in marks):
            return what
    if all("." not in name and shape[-1:] in _EMBEDDING_SHAPES for name, shape in shapes.items()):
        return _EMBEDDING
    unet = COMPVIS_PREFIX["unet"]
    conv_in = shapes.get(f"{unet}input_blocks.0.0.weight", ())
    context = next((s for n, s in shapes.items() if n.startswith(unet) and n.endswith("attn2.to_k.weight")), ())
    if len(conv_in) == 4 and len(context) == 2 and conv_in[0] == 320 and (kind := unet_kind(conv_in[1], context[1])):
        return kind
    present = [component for component, prefix in COMPVIS_PREFIX.items() if any(n.startswith(prefix) for n in shapes)]
    if not present:
        if any(
            name.startswith(("down_blocks.", "encoder.down_blocks.", "text_model.", "encoder.layers."))
            for name in shapes
        ):
            return "one component of a diffusers folder (give the folder that holds unet/, vae/ and text_encoder/)"
        if any(name.startswith(("encoder.down.", "decoder.up.")) for name in shapes):
            return "a VAE alone"
        return "a file of other weights"
    return None


_EMBEDDING = "a textual-inversion embedding"
_EMBEDDING_SHAPES = ((768,), (1024,), (1280,))  # vectors of the text encoders of v1, v2 and XL, under free names
# Parts of names that only one kind of file has; the first kind that matches is reported.
_MARKS = {
    "a LoRA (a change to a checkpoint, not a checkpoint)": (
        "lora_up.",
        "lora_down.",
        "lora_A.",
        "lora_B.",
        "lora.up.",
        "lora.down.",
        "hada_w1_a",
        "lokr_w1",
    ),
    _EMBEDDING: ("emb_params", "string_to_param"),
    "a ControlNet": ("control_model.", "controlnet_cond_embedding.", "input_hint_block."),
    "a Stable Diffusion XL model": ("conditioner.embedders.",),
    "a Stable Diffusion v2 model": ("cond_stage_model.model.",),
    "a transformer-based diffusion model (Stable Diffusion 3, Flux or the like)": (
        "joint_blocks.",
        "double_blocks.",
        "transformer_blocks.0.norm1_context.",
    ),
}
