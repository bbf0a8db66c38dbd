"""DDIM (Song et al. 2021, "Denoising Diffusion Implicit Models")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import STABLE_DIFFUSION_V1, BeforeStep, Denoise, NoiseSchedule, Progress, call, working


@dataclass(frozen=True)
class DDIM:
    """`steps` steps, one model call each. eta = 0 is deterministic, eta = 1 adds as much noise as DDPM would."""

    steps: int = 50
    eta: float = 0.0
    schedule: NoiseSchedule = STABLE_DIFFUSION_V1

    def __post_init__(self) -> None:
        self.schedule.stride(self.steps)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM.eta is {self.eta!r}; expected a number from 0 (no noise) to 1 (as in DDPM).")

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timestep of each model call, noisiest first."""
        return self.schedule.timesteps(self.steps)

    def sample(
        self,
        denoise: Denoise,
        z: Tensor,
        *,
        before_step: BeforeStep | None = None,
        progress: Progress | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Denoise z [B, ...], drawn from N(0, 1), down to a clean latent of the same shape and dtype.

        Both callbacks see z in its own dtype; each step is computed in float32 (float64 for float64) and rounded
        back. eta > 0 needs one CPU generator per sample, so that noise depends neither on the batch nor on the device.
        """
        if self.eta and (generators is None or len(generators) != len(z)):
            raise ValueError(
                f"DDIM with eta = {self.eta} got {0 if generators is None else len(generators)} generators for "
                f"{len(z)} samples; pass generators=[...], one CPU torch.Generator per sample, or use eta = 0."
            )
        stride = self.schedule.stride(self.steps)
        calls = self.timesteps
        for i, t in enumerate(progress(calls) if progress else calls):
            if before_step is not None:
                z = before_step(z, t, i)
            epsilon = call(denoise, z, t)
            sigma = self._sigma(t, t - stride)
            mean = self.schedule.step(working(z, z.dtype), epsilon, t, t - stride, sigma)
            if self.eta and generators is not None:
                mean = mean + sigma * _noise(mean, generators)
            z = mean.to(z.dtype)
        return z

    def _sigma(self, t: int, s: int) -> float:
        """Standard deviation of the noise added between timesteps t and s (Eqn 16)."""
        a_t, a_s = self.schedule.alpha(t), self.schedule.alpha(s)
        return self.eta * math.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))


def _noise(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """[B, ...] standard normal noise, each sample from its own generator; the same draws for every precision."""
    drawn = [torch.randn(like.shape[1:], generator=g, dtype=torch.float32, device="cpu") for g in generators]
    return torch.stack(drawn).to(like)
