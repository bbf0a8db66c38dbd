"""Where networks run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ebama.models import UNet
from ebama.weights import StableDiffusion

from .arithmetic import usable_arithmetic
from .exhaustion import is_exhausted

_MIXED = re.compile(r"should be the same|same d?type|same device|scalar type")  # as torch says that tensors do not fit


class OutOfMemory(MemoryError):
    """Memory ran out, and the message says what to lower."""


@contextmanager
def running_all(sd: StableDiffusion, advice: Callable[[], str]) -> Iterator[None]:
    """As `running`, for a model whose contexts the U-Net reads, and latents follow.

    ValueError where that fails as our own U-Net is in another place or precision; one that brings them to its own runs.
    """
    weight = next(sd.text_encoder.parameters())
    try:
        with running(weight, advice):
            yield
    except RuntimeError as error:
        other = next(sd.unet.parameters()) if isinstance(sd.unet, UNet) else weight
        is_alike = (other.device, other.dtype) == (weight.device, weight.dtype)
        if is_alike or type(error) is not RuntimeError or not _MIXED.search(str(error)):
            raise
        raise ValueError(
            f"The U-Net is {other.dtype} on {other.device}, the text encoder {weight.dtype} on {weight.device}; bring "
            "both to the same, as sd.unet.to(...) does, or load(..., device=..., dtype=...)."
        ) from error


@contextmanager
def running(weight: Tensor, advice: Callable[[], str]) -> Iterator[None]:
    """A context for networks of this weight's device and dtype: without gradients unless they are asked for, half
    precision at a usable speed, and `advice` as the error where memory runs out."""
    # Not in a caller's inference mode, where the gradients that methods follow could not exist.
    with torch.inference_mode(False), torch.no_grad(), usable_arithmetic(weight.device, weight.dtype):
        try:
            yield
        except Exception as error:
            if isinstance(error, OutOfMemory) or not is_exhausted(error):
                raise
            raise OutOfMemory(advice()) from error
