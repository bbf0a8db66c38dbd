"""The noise schedule of a diffusion model: how much noise a timestep holds, and the step from one to another."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias, overload

import torch
from torch import Tensor

from .betas import BETAS
from .values import plain_fields, plain_time, rounded_to

Time: TypeAlias = float | Tensor
"""A timestep for all samples, or a tensor [B] with one for each. A fractional one lies between two of the table, where
log sigma runs straight (as in k-diffusion); one below 0 is 0, as in Stable Diffusion's samplers."""

USUAL_ENDS = 0.00085, 0.012
PREDICTIONS = ("epsilon", "v")
SPACINGS = ("leading", "trailing")


def is_integer(value: object) -> bool:
    """Whether it is a whole number, of Python or of another library; true and false are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class NoiseSchedule:
    """A latent at timestep t (0 .. train_steps - 1) is z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise, where abar_t is
    the product of 1 - beta_s over s <= t.

    The defaults are those Stable Diffusion was trained with. Another model's is named,
    `NoiseSchedule(kind="linear", beta_start=0.0001, beta_end=0.02)`, or `NoiseSchedule.of` its table.

    Attributes:
        beta_start, beta_end: first and last beta of the linear kinds.
        kind: a name of `betas.BETAS`, or "table". Betas need it: the same ends are another schedule in another kind.
        table: abar_t of every timestep, if no name gives them.
        prediction: what the network's output means: "epsilon", the noise, or "v", sqrt(abar_t) noise -
            sqrt(1 - abar_t) z_0 (Salimans and Ho 2022).
    """

    train_steps: int = 1000
    beta_start: float = USUAL_ENDS[0]
    beta_end: float = USUAL_ENDS[1]
    kind: str = ""
    table: tuple[float, ...] = field(default=(), repr=False)
    prediction: str = "epsilon"

    @classmethod
    def of(cls, alphas_cumprod: Tensor | Iterable[float], prediction: str = "epsilon") -> NoiseSchedule:
        """The schedule of abar_t [train_steps], as checkpoints and diffusers' schedulers hold them.

        Those of Stable Diffusion, DDPM (linear, 0.0001 to 0.02) and cosine, up to the rounding of their dtype, or of a
        coarser one that holds them all, are the schedule of that name. Raises ValueError for values that do not fall
        from below 1 and stay above 0.
        """
        table = alphas_cumprod
        if not isinstance(table, Tensor):
            entries = map(float, table) if isinstance(table, Iterable) else ()
            table = torch.tensor(list(entries), dtype=torch.float64, device="cpu")
        if not table.is_floating_point() or table.ndim != 1 or not len(table) or table.is_meta:
            raise ValueError(
                f"alphas_cumprod has dtype {table.dtype}, shape {list(table.shape)}; expected numbers [train_steps]."
            )
        # A unit in the last place and not its half: a merge of two tables in half precision is rounded again. In eight
        # bits that unit is large beside what is left in the end, and each value has its own.
        values = table.detach().cpu().double()
        info = torch.finfo(rounded_to(values))
        near = (info.eps, info.tiny * info.eps) if info.bits == 8 else (0, max(info.eps, 1e-5))
        for usual in (cls(len(table)), cls(len(table), 0.0001, 0.02, "linear"), cls(len(table), kind="cosine")):
            if torch.allclose(values, usual.alphas_cumprod, rtol=near[0], atol=near[1]):
                return replace(usual, prediction=prediction)
        return cls(len(table), kind="table", table=tuple(values.tolist()), prediction=prediction)

    def __post_init__(self) -> None:
        plain_fields(self, "train_steps", "beta_start", "beta_end", "table")
        ends = self.beta_start, self.beta_end
        if not is_integer(self.train_steps) or self.train_steps < 1:
            raise ValueError(
                f"NoiseSchedule.train_steps is {self.train_steps!r}; expected a positive integer. Betas are given by "
                "name, with their kind: NoiseSchedule(kind='linear', beta_start=0.0001, beta_end=0.02)."
            )
        if not all(isinstance(end, float) for end in ends) or not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"NoiseSchedule betas run from {ends[0]!r} to {ends[1]!r}; expected 0 < beta_start <= beta_end < 1."
            )
        if not self.kind and ends == USUAL_ENDS and not self.table:
            object.__setattr__(self, "kind", "scaled_linear")
        if self.kind not in (*BETAS, "table"):
            raise ValueError(
                f"NoiseSchedule.kind is {self.kind!r}, betas run from {ends[0]!r} to {ends[1]!r}; expected the kind to "
                f"be one of {', '.join(BETAS)} (Stable Diffusion's is scaled_linear, DDPM's and DiT's linear), or "
                "NoiseSchedule.of(alphas_cumprod)."
            )
        if self.kind in ("cosine", "table") and ends != USUAL_ENDS:
            raise ValueError(
                f"NoiseSchedule of kind {self.kind!r} has no betas to choose, got {ends[0]!r}, {ends[1]!r}."
            )
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"NoiseSchedule.prediction is {self.prediction!r}; expected one of {', '.join(PREDICTIONS)}."
            )
        self._check_table()
        if self.kind != "table" and not self.alphas_cumprod[-1] > 0:
            raise ValueError(
                f"NoiseSchedule of {self.train_steps} betas from {ends[0]} to {ends[1]} leaves no signal at all; "
                "expected smaller ones, or fewer."
            )

    def _check_table(self) -> None:
        expected = self.train_steps if self.kind == "table" else 0
        if not isinstance(self.table, tuple) or not all(isinstance(value, float) for value in self.table):
            raise ValueError(
                f"NoiseSchedule.table is {str(self.table)[:80]!r}; expected numbers. NoiseSchedule.of(alphas_cumprod) "
                "fills it in."
            )
        if len(self.table) != expected:
            raise ValueError(
                f"NoiseSchedule.table has {len(self.table)} values; expected {expected} for kind {self.kind!r}. "
                "NoiseSchedule.of(alphas_cumprod) fills it in."
            )
        ahead = (*self.table[1:], 0.0)
        for t, (value, before, after) in enumerate(zip(self.table, (1.0, *self.table), ahead, strict=False)):
            if not before > value > after:
                raise ValueError(
                    f"alphas_cumprod[{t}] is {value!r} between {before!r} and {after!r}; expected values that fall "
                    "from below 1 and stay above 0 (where no signal is left, an estimate of the noise tells nothing)."
                )

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """abar_t for every t: [train_steps], float64, on the CPU."""
        with torch.inference_mode(False):  # kept for later calls, which may want gradients
            if self.table:
                return torch.tensor(self.table, dtype=torch.float64, device="cpu")
            betas = BETAS[self.kind](self.train_steps, self.beta_start, self.beta_end)
            return torch.cumprod(1 - betas, dim=0)

    @cached_property
    def _log_sigmas(self) -> Tensor:
        with torch.inference_mode(False):
            return ((1 - self.alphas_cumprod) / self.alphas_cumprod).log() / 2

    @overload
    def alpha(self, t: float) -> float: ...
    @overload
    def alpha(self, t: Tensor) -> Tensor: ...
    def alpha(self, t: Time) -> Time:
        """abar_t: of a tensor, a tensor of its shape, float64 on the CPU. ValueError for t above train_steps - 1."""
        top, t = self.train_steps - 1, plain_time(t)
        if not (bool((t <= top).all()) if isinstance(t, Tensor) else t <= top):
            raise ValueError(f"t is {t}; expected at most {top}, the last timestep of this schedule.")
        if is_integer(t):
            return float(self.alphas_cumprod[max(int(t), 0)])
        if not isinstance(t, Tensor):
            return float(self.alpha(torch.tensor(t, dtype=torch.float64, device="cpu")))
        t = t.cpu().clamp(min=0)
        if not t.is_floating_point():
            return self.alphas_cumprod[t]
        below = t.detach().long()
        above = (below + 1).clamp(max=top)
        return torch.lerp(self._log_sigmas[below], self._log_sigmas[above], t.double() - below).mul(-2).sigmoid()

    @overload
    def sigma(self, t: float) -> float: ...
    @overload
    def sigma(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Time) -> Time:
        """Noise over signal at t, sqrt((1 - abar_t) / abar_t): the sigma of Karras et al. 2022 and k-diffusion, whose
        latent is z_t / sqrt(abar_t). Of a tensor, a tensor on its device, at least float32."""
        t = plain_time(t)
        alpha = self.alpha(t)
        return _as_given(_sqrt((1 - alpha) / alpha), t)

    @overload
    def timestep(self, sigma: float) -> float: ...
    @overload
    def timestep(self, sigma: Tensor) -> Tensor: ...
    def timestep(self, sigma: Time) -> Time:
        """The t, usually fractional, whose `sigma` it is; 0 and train_steps - 1 for those beyond the schedule's ends.

        Raises ValueError for a sigma below 0.
        """
        sigma = plain_time(sigma)
        values = torch.as_tensor(sigma, dtype=torch.float64, device="cpu")
        if not (values >= 0).all():
            raise ValueError(f"sigma is {sigma}; expected 0 or more.")
        logs = values.log().clamp(self._log_sigmas[0], self._log_sigmas[-1])
        above = torch.searchsorted(self._log_sigmas, logs.detach()).clamp(1, max(self.train_steps - 1, 1))
        steps = self._log_sigmas.diff(append=self._log_sigmas[-1:] + 1)  # one timestep alone is 0 for every sigma
        t = above - 1 + (logs - self._log_sigmas[above - 1]) / steps[above - 1]
        return _as_given(t if isinstance(sigma, Tensor) else float(t), sigma)

    def stride(self, steps: int) -> int:
        """Distance between the timesteps of `steps` sampling steps; ValueError unless 1 <= steps <= train_steps."""
        if not is_integer(steps) or not 1 <= steps <= self.train_steps:
            raise ValueError(f"steps is {steps!r}; expected an integer from 1 to {self.train_steps}.")
        return self.train_steps // steps

    def timesteps(self, steps: int, spacing: str = "leading") -> tuple[int, ...]:
        """The `steps` timesteps to visit, noisiest first.

        "leading": multiples of the stride, plus one, as in Stable Diffusion v1; few steps begin well below the noisiest
        timestep (20 of 1000 at 951). With steps = train_steps the one would leave the schedule, so it is dropped.
        "trailing": from the noisiest timestep, 999, down, evenly (Lin et al. 2024, table 2).
        """
        stride = self.stride(steps)
        if spacing not in SPACINGS:
            raise ValueError(f"spacing is {spacing!r}; expected one of {', '.join(SPACINGS)}.")
        if spacing == "trailing":
            # As numpy.arange has the stride, so that ties between two timesteps fall as they do elsewhere.
            down = (self.train_steps - self.train_steps / steps) - self.train_steps
            return tuple(round(self.train_steps + i * down) - 1 for i in range(steps))
        offset = min(1, self.train_steps - 1 - (steps - 1) * stride)
        return tuple(offset + i * stride for i in reversed(range(steps)))

    def add_noise(self, x: Tensor, noise: Tensor, t: Time) -> Tensor:
        """sqrt(abar_t) x + sqrt(1 - abar_t) noise for x, noise [B, ...]."""
        alpha = self.alpha(t)
        return _over(_sqrt(alpha), x) * x + _over(_sqrt(1 - alpha), x) * noise

    def epsilon(self, z: Tensor, output: Tensor, t: Time) -> Tensor:
        """The noise that a network sees in z, from its output at t."""
        if self.prediction == "epsilon":
            return output
        alpha = self.alpha(t)
        return _over(_sqrt(alpha), z) * output + _over(_sqrt(1 - alpha), z) * z

    def clean(self, z: Tensor, output: Tensor, t: Time) -> Tensor:
        """The latent without noise that a network sees in z, from its output at t:
        (z - sqrt(1 - abar_t) epsilon) / sqrt(abar_t)."""
        alpha = self.alpha(t)
        if self.prediction == "v":
            return _over(_sqrt(alpha), z) * z - _over(_sqrt(1 - alpha), z) * output
        return (z - _over(_sqrt(1 - alpha), z) * output) / _over(_sqrt(alpha), z)

    def step(self, z: Tensor, output: Tensor, t: Time, s: Time, sigma: float = 0.0) -> Tensor:
        """Move z from timestep t to s by a network's output at t, or a mean of several: the mean of Eqn 12 of DDIM
        (Song et al. 2021); the caller adds sigma * noise.

        With sigma = 0 this is, rearranged, also the transfer part of PNDM (Liu et al. 2022).
        """
        a_t, a_s = self.alpha(t), self.alpha(s)
        direction = _sqrt(1 - a_s - sigma**2) - _sqrt(a_s * (1 - a_t) / a_t)
        return _over(_sqrt(a_s / a_t), z) * z + _over(direction, z) * self.epsilon(z, output, t)


def _sqrt(value: Time) -> Time:
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def _as_given(value: Time, given: Time) -> Time:
    if isinstance(value, Tensor) and isinstance(given, Tensor):
        return value.to(given.device, torch.promote_types(given.dtype, torch.float32))
    return value


def _over(factor: Time, z: Tensor) -> Time:
    """A factor for all of z [B, ...], or one for each sample with its dimensions added."""
    if not isinstance(factor, Tensor):
        return factor
    return factor.reshape(*factor.shape, *[1] * (z.ndim - factor.ndim)).to(z)


STABLE_DIFFUSION_V1 = NoiseSchedule()
