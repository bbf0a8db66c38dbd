"""The noise schedule of Stable Diffusion: how much noise a timestep holds, and the step from one to another."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class NoiseSchedule:
    """Scaled-linear betas: beta_t = linspace(sqrt(beta_start), sqrt(beta_end), train_steps)_t squared.

    The defaults are those Stable Diffusion v1 was trained with. A latent at timestep t (0 .. train_steps - 1) is
    z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise, where abar_t is the product of 1 - beta_s over s <= t.
    """

    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def __post_init__(self) -> None:
        if not _is_int(self.train_steps) or self.train_steps < 1:
            raise ValueError(f"NoiseSchedule.train_steps is {self.train_steps!r}; expected a positive integer.")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"NoiseSchedule betas run from {self.beta_start!r} to {self.beta_end!r}; "
                "expected 0 < beta_start <= beta_end < 1."
            )

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """abar_t for every t: [train_steps], float64, on the CPU."""
        with torch.inference_mode(False):  # kept for later calls, which may want gradients
            ends = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
            betas = torch.linspace(*ends, self.train_steps, dtype=torch.float64, device="cpu") ** 2
            return torch.cumprod(1 - betas, dim=0)

    def alpha(self, t: int) -> float:
        """abar_t; a step past the last timestep (t < 0) ends at abar_0, as Stable Diffusion's samplers do."""
        return float(self.alphas_cumprod[max(t, 0)])

    def stride(self, steps: int) -> int:
        """Distance between the timesteps of `steps` sampling steps; ValueError unless 1 <= steps <= train_steps."""
        if not _is_int(steps) or not 1 <= steps <= self.train_steps:
            raise ValueError(f"steps is {steps!r}; expected an integer from 1 to {self.train_steps}.")
        return self.train_steps // steps

    def timesteps(self, steps: int) -> tuple[int, ...]:
        """The `steps` timesteps to visit, noisiest first: multiples of the stride, plus one ("leading", offset 1).

        With steps = train_steps the offset would leave the schedule, so it is dropped: every timestep, down to 0.
        """
        stride = self.stride(steps)
        offset = min(1, self.train_steps - 1 - (steps - 1) * stride)
        return tuple(offset + i * stride for i in reversed(range(steps)))

    def add_noise(self, x: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """sqrt(abar_t) x + sqrt(1 - abar_t) noise for x, noise [B, ...] and t an int or [B] integers; see `alpha`."""
        index = torch.as_tensor(t, device="cpu").clamp(min=0)
        alpha = self.alphas_cumprod[index].reshape(index.shape + (1,) * (x.ndim - 1 if index.ndim else 0))
        return alpha.sqrt().to(x) * x + (1 - alpha).sqrt().to(x) * noise

    def clean(self, z: Tensor, epsilon: Tensor, t: int) -> Tensor:
        """The latent without noise that epsilon predicts: (z - sqrt(1 - abar_t) epsilon) / sqrt(abar_t)."""
        alpha = self.alpha(t)
        return (z - math.sqrt(1 - alpha) * epsilon) / math.sqrt(alpha)

    def step(self, z: Tensor, epsilon: Tensor, t: int, s: int, sigma: float = 0.0) -> Tensor:
        """Move z from timestep t to s: the mean of Eqn 12 of DDIM (Song et al. 2021); the caller adds sigma * noise.

        With sigma = 0 this is, rearranged, also the transfer part of PNDM (Liu et al. 2022).
        """
        a_t, a_s = self.alpha(t), self.alpha(s)
        direction = math.sqrt(1 - a_s - sigma**2) - math.sqrt(a_s * (1 - a_t) / a_t)
        return math.sqrt(a_s / a_t) * z + direction * epsilon


STABLE_DIFFUSION_V1 = NoiseSchedule()
