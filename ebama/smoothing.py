"""The peak of a Gaussian-smoothed map, differentiable, with a kernel for what is costly: finding its place.

Smoothing with reflect padding is linear and separable: smoothed = V map H^T, where V [h, h] and H [w, w] hold the
kernel, folded back at the borders. So the maximum is <filter, map> with filter = (row of V) x (row of H) at the peak.
The operator `ebama::peak` finds the pixel and hands out the two rows. The product with the map is plain torch, which
differentiates, batches and compiles it like anything else.

The operator runs peak.c on the CPU where there is a C compiler, peak.cu on GPUs of NVIDIA, and plain torch elsewhere or
with EBAMA_NATIVE=0 (see `ebama/kernels`). `python -m ebama.bench.smoothing` measures it.
"""

from __future__ import annotations

import math
import sys
import warnings
from functools import cache, lru_cache
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import kernels

_SHARPEST = 1e-3  # of sigmas: sharper ones have the same kernel, all of it in the middle
HALF = (torch.float16, torch.bfloat16)
NAMESPACE = (__package__ or "ebama").replace(".", "_")
"""Of the operator: the package that holds this file, so that a copy in another one has its own."""
OPERATORS = getattr(torch.ops, NAMESPACE)


class Matrices(NamedTuple):
    """V [h, h] and H [w, w], which smooth maps, and V with one more row, of NaN, for maps that are not finite."""

    vertical: Tensor
    horizontal: Tensor
    vertical_or_nan: Tensor


def gaussian_peak(maps: Tensor, kernel_size: int = 3, sigma: float = 0.5**0.5) -> Tensor:
    """Maximum over the pixels of maps [..., h, w] after Gaussian smoothing, one value a map: [...].

    The kernel has weights exp(-x^2 / (2 sigma^2)) at pixel offset x along each axis, normalised to sum 1; the default
    gives [0.2119, 0.5761, 0.2119], which Attend-and-Excite calls sigma = 0.5. Padding is reflecting.

    All maps go through the same few operations together. Of pixels that tie, the first in row-major order takes the
    gradient. A map with a NaN or an infinity in it gives NaN. float16 and bfloat16 are computed in float32, also
    under autocast.

    Raises:
        TypeError: if maps are no tensor of real floating point.
        ValueError: if kernel_size is not a positive odd integer, sigma not a positive number, or the maps too small
            to be reflected (each side must exceed kernel_size // 2).
    """
    kernel_size, sigma = _check(maps, kernel_size, sigma)
    if maps.dtype in HALF:
        return gaussian_peak(maps.float(), kernel_size, sigma).to(maps.dtype)
    planes = maps.reshape(math.prod(maps.shape[:-2]), *maps.shape[-2:])
    _, vertical, horizontal = OPERATORS.peak(planes.detach(), kernel_size, sigma)
    peaks: Tensor = (planes * (vertical.unsqueeze(2) * horizontal.unsqueeze(1))).sum((1, 2))
    return peaks.view(maps.shape[:-2])


def gaussian_smooth(maps: Tensor, kernel_size: int = 3, sigma: float = 0.5**0.5) -> Tensor:
    """The smoothed maps themselves, [..., h, w]; arguments and errors as for `gaussian_peak`."""
    kernel_size, sigma = _check(maps, kernel_size, sigma)
    exact = maps.float() if maps.dtype in HALF else maps
    (h, w), kind = maps.shape[-2:], (kernel_size, sigma, exact.dtype, exact.device)
    with torch.autocast(maps.device.type, enabled=False):
        return (_matrix(h, *kind) @ exact @ _matrix(w, *kind).T).to(maps.dtype)


LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
LIBRARY.define(
    "peak(Tensor maps, int kernel_size, float sigma) -> (Tensor pixels, Tensor vertical, Tensor horizontal)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# What it returns is constant until another pixel takes over.
LIBRARY.impl("peak", torch.library.fallthrough_kernel, "Autograd")


def _peak(maps: Tensor, kernel_size: int, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where maps [n, h, w] are highest once smoothed: pixels [n], counted row by row, and the rows of V and H there.

    A map that is not finite has pixel h * w and a row of NaN.
    """
    h, w = maps.shape[1:]
    matrices = _matrices(h, w, kernel_size, sigma, maps.dtype, maps.device)
    find = _kernel(maps.dtype, maps.device) or _find
    pixels = find(maps, matrices.vertical, matrices.horizontal, kernel_size // 2)
    vertical = matrices.vertical_or_nan.index_select(0, pixels // w)
    return pixels, vertical, matrices.horizontal.index_select(0, pixels % w)


# Transforms and modes of torch have been dealt with before this runs, so that it meets nothing but plain memory.
LIBRARY.impl("peak", _peak, "CompositeExplicitAutograd")


@torch.library.register_fake(f"{NAMESPACE}::peak", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _fake_peak(maps: Tensor, kernel_size: int, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    n, h, w = maps.shape
    return maps.new_empty(n, dtype=torch.int64), maps.new_empty(n, h), maps.new_empty(n, w)


@torch.library.register_vmap(f"{NAMESPACE}::peak", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _batched_peak(
    info: Any, in_dims: tuple[int | None, ...], maps: Tensor, kernel_size: int, sigma: float
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    maps = maps.movedim(in_dims[0] or 0, 0)
    together = OPERATORS.peak(maps.flatten(0, 1), kernel_size, sigma)
    return tuple(part.unflatten(0, maps.shape[:2]) for part in together), (0, 0, 0)


def _find(maps: Tensor, vertical: Tensor, horizontal: Tensor, reach: int = 0) -> Tensor:
    """The pixels that kernels find, in plain torch."""
    n, h, w = maps.shape
    columns = torch.mm(horizontal, maps.contiguous().as_strided((w, n * h), (1, w)))  # [w, n * h]
    if columns.dtype != maps.dtype:  # autocast lowered the precision, and peaks might be mistaken
        with torch.autocast(maps.device.type, enabled=False):
            return _find(maps, vertical, horizontal)
    smoothed = torch.mm(vertical, columns.as_strided((h, w * n), (1, h)))  # [h, w * n]
    if not maps.is_cpu or n == 0:
        peaks, pixels = smoothed.view(h * w, n).max(0)
    else:
        # Maps are the innermost dimension, of which pooling (unlike argmax) takes several at a time.
        planes = smoothed.as_strided((1, n, h, w), (h * w * n, 1, w * n, n))
        peaks, pixels = (each.view(n) for each in F.max_pool2d_with_indices(planes, (h, w), (h, w)))
    return pixels.where(peaks.isfinite(), h * w)


@cache
def _kernel(dtype: torch.dtype, device: torch.device) -> kernels.PeakKernel | None:
    """The compiled kernel for such maps, if there is one and it proves itself."""
    kernel = kernels.peak_kernel(dtype, device)
    if kernel is None or _agrees(kernel, dtype, device):
        return kernel
    warnings.warn(f"the compiled kernel for {dtype} on {device} fails its check; using plain torch", stacklevel=2)
    return None


def _agrees(kernel: kernels.PeakKernel, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a kernel finds on fixed maps what plain torch finds on the CPU in float64."""
    for kernel_size, h, w in ((1, 3, 2), (3, 16, 16), (5, 7, 33), (9, 40, 5)):
        maps = torch.arange(19 * h * w, dtype=torch.float64, device="cpu").mul(12.9898).sin().view(19, h, w)
        maps[0] = 0  # all pixels tie
        maps[1, 1, 1], maps[2, 2, 0] = math.nan, -math.inf
        expected = _find(maps, *_matrices(h, w, kernel_size, 0.8, maps.dtype, maps.device)[:2])
        vertical, horizontal, _ = _matrices(h, w, kernel_size, 0.8, dtype, device)
        try:
            pixels = kernel(maps.to(device, dtype), vertical, horizontal, kernel_size // 2)
        except RuntimeError:
            return False
        if not torch.equal(pixels.cpu(), expected):
            return False
    return True


@lru_cache(maxsize=32)
def _matrices(h: int, w: int, kernel_size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Matrices:
    with torch.inference_mode(False):  # kept for later calls, which may want gradients
        vertical, horizontal = (_matrix(size, kernel_size, sigma, dtype, device) for size in (h, w))
        vertical_or_nan = F.pad(vertical, (0, 0, 0, 1), value=math.nan)
        return Matrices(vertical, horizontal, vertical_or_nan)


def _matrix(size: int, kernel_size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[size, size]: row i holds the weights of smoothed pixel i, those beyond a border folded back by reflection."""
    offsets = torch.arange(-(kernel_size // 2), kernel_size // 2 + 1, device=device)
    weights = torch.exp(-((offsets.to(dtype) / sigma) ** 2) / 2)
    weights = weights / weights.sum()
    pixels = torch.arange(size, device=device)
    sources = (pixels[:, None] + offsets).abs()
    sources = size - 1 - (size - 1 - sources).abs()
    return ((sources[:, :, None] == pixels) * weights[:, None]).sum(1)


def _check(maps: Tensor, kernel_size: int, sigma: float) -> tuple[int, float]:
    """The two numbers as Python's own, once all arguments are known to fit."""
    if not isinstance(maps, Tensor) or not maps.dtype.is_floating_point:
        kind = maps.dtype if isinstance(maps, Tensor) else f"a {type(maps).__name__}"
        raise TypeError(f"maps are {kind}; gaussian_peak expects real floating point, e.g. maps.float().")
    if (
        not isinstance(kernel_size, Integral)
        or isinstance(kernel_size, bool)
        or kernel_size < 1
        or kernel_size % 2 == 0
    ):
        raise ValueError(f"kernel_size is {kernel_size!r}; expected a positive odd integer such as 3.")
    if not _is_number(sigma, Real) or not 0 < sigma <= sys.float_info.max:
        raise ValueError(f"sigma is {sigma!r}; expected a positive number of pixels such as 0.7071.")
    if maps.ndim < 2:
        raise ValueError(f"maps have shape {list(maps.shape)}; expected [..., h, w].")
    (h, w), least = maps.shape[-2:], kernel_size // 2 + 1
    if min(h, w) < least:
        raise ValueError(
            f"maps are {h} x {w}; a kernel of size {kernel_size} is reflected at the borders and needs at least "
            f"{least} x {least}. Use larger maps or a smaller kernel."
        )
    return int(kernel_size), max(float(sigma), _SHARPEST)


def _is_number(value: object, kind: type) -> bool:
    """Whether it is a plain number, of Python or numpy; a tensor would be kept by identity, whatever becomes of it."""
    return isinstance(value, kind) and not isinstance(value, bool)
