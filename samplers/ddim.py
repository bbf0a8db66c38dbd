"""DDIM (Song et al. 2021, "Denoising Diffusion Implicit Models")."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .sampler import Generators, Sampler, Step
from .schedule import STABLE_DIFFUSION_V1, NoiseSchedule


@dataclass(frozen=True)
class DDIM(Sampler):
    """`steps` steps, one model call each. eta = 0 is deterministic, eta = 1 adds as much noise as DDPM would."""

    eta: float = 0.0
    schedule: NoiseSchedule = STABLE_DIFFUSION_V1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM.eta is {self.eta!r}; expected a number from 0 (no noise) to 1 (as in DDPM).")

    def stepper(self, z: Tensor, generators: Generators) -> Step:
        """eta > 0 needs one CPU generator per sample."""
        if self.eta and (generators is None or len(generators) != len(z)):
            raise ValueError(
                f"DDIM with eta = {self.eta} got {0 if generators is None else len(generators)} generators for "
                f"{len(z)} samples; pass generators=[...], one CPU torch.Generator per sample, or use eta = 0."
            )
        following = self.following

        def step(z: Tensor, output: Tensor, t: int, i: int) -> Tensor:
            sigma = self._sigma(t, following[t])
            mean = self.schedule.step(z, output, t, following[t], sigma)
            if not self.eta or generators is None:
                return mean
            # Drawn in float32, so that every precision sees the same noise.
            noise = [torch.randn(z.shape[1:], generator=g, dtype=torch.float32, device="cpu") for g in generators]
            return mean + sigma * torch.stack(noise).to(mean)

        return step

    def _sigma(self, t: int, s: int) -> float:
        """Standard deviation of the noise added between timesteps t and s (Eqn 16)."""
        a_t, a_s = self.schedule.alpha(t), self.schedule.alpha(s)
        return self.eta * math.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))
