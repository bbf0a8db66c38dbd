"""What tests of samplers share: latents, a noise estimate, abar of Stable Diffusion in Python's numbers, PNDM and DDIM
in plain loops over it; no tables shared with the code under test."""

from __future__ import annotations

import math
from functools import cache

import torch
from reference import normal
from torch import Tensor

SHAPE = (3, 4, 8, 8)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed)


def toy(z: Tensor, t: int) -> Tensor:
    """A nonlinear noise estimate that depends on the timestep; elementwise, so that a batch cannot change a sample."""
    return torch.tanh(z * (0.4 + t / 900)) + 0.3 * torch.sin(3 * z + t / 100)


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + i) for i in range(n)]


@cache
def abar(t: int) -> float:
    product = 1.0
    for s in range(max(t, 0) + 1):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * s / 999
        product *= 1 - root * root
    return product


def derived(z: Tensor, timesteps: list[int], order: int = 4, *, pndm: bool = True) -> Tensor:
    """PNDM, or DDIM, in plain loops from timestep to timestep; the last step ends at abar_0."""
    weights = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]

    def transfer(x: Tensor, e: Tensor, t: int, s: int) -> Tensor:
        clean = (x - math.sqrt(1 - abar(t)) * e) / math.sqrt(abar(t))
        return math.sqrt(abar(s)) * clean + math.sqrt(1 - abar(s)) * e

    z, past = z.double(), []
    for n, t in enumerate(timesteps):
        s = timesteps[n + 1] if n + 1 < len(timesteps) else 0
        past.insert(0, toy(z, t))
        e = past[0]
        if pndm and n == 0 and len(timesteps) > 1:
            e = (past[0] + toy(transfer(z, past[0], t, s), s)) / 2
        elif pndm:
            e = sum((w * p for w, p in zip(weights[min(n, order - 1)], past, strict=False)), torch.zeros(()))
        z = transfer(z, e, t, s)
    return z
