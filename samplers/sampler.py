"""What every sampler does: call the noise estimator at each timestep and step the latent; a subclass says how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from .schedule import NoiseSchedule, is_integer
from .values import plain, plain_fields

SamplerType = TypeVar("SamplerType", bound="Sampler")

Denoise: TypeAlias = Callable[[Tensor, int], Tensor]
"""(z [B, ...], t) -> the network's output, of z's shape: the noise estimate, or what `schedule.prediction` says."""

BeforeStep: TypeAlias = Callable[[Tensor, int, int], Tensor]
"""(z, t, i) -> z: changes the latent just before model call i, which happens at timestep t."""

Progress: TypeAlias = Callable[[Sequence[int]], Iterable[int]]
"""Wraps the sequence of timesteps, as `tqdm.tqdm` does."""

Generators: TypeAlias = Iterable[torch.Generator] | None
"""One CPU generator per sample, so that noise depends neither on the batch nor on the device."""

Step: TypeAlias = Callable[[Tensor, Tensor, int, int], Tensor]
"""(z, output, t, i) -> z after model call i, in the precision of the output."""


@dataclass(frozen=True)
class Sampler(ABC):
    """Turns noise into a latent in `steps` steps along `schedule`, from one visited timestep to the next; the last step
    ends at abar_0, as in Stable Diffusion. `spacing` says which timesteps, see `NoiseSchedule.timesteps`, unless
    `custom_timesteps` do."""

    steps: int = 50
    spacing: str = field(default="leading", kw_only=True)
    custom_timesteps: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    @abstractmethod
    def schedule(self) -> NoiseSchedule:
        """The noise of each timestep; a field of the subclass."""

    @classmethod
    def at(cls: type[SamplerType], timesteps: Iterable[int] | Tensor, **options: Any) -> SamplerType:
        """The sampler that visits these timesteps, noisiest first, instead of evenly spaced ones."""
        visited = plain(timesteps)
        return cls(steps=len(visited) if isinstance(visited, tuple) else 0, custom_timesteps=visited, **options)

    def starting_at(self: SamplerType, t: int) -> SamplerType:
        """The rest of this sampler's way from timestep t on: of the timesteps that it visits, those up to t.

        Start from `schedule.add_noise(latent, noise, rest.timesteps[0])` to change a picture, or from the latent of
        another run at that timestep. Raises ValueError if no timestep is left.
        """
        _check_number("t", t := plain(t))
        rest = tuple(visited for visited in self.visited if visited <= t)
        if not rest:
            raise ValueError(f"Nothing is left to sample from timestep {t}; the last one is {self.visited[-1]}.")
        return replace(self, steps=len(rest), custom_timesteps=rest)

    def last(self: SamplerType, share: float) -> SamplerType:
        """The last part of this sampler's way, `share` of its steps (above 0, at most 1; rounded): how far a picture
        is noised and sampled anew. Raises ValueError if that is no step."""
        _check_number("share", share := plain(share))
        count = round(share * self.steps) if 0 < share <= 1 else 0
        if not count:
            raise ValueError(
                f"The last {share!r} of {self.steps} steps are none; expected a share from {1 / self.steps:.2g} to 1."
            )
        return self if count == self.steps else self.starting_at(self.visited[-count])

    def predicting(self: SamplerType, prediction: str) -> SamplerType:
        """The same sampler for a network whose output means this, see `NoiseSchedule.prediction`."""
        if prediction == self.schedule.prediction:
            return self
        changed: dict[str, Any] = {"schedule": replace(self.schedule, prediction=prediction)}
        return replace(self, **changed)

    def __post_init__(self) -> None:
        plain_fields(self, "steps", "custom_timesteps")
        if not isinstance(self.custom_timesteps, tuple):
            raise ValueError(f"custom_timesteps is {self.custom_timesteps!r}; expected a list, as (900, 500, 100).")
        if not hasattr(self.schedule, "alpha"):
            raise ValueError(f"schedule is {self.schedule!r}; expected a NoiseSchedule, as NoiseSchedule().")
        if self.custom_timesteps:
            self._check_timesteps()
        else:
            self.schedule.timesteps(self.steps, self.spacing)

    def _check_timesteps(self) -> None:
        if len(self.custom_timesteps) != self.steps:
            raise ValueError(
                f"custom_timesteps has {len(self.custom_timesteps)} timesteps for steps = {self.steps!r}; "
                f"{type(self).__name__}.at(timesteps) counts them."
            )
        for before, t in pairwise((self.schedule.train_steps, *self.custom_timesteps)):
            if not is_integer(t) or not 0 <= t < before:
                raise ValueError(
                    f"custom_timesteps holds {t!r}; expected integers that fall, from at most "
                    f"{self.schedule.train_steps - 1} to at least 0 (`NoiseSchedule.step` takes fractional ones)."
                )
        object.__setattr__(self, "custom_timesteps", tuple(map(int, self.custom_timesteps)))

    @property
    def visited(self) -> tuple[int, ...]:
        """The `steps` timesteps from which steps start, noisiest first."""
        return self.custom_timesteps or self.schedule.timesteps(self.steps, self.spacing)

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timestep of each model call, noisiest first."""
        return self.visited

    @property
    def following(self) -> dict[int, int]:
        """Where the step from each visited timestep ends; the last one at -1, which stands for abar_0."""
        return dict(pairwise((*self.visited, -1)))

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
        check_latents("z", z)
        step, calls = self.stepper(z, generators), self.timesteps
        for i, t in enumerate(progress(calls) if progress else calls):
            if before_step is not None:
                wanted = "latents (a guide's are `guide(z, t, i).latents`)"
                changed = _checked("before_step", before_step(z, t, i), z, t, wanted)
                check_latents("What before_step returned", changed)
                z = changed.to(z.dtype)
            z = step(*evaluated(denoise, z, t), t, i).to(z.dtype)
        return z


def check_latents(name: str, z: Any) -> None:
    """Raise ValueError unless z is a tensor of floating point: in whole numbers, nothing is left of a step."""
    if not isinstance(z, Tensor) or not z.is_floating_point():
        kind = z.dtype if isinstance(z, Tensor) else f"a {type(z).__name__}"
        raise ValueError(f"{name} is {kind}; expected floating point, as z.float().")


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}; expected a number.")


def evaluated(denoise: Denoise, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """z and the network's output for it, both in the precision of a step: float32, or float64 for float64."""
    output = _checked("denoise", denoise(z, t), z, t, "one noise estimate per latent")
    working = torch.float64 if z.dtype == torch.float64 else torch.float32
    return z.to(working), output.to(working)


def _checked(name: str, given: Any, z: Tensor, t: int, wanted: str) -> Tensor:
    """What a callback returned; ValueError unless it is a tensor of z's shape."""
    if not isinstance(given, Tensor) or given.shape != z.shape:
        got = list(given.shape) if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise ValueError(f"{name} returned {got} at timestep {t}; expected {wanted}, {list(z.shape)}.")
    return given
