"""PNDM without the Runge-Kutta warm-up, also known as PLMS (Liu et al. 2022): the sampler of Stable Diffusion v1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import STABLE_DIFFUSION_V1, BeforeStep, Denoise, NoiseSchedule, Progress, call, working

# Adams-Bashforth weights of the noise estimates, newest first, by how many there are.
WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@dataclass(frozen=True)
class PNDM:
    """`steps` steps and one model call more: the first step is made twice, the second time with a better estimate
    (a single step is made once)."""

    steps: int = 50
    schedule: NoiseSchedule = STABLE_DIFFUSION_V1

    def __post_init__(self) -> None:
        self.schedule.stride(self.steps)

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timestep of each model call, noisiest first; the second appears twice (981, 961, 961, 941, ...)."""
        visited = self.schedule.timesteps(self.steps)
        return visited[:2] + visited[1:]

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

        Both callbacks see z in its own dtype; each step is computed in float32 (float64 for float64) and rounded back.

        Call 1 looks ahead: it evaluates the model at the end of the first step, and the step is then made again from
        the latent of call 0 with the mean of the two estimates. What `before_step` does at i = 1 therefore reaches the
        result through that estimate only; as a latent it is discarded.

        `generators` makes samplers interchangeable: PNDM adds no noise and draws nothing from them.
        """
        stride = self.schedule.stride(self.steps)
        calls = self.timesteps
        start = z
        estimates: list[Tensor] = []  # newest first
        for i, t in enumerate(progress(calls) if progress else calls):
            if before_step is not None:
                z = before_step(z, t, i)
            epsilon = call(denoise, z, t)
            if i == 1:
                z, t = start, calls[0]
                direction = (estimates[0] + epsilon) / 2
            else:
                start = z
                estimates = [epsilon, *estimates[:3]]
                weights = WEIGHTS[len(estimates)]
                direction = torch.stack([w * e for w, e in zip(weights, estimates, strict=True)]).sum(0)
            z = self.schedule.step(working(z, z.dtype), direction, t, t - stride).to(z.dtype)
        return z
