"""DDIM (Song et al. 2021, "Denoising Diffusion Implicit Models")."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .sampler import Denoise, Generators, Progress, Sampler, Step, check_latents, evaluated
from .schedule import STABLE_DIFFUSION_V1, NoiseSchedule, is_integer
from .values import plain, plain_fields


@dataclass(frozen=True)
class DDIM(Sampler):
    """`steps` steps, one model call each. eta = 0 is deterministic, eta = 1 adds as much noise as DDPM would."""

    eta: float = 0.0
    schedule: NoiseSchedule = STABLE_DIFFUSION_V1

    def __post_init__(self) -> None:
        super().__post_init__()
        plain_fields(self, "eta")
        if not isinstance(self.eta, int | float) or not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM.eta is {self.eta!r}; expected a number from 0 (no noise) to 1 (as in DDPM).")

    def stepper(self, z: Tensor, generators: Generators) -> Step:
        """eta > 0 needs one CPU generator per sample."""
        listed = list(generators) if isinstance(generators, Iterable) and self.eta else []
        if self.eta and (len(listed) != len(z) or not all(isinstance(one, torch.Generator) for one in listed)):
            raise ValueError(
                f"DDIM with eta = {self.eta} got {len(listed)} generators for {len(z)} samples; pass generators=[...], "
                "a list of one CPU torch.Generator per sample, or use eta = 0."
            )
        following = self.following

        def step(z: Tensor, output: Tensor, t: int, i: int) -> Tensor:
            sigma = self._sigma(t, following[t])
            mean = self.schedule.step(z, output, t, following[t], sigma)
            if not self.eta:
                return mean
            # Drawn in float32, so that every precision sees the same noise.
            noise = [torch.randn(z.shape[1:], generator=g, dtype=torch.float32, device="cpu") for g in listed]
            return mean + sigma * torch.stack(noise).to(mean)

        return step

    def invert(self, denoise: Denoise, z: Tensor, *, rounds: int = 1, progress: Progress | None = None) -> list[Tensor]:
        """The way back from a clean latent z [B, ...] to noise: the latent before each model call from which `sample`
        would come to z, then z itself; steps + 1 of them, the noisiest first.

        A step is undone with the noise that the network sees at its noisier end (Dhariwal and Nichol 2021, "DDIM
        inversion"). That end is what is looked for, so the first round asks at the other end, as published, and each
        further round at the end that the round before it gave: a fixed-point iteration, `rounds` calls for each step.

        Raises ValueError unless eta is 0.
        """
        if self.eta:
            raise ValueError(f"DDIM.eta is {self.eta}; only eta = 0 can be inverted, since it adds no noise.")
        check_latents("z", z)
        if not is_integer(rounds := plain(rounds)) or rounds < 1:
            raise ValueError(f"rounds is {rounds!r}; expected a whole number of at least 1.")
        following, path = self.following, [z]
        noises = replace(self.schedule, prediction="epsilon")
        calls = self.visited[::-1]
        for t in progress(calls) if progress else calls:
            before = after = path[-1]
            for _ in range(rounds):
                noisy, output = evaluated(denoise, before, t)
                noise = self.schedule.epsilon(noisy, output, t)
                before = noises.step(after.to(noise), noise, following[t], t).to(z.dtype)
            path.append(before)
        return path[::-1]

    def _sigma(self, t: int, s: int) -> float:
        """Standard deviation of the noise added between timesteps t and s (Eqn 16)."""
        a_t, a_s = self.schedule.alpha(t), self.schedule.alpha(s)
        return self.eta * math.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))
