"""`load`: a checkpoint of any layout, or the embedded miniature, into a `StableDiffusion`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ebama.models import MINIATURE, StableDiffusionConfig, TextConfig

from .checkpoint import Checkpoint, Component, open_checkpoint
from .errors import CheckpointError
from .files.mapped import is_finite, populate
from .files.regular import given_path, named_refusals
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
    prediction: Literal["epsilon", "v"] | None = None,
) -> StableDiffusion:
    """Open a checkpoint of Stable Diffusion v1, 2 or XL: frozen, in eval mode, on `device` in `dtype`.

    path: None for the embedded miniature; a diffusers folder, whose `config.json` files say what its networks are;
        or a single file (.safetensors, .ckpt), whose kind is told from its shapes unless `config` says otherwise.
    config: the networks' shapes, instead of the folder's own or those of the file's kind.
    ema: take the U-Net's moving averages (`model_ema.*`) of a single file.
    dtype: of the weights; a VAE that overflows in float16 (Stable Diffusion XL's) stays in float32.
    prediction: what the U-Net predicts, instead of what the file says. Where it says nothing (single files of Stable
        Diffusion 2), the weights tell, and a warning how.

    Weights that need no conversion stay memory-mapped: do not change the file while they are in use (replacing or
    deleting it is fine). Raises CheckpointError, in one line that names the file, unless every weight is there
    in its shape, finite, and nothing is left over. Nothing in a file is executed.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise ValueError(f"dtype is {dtype!r}; expected a floating-point type such as torch.float32.")
    check_device(device)
    if prediction not in (None, "epsilon", "v"):
        raise ValueError(f"prediction is {prediction!r}; expected 'epsilon', 'v' or None for what the file says.")
    where = MINIATURE_FOLDER
    if path is not None:
        where = given_path(path, "a file, a folder, or None for the embedded miniature")
    if not isinstance(config, StableDiffusionConfig | None):
        raise ValueError(f"config is {config!r}; expected one of ebama.models, as SD_V1, or None for the file's own.")
    with named_refusals(where):
        checkpoint = open_checkpoint(where, config, ema=ema, prediction=prediction)
    if checkpoint.prediction_is_guessed:
        warnings.warn(f"{checkpoint.path} {checkpoint.notes[-1]}", stacklevel=2)
    with torch.inference_mode(False), torch.no_grad():  # weights made in that mode could never be part of a gradient
        networks = build_on_meta(checkpoint.config)
        if differing := differences(checkpoint, shapes(networks)):
            raise CheckpointError(summary(checkpoint.path, differing))
        config = checkpoint.config
        tokenizers = read_tokenizers(checkpoint)
        for name, network in networks.items():
            upcast = name == "vae" and config.vae.upcast and dtype == torch.float16
            precision = torch.float32 if upcast else dtype
            _fill(network, checkpoint.components[name], checkpoint.path, torch.device(device), precision)
    parts: dict[str, Any] = networks | tokenizers
    vocabulary = MINIATURE_VOCABULARY if config.name == MINIATURE.name else None
    return StableDiffusion(config=config, vocabulary=vocabulary, schedule=checkpoint.schedule, **parts)


def check_device(device: str | torch.device) -> None:
    """Raise ValueError, in one line, for a device that is not there or holds no values."""
    try:
        there = not torch.empty(1, device=torch.device(device)).is_meta
        why = "it holds no values"
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:  # torch's ways to say that there is none
        there, why = False, str(error).splitlines()[0]
    if not there:
        raise ValueError(f"device {str(device)!r} cannot be used here: {why}")


def read_tokenizers(checkpoint: Checkpoint) -> dict[str, CLIPTokenizer | None]:
    """`tokenizer` and `tokenizer_2`, the latter None for a single text encoder. Raises CheckpointError for one that
    does not work, or not with its text encoder."""
    first, second = checkpoint.config.text, checkpoint.config.text_2
    return {
        "tokenizer": _tokenizer(checkpoint, checkpoint.tokenizer, first),
        "tokenizer_2": _tokenizer(checkpoint, checkpoint.tokenizer_2, second) if second else None,
    }


def _tokenizer(checkpoint: Checkpoint, folder: Path | None, text: TextConfig) -> CLIPTokenizer:
    if folder is not None:
        return read_tokenizer(folder, text.vocabulary, text.positions)
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
        try:
            weight = stored.reshape(empty.shape).to(dtype).contiguous()
        except NotImplementedError as error:
            raise CheckpointError(f"{path}: {entry.key} is of {stored.dtype}, which cannot be read.") from error
        if not is_finite(weight):
            why = f"overflow {dtype}" if is_finite(stored.contiguous()) else "are NaN or infinite"
            raise CheckpointError(f"{path}: {entry.key} has values that {why}.")
        weights[name] = weight.to(device)
    network.load_state_dict(weights, assign=True)
    network.requires_grad_(False).eval().to(device)  # buffers are in no file
    left = [name for name, t in (*network.named_parameters(), *network.named_buffers()) if t.is_meta]
    if left:
        raise RuntimeError(f"{type(network).__name__} was left without values for {', '.join(left)}.")
