"""PNDM without the Runge-Kutta warm-up, also known as PLMS (Liu et al. 2022): the sampler of Stable Diffusion v1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .sampler import Generators, Sampler, Step
from .schedule import STABLE_DIFFUSION_V1, NoiseSchedule, is_integer
from .values import plain_fields

# Adams-Bashforth weights of the network's outputs, newest first, by how many there are.
WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@dataclass(frozen=True)
class PNDM(Sampler):
    """`steps` steps and one model call more: the first step is made twice, the second time with a better estimate
    (a single step is made once). `order` is how many estimates a step mixes at most: 4 as published; fewer hold out
    longer strides."""

    schedule: NoiseSchedule = STABLE_DIFFUSION_V1
    order: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        plain_fields(self, "order")
        if not is_integer(self.order) or self.order not in WEIGHTS:
            raise ValueError(f"PNDM.order is {self.order!r}; expected an integer from 1 to {max(WEIGHTS)}.")

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timestep of each model call, noisiest first; the second appears twice (981, 961, 961, 941, ...)."""
        return self.visited[:2] + self.visited[1:]

    def stepper(self, z: Tensor, generators: Generators) -> Step:
        """Call 1 looks ahead: it evaluates the model at the end of the first step, and the step is then made again from
        the latent of call 0 with the mean of the two estimates. What `before_step` does at i = 1 therefore reaches the
        result through that estimate only; as a latent it is discarded.
        """
        following, (first, *_) = self.following, self.visited
        start = z
        estimates: list[Tensor] = []  # newest first

        def step(z: Tensor, output: Tensor, t: int, i: int) -> Tensor:
            nonlocal start, estimates
            if i == 1:
                z, t = start, first
                direction = (estimates[0] + output) / 2
            else:
                start = z
                estimates = [output, *estimates[: self.order - 1]]
                weights = WEIGHTS[len(estimates)]
                direction = torch.stack([w * e for w, e in zip(weights, estimates, strict=True)]).sum(0)
            return self.schedule.step(z, direction, t, following[t])

        return step
