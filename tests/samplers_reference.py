"""What tests of samplers share: latents, a noise estimate, and abar of Stable Diffusion in Python's numbers."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

SHAPE = (3, 4, 8, 8)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def toy(z: Tensor, t: int) -> Tensor:
    """A nonlinear noise estimate that depends on the timestep; elementwise, so that a batch cannot change a sample."""
    return torch.tanh(z * (0.4 + t / 900)) + 0.3 * torch.sin(3 * z + t / 100)


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + i) for i in range(n)]


@cache
def abar(t: int) -> float:
    product = 1.0
    for s in range(max(t, 0) + 1):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * s / 999
        product *= 1 - root * root
    return product
