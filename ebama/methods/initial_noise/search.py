"""The search for initial noise: mean and log variance of a sample's noise move down an energy, in several rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor

MOST_DIVERGENCE = 1e-3
EPS = 1e-3  # of Adam


class Verdict(NamedTuple):
    """Of some samples: whether they have succeeded (booleans), their score, and the gradient of what they lower by
    their latent [n, ...]."""

    succeeded: list[bool]
    scores: list[float]
    gradients: Tensor


Judge = Callable[[Tensor, list[int]], Verdict]
"""(z [n, ...], samples [n]) -> what is to be said of those samples of the batch."""


class Candidate:
    """A noise z0 [C, h, w] whose mean and log variance move: z = exp(logvar / 2) z0 + mu."""

    def __init__(self, noise: Tensor, learning_rate: float) -> None:
        with torch.inference_mode(False):
            self.noise = noise.clone()
            self._mean, self._log_variance = torch.zeros_like(self.noise), torch.zeros_like(self.noise)
            self._adam = torch.optim.Adam([self._log_variance, self._mean], lr=learning_rate, eps=EPS)

    @property
    def latent(self) -> Tensor:
        """z [C, h, w]."""
        return torch.exp(self._log_variance / 2) * self.noise + self._mean

    def step(self, gradient: Tensor) -> None:
        """One step of Adam down a gradient by z; then as many down the divergence from N(0, 1), with the same moments,
        as bring it to 0.001."""
        with torch.inference_mode(False):
            self._move(gradient * self.noise * torch.exp(self._log_variance / 2) / 2, gradient.clone())
            count = self.noise.numel()
            while self._divergence() > MOST_DIVERGENCE:
                self._move((self._log_variance.exp() - 1) / (2 * count), self._mean / count)

    def _move(self, log_variance: Tensor, mean: Tensor) -> None:
        self._log_variance.grad, self._mean.grad = log_variance, mean
        self._adam.step()

    def _divergence(self) -> float:
        log_variance, mean = self._log_variance, self._mean
        return float(-(1 + log_variance - mean**2 - log_variance.exp()).mean() / 2)


class Outcome(NamedTuple):
    """How a sample's round ended: its score, whether it succeeded, its latent, and the noise that it started from."""

    score: float
    succeeded: bool
    latent: Tensor
    noise: Tensor


@dataclass(frozen=True)
class NoiseSearch:
    """Rounds of steps from fresh noise; the best latent of the rounds, or, if that has not succeeded, what further
    steps from its noise make of it."""

    max_rounds: int
    iterations: int
    final_iterations: int
    learning_rate: float

    def run(self, judge: Judge, z: Tensor, samples: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """The latents [B, ...] to start from; only `samples` move. Those that have succeeded cost nothing more.

        `generators` are the samples', on the CPU: fresh noise comes from them.
        """
        outcomes: dict[int, list[Outcome]] = {sample: [] for sample in samples}
        noises = {sample: z[sample] for sample in samples}
        for _ in range(self.max_rounds):
            for sample, outcome in self._round(judge, noises, self.iterations).items():
                outcomes[sample].append(outcome)
                if outcome.succeeded:
                    del noises[sample]
                else:  # drawn after the last round as well, as published
                    fresh = torch.randn(z.shape[1:], generator=generators[sample], dtype=torch.float32, device="cpu")
                    noises[sample] = fresh.to(z)
        best = {sample: min(rounds, key=lambda o: o.score) for sample, rounds in outcomes.items() if rounds}
        missed = {sample: outcome.noise for sample, outcome in best.items() if not outcome.succeeded}
        if self.final_iterations:
            best |= self._round(judge, missed, self.final_iterations)
        z = z.clone()
        for sample, outcome in best.items():
            z[sample] = outcome.latent
        return z

    def _round(self, judge: Judge, noises: dict[int, Tensor], iterations: int) -> dict[int, Outcome]:
        """At most that many steps of each sample's noise; a sample that succeeds stops before its step."""
        candidates = {sample: Candidate(noise, self.learning_rate) for sample, noise in noises.items()}
        ended: dict[int, Outcome] = {}
        for _ in range(iterations):
            moving = [sample for sample in candidates if sample not in ended or not ended[sample].succeeded]
            if not moving:
                break
            verdict = judge(torch.stack([candidates[sample].latent for sample in moving]), moving)
            for sample, succeeded, score, gradient in zip(moving, *verdict, strict=True):
                candidate = candidates[sample]
                if not succeeded:
                    candidate.step(gradient)
                ended[sample] = Outcome(score, succeeded, candidate.latent, candidate.noise)
        return ended


def generators_of(noise: Tensor) -> list[torch.Generator]:
    """A generator for each sample of noise [B, ...], seeded by its values: for runs that come without any."""
    return [torch.Generator("cpu").manual_seed(crc32(repr(z.flatten().tolist()).encode())) for z in noise.float()]
