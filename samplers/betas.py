"""The betas of a noise schedule by name: how much noise each timestep adds to the one before."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _linspace(first: float, last: float, count: int) -> Tensor:
    return torch.linspace(first, last, count, dtype=torch.float64, device="cpu")


def scaled_linear(train_steps: int, beta_start: float, beta_end: float) -> Tensor:
    """Even steps between the square roots: latent diffusion and Stable Diffusion (there also called "linear")."""
    return _linspace(math.sqrt(beta_start), math.sqrt(beta_end), train_steps) ** 2


def linear(train_steps: int, beta_start: float, beta_end: float) -> Tensor:
    """Even steps between the betas: DDPM (Ho et al. 2020, 0.0001 to 0.02), guided diffusion, DiT and PixArt."""
    return _linspace(beta_start, beta_end, train_steps)


def cosine(train_steps: int) -> Tensor:
    """abar_t falls as a squared cosine (Nichol and Dhariwal 2021, Eqn 17), betas at most 0.999: diffusers'
    `squaredcos_cap_v2`."""
    curve = torch.cos((_linspace(0, 1, train_steps + 1) + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - curve[1:] / curve[:-1]).clamp(max=0.999)


BETAS: dict[str, Callable[[int, float, float], Tensor]] = {
    "scaled_linear": scaled_linear,
    "linear": linear,
    "cosine": lambda train_steps, beta_start, beta_end: cosine(train_steps),
}
"""(train_steps, beta_start, beta_end) -> betas [train_steps], float64 on the CPU."""
