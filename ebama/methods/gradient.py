"""The one place where an energy over attention maps becomes a step of the latent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebama.models import AttentionRecords

from .base import Guide, Task

Energy = Callable[[AttentionRecords], Tensor]
"""Attention records of the prompt's branch -> losses [B], each a function of its own sample only."""

BASE_RESOLUTION = 16


def guidance_resolution(task: Task, z: Tensor) -> tuple[int, int]:
    """Side lengths of the maps that guide: 16x16 at the model's own size, scaled with the latent."""
    height, width = (BASE_RESOLUTION * side // task.config.sample_size for side in z.shape[-2:])
    return height, width


def gradient_guide(task: Task, energy: Energy, step_size: float, guided_steps: int | None) -> Guide:
    """z <- z - step_size * dL/dz before each of the first `guided_steps` model calls (None: all of them).

    The maps come from the prompt's branch alone, and the network runs only as far as they need. The gradient is plain:
    no normalisation, no clipping, no momentum.
    """

    def guide(z: Tensor, t: int, i: int) -> tuple[Tensor, Tensor | None]:
        if guided_steps is not None and i >= guided_steps:
            return z, None
        with torch.enable_grad():
            moving = z.detach().requires_grad_(True)
            records = task.unet.attention(
                moving.to(task.text.dtype), t, task.text, resolution=guidance_resolution(task, z)
            )
            losses = energy(records)
            if not losses.requires_grad:  # no sample has anything to gain
                return z, losses
            (gradient,) = torch.autograd.grad(losses.sum(), moving)
        return z - step_size * gradient, losses.detach()

    return guide
