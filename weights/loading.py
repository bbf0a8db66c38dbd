"""`load`: a checkpoint of any layout, or the embedded miniature, into a `StableDiffusion`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ebama.models import MINIATURE, StableDiffusionConfig

from .checkpoint import Checkpoint, Component, open_checkpoint
from .errors import CheckpointError
from .files.mapped import is_finite, populate
from .layouts.folder import COMPONENTS
from .miniature.world import VOCABULARY as MINIATURE_VOCABULARY
from .networks import build_on_meta, shapes
from .stable_diffusion import StableDiffusion
from .tokenizer import POSITIONS, VOCABULARY, clip_tokenizer, read_tokenizer
from .verify import differences, summary

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MINIATURE_FOLDER = Path(__file__).parent / "miniature"


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    config: StableDiffusionConfig | None = None,
    ema: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> StableDiffusion:
    """Open a checkpoint: frozen, in eval mode, on `device` in `dtype`.

    path: None for the embedded miniature; a diffusers folder, whose `config.json` files say what its networks are;
        or a single file (.safetensors, .ckpt), which is Stable Diffusion v1 unless `config` says otherwise.
    config: the networks' shapes, instead of the folder's own or Stable Diffusion v1.
    ema: take the U-Net's moving averages (`model_ema.*`) of a single file.

    Weights that need no conversion stay memory-mapped: do not change the file while they are in use (replacing or
    deleting it is fine). Raises CheckpointError, in one line that names the file, unless every weight is there
    in its shape, finite, and nothing is left over. Nothing in a file is executed.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; expected a floating-point type such as torch.float32.")
    checkpoint = open_checkpoint(Path(path) if path is not None else MINIATURE_FOLDER, config, ema=ema)
    with torch.inference_mode(False), torch.no_grad():  # weights made in that mode could never be part of a gradient
        networks = build_on_meta(checkpoint.config)
        if found := differences(checkpoint, shapes(networks)):
            raise CheckpointError(summary(checkpoint.path, found))
        tokenizer = _tokenizer(checkpoint)
        for name, network in networks.items():
            _fill(network, checkpoint.components[name], checkpoint.path, torch.device(device), dtype)
    unet, vae, text_encoder = (networks[name] for name in COMPONENTS)
    vocabulary = MINIATURE_VOCABULARY if checkpoint.config.name == MINIATURE.name else None
    config, schedule = checkpoint.config, checkpoint.schedule
    return StableDiffusion(unet, vae, text_encoder, tokenizer, config, vocabulary, schedule)  # type: ignore[arg-type]


def _tokenizer(checkpoint: Checkpoint) -> CLIPTokenizer:
    text = checkpoint.config.text
    if checkpoint.tokenizer is not None:
        return read_tokenizer(checkpoint.tokenizer, text.vocabulary, text.positions)
    if text.vocabulary != VOCABULARY or text.positions > POSITIONS:
        raise CheckpointError(
            f"{checkpoint.path} has no tokenizer/ folder, and its text encoder ({text.vocabulary} tokens, "
            f"{text.positions} positions) does not fit CLIP's ({VOCABULARY}, {POSITIONS})."
        )
    return clip_tokenizer(text.positions)


def _fill(network: nn.Module, component: Component, path: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Give a network made on the meta device its weights, one at a time."""
    weights = {}
    for name, empty in network.state_dict().items():
        entry = component.entries[name]
        stored = entry.read()
        try:
            populate(stored)
        except OSError as error:
            raise CheckpointError(f"{path}: {entry.key} cannot be read: {error.strerror}.") from error
        weight = stored.reshape(empty.shape).to(dtype).contiguous()
        if not is_finite(weight):
            why = f"overflow {dtype}" if is_finite(stored.contiguous()) else "are NaN or infinite"
            raise CheckpointError(f"{path}: {entry.key} has values that {why}.")
        weights[name] = weight.to(device)
    network.load_state_dict(weights, assign=True)
    network.requires_grad_(False).eval().to(device)  # buffers are in no file
    left = [name for name, t in (*network.named_parameters(), *network.named_buffers()) if t.is_meta]
    if left:
        raise RuntimeError(f"{type(network).__name__} was left without values for {', '.join(left)}.")
