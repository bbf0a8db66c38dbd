"""Compiled kernels and their loaders. They only make things faster: each has an equivalent in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import native, nvrtc

PeakKernel = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(maps [n, h, w], V [h, h], H [w, w], reach) -> pixels [n], as peak.c and peak.cu say."""


def peak_kernel(dtype: torch.dtype, device: torch.device) -> PeakKernel | None:
    """The compiled kernel for maps of this type on this device; None where it cannot be had, for any reason."""
    real = {torch.float32: "float", torch.float64: "double"}.get(dtype)
    if real is not None and device.type == "cpu":
        return native.peak_kernel(real)
    if real is not None and device.type == "cuda":
        return nvrtc.peak_kernel(real, device)
    return None
