"""What every sampler does: call the noise estimator at each timestep and step the latent; a subclass says how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .schedule import NoiseSchedule

Denoise: TypeAlias = Callable[[Tensor, int], Tensor]
"""(z [B, ...], t) -> the noise estimate epsilon, of z's shape."""

BeforeStep: TypeAlias = Callable[[Tensor, int, int], Tensor]
"""(z, t, i) -> z: changes the latent just before model call i, which happens at timestep t."""

Progress: TypeAlias = Callable[[Sequence[int]], Iterable[int]]
"""Wraps the sequence of timesteps, as `tqdm.tqdm` does."""

Generators: TypeAlias = Sequence[torch.Generator] | None
"""One CPU generator per sample, so that noise depends neither on the batch nor on the device."""

Step: TypeAlias = Callable[[Tensor, Tensor, int, int], Tensor]
"""(z, epsilon, t, i) -> z after model call i, in the precision of epsilon."""


class Sampler(ABC):
    """Turns noise into a latent in `steps` steps along `schedule`."""

    steps: int
    schedule: NoiseSchedule

    def __post_init__(self) -> None:
        self.schedule.stride(self.steps)
        object.__setattr__(self, "steps", int(self.steps))  # JSON cannot hold another library's number

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timestep of each model call, noisiest first."""
        return self.schedule.timesteps(self.steps)

    @abstractmethod
    def stepper(self, z: Tensor, generators: Generators) -> Step:
        """The steps of one run from z; ValueError for generators that do not fit."""

    def sample(
        self,
        denoise: Denoise,
        z: Tensor,
        *,
        before_step: BeforeStep | None = None,
        progress: Progress | None = None,
        generators: Generators = None,
    ) -> Tensor:
        """Denoise z [B, ...], drawn from N(0, 1), down to a clean latent of the same shape and dtype.

        Both callbacks see z in its own dtype; each step is computed in float32 (float64 for float64) and rounded back.
        A sampler that adds no noise ignores `generators`.
        """
        step, calls = self.stepper(z, generators), self.timesteps
        for i, t in enumerate(progress(calls) if progress else calls):
            if before_step is not None:
                z = before_step(z, t, i)
            epsilon = denoise(z, t)
            if epsilon.shape != z.shape:
                raise ValueError(
                    f"denoise returned {list(epsilon.shape)} at timestep {t}; "
                    f"expected one noise estimate per latent, {list(z.shape)}."
                )
            working = torch.float64 if z.dtype == torch.float64 else torch.float32
            z = step(z.to(working), epsilon.to(working), t, i).to(z.dtype)
        return z
