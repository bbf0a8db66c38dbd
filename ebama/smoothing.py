"""The peak of a Gaussian-smoothed map, value and gradient, without convolving in the backward pass.

Smoothing with reflect padding is linear and separable: smoothed = S_h map S_w^T with two fixed matrices that hold the
kernel, folded back at the borders. The maximum of the smoothed map is therefore one inner product <F, map>, where the
filter F is the outer product of one row of S_h and one of S_w. F is also the gradient: it is non-zero on the
kernel_size x kernel_size pixels around the peak and nowhere else.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# Filters of all pixels are kept as one table up to this many numbers (maps of 32 x 32: 4 MB in float32).
TABLE_LIMIT = 1 << 20


def gaussian_peak(maps: Tensor, kernel_size: int = 3, sigma: float = 0.5**0.5) -> Tensor:
    """Maximum over the pixels of maps [..., h, w] smoothed with a Gaussian, one value a map: [...].

    The kernel is separable with weights exp(-x^2 / (2 sigma^2)) at pixel offsets x, normalised to sum 1: the default
    sigma gives [0.2119, 0.5761, 0.2119] (Attend-and-Excite's formula writes it as 0.5). Borders are reflected.

    All maps are smoothed by two matrix products. Differentiable any number of times; where pixels tie, the gradient
    goes to the first in row-major order. A map that holds NaN or an infinity gives NaN. float16 and bfloat16 are
    computed in float32, under autocast too.

    Raises:
        TypeError: maps are not floating point.
        ValueError: kernel_size is not a positive odd integer, sigma is not a positive number, or a side of the maps
            is not longer than kernel_size // 2, which reflection needs.
    """
    _validate(maps, kernel_size, sigma)
    h, w = maps.shape[-2:]
    flat = maps.reshape(-1, h * w).to(torch.promote_types(maps.dtype, torch.float32))
    vertical, horizontal = smoothing_matrices(h, w, kernel_size, sigma, flat.dtype, flat.device)
    if torch.is_autocast_enabled(maps.device.type):
        with torch.autocast(maps.device.type, enabled=False):
            return _peak(flat, ...)
    return ...
