"""The peak of a Gaussian-smoothed map as one operation, whose gradient is a closed form.

Smoothing with reflect padding is linear and separable: smoothed = V map H^T, where V [h, h] and H [w, w] hold the
kernel, folded back at the borders. So the maximum is <filter, map> with filter = (row of V) x (row of H) at the peak,
and that filter is its gradient: non-zero on the kernel_size x kernel_size pixels around the peak and nowhere else.

Where there is a C compiler, smoothing.c does this for maps on the CPU, each way in one call; EBAMA_NATIVE=0 turns that
off. Elsewhere, and for compilers, transforms and second derivatives, a few operations of torch do.

`python -m ebama.smoothing` compares its speed with padding, convolving and taking the maximum. Forward and backward on
one thread of a quiet 2-core EPYC it was, alone and in a graph (see `benchmark`), 3.8 and 5.3 times as fast on 2 maps of
16 x 16, 8.2 and 10.4 times on 64; in plain torch 2.7 and 3.6, 5.5 and 7.0 times.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .kernels import native

# The filters of all pixels are kept as one table if it has at most this many numbers (maps up to 32 x 32: 4 MiB).
TABLE_LIMIT = 1 << 20
# smoothing.c keeps a map on the stack, twice, its margin included: at most so many numbers each time (64 KiB).
STACK_LIMIT = 1 << 13
HALF = (torch.float16, torch.bfloat16)


def _keys(inference: bool) -> torch._C.DispatchKeySet:
    with torch.inference_mode(inference):
        return torch._C._dispatch_keys(torch.empty(0, device="cpu"))


PLAIN = (_keys(False), _keys(True))  # of CPU tensors that are nothing more


class Kernel(NamedTuple):
    """smoothing.c for one type of numbers, and what its functions take: the weights from the middle one on, [r + 1]."""

    library: ctypes.CDLL
    weights: Tensor
    pointer: int  # to the weights
    r: int

    def find(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """As `_find`."""
        n, h, w = maps.shape
        rows, peaks, pixels = maps.contiguous(), maps.new_empty(n), maps.new_empty(n, dtype=torch.int64)
        self.library.find(rows.data_ptr(), n, h, w, self.pointer, self.r, peaks.data_ptr(), pixels.data_ptr())
        return peaks, pixels

    def spread(self, pixels: Tensor, slopes: Tensor, h: int, w: int) -> Tensor:
        """The gradient [n, h, w] of peaks at `pixels` [n] that have `slopes` [n]."""
        n = len(pixels)
        gradient = slopes.new_empty(n, h, w)
        where = pixels.data_ptr(), slopes.data_ptr(), slopes.stride(0)
        self.library.spread(*where, n, h, w, self.pointer, self.r, gradient.data_ptr())
        return gradient


class Smoothing(NamedTuple):
    """What smooths [h, w] maps: V [h, h], H [w, w] and, unless too large, all filters [h * w, h, w]; or smoothing.c."""

    vertical: Tensor
    horizontal: Tensor
    table: Tensor | None
    kernel: Kernel | None

    def filters(self, pixels: Tensor) -> Tensor:
        """The weights [n, h, w] that make up the smoothed values of `pixels` [n], counted row by row."""
        if self.table is not None:
            return self.table.index_select(0, pixels)
        width = len(self.horizontal)
        return self.vertical[pixels // width].unsqueeze(2) * self.horizontal[pixels % width].unsqueeze(1)


def gaussian_peak(maps: Tensor, kernel_size: int = 3, sigma: float = 0.5**0.5) -> Tensor:
    """Maximum over the pixels of maps [..., h, w] after Gaussian smoothing, one value a map: [...].

    The kernel has weights exp(-x^2 / (2 sigma^2)) at pixel offset x along each axis, normalised to sum 1; the default
    gives [0.2119, 0.5761, 0.2119], which Attend-and-Excite calls sigma = 0.5. Padding is reflecting.

    All maps go through the same few operations together. Of pixels that tie, the first in row-major order takes the
    gradient. A map with a NaN or an infinity in it gives NaN. float16 and bfloat16 are computed in float32, also
    under autocast.

    Raises:
        TypeError: if maps are not real floating point.
        ValueError: if kernel_size is not a positive odd integer, sigma not a positive number, or the maps too small
            to be reflected (each side must exceed kernel_size // 2).
    """
    if maps.ndim > 1 and (maps.ndim != 3 or maps.dtype in HALF):
        planes = maps.reshape(math.prod(maps.shape[:-2]), *maps.shape[-2:])
        planes = planes.float() if maps.dtype in HALF else planes
        return gaussian_peak(planes, kernel_size, sigma).to(maps.dtype).view(maps.shape[:-2])
    smoothing = _smoothing_of(maps, kernel_size, sigma)
    if _seen_through():
        _, pixels = _find(maps.detach(), smoothing)
        return (maps * smoothing.filters(pixels)).sum((1, 2))
    return _apply(maps, smoothing)


class _Peak(torch.autograd.Function):
    """The same in the fewest operations; compilers and `torch.func` see through the plain ones above."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, smoothing: Smoothing) -> Tensor:
        ctx.smoothing, kernel = smoothing, smoothing.kernel
        peaks, ctx.pixels = kernel.find(maps) if kernel is not None and _plain(maps) else _find(maps, smoothing)
        return peaks

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        smoothing: Smoothing = ctx.smoothing
        kernel = smoothing.kernel
        if kernel is not None and _plain(slopes) and not torch.is_grad_enabled():  # no gradient of the gradient
            return kernel.spread(ctx.pixels, slopes, len(smoothing.vertical), len(smoothing.horizontal)), None
        return smoothing.filters(ctx.pixels) * slopes.view(-1, 1, 1), None

    @staticmethod
    def jvp(ctx: Any, tangents: Tensor, _: None) -> Tensor:
        filters: Tensor = ctx.smoothing.filters(ctx.pixels)
        return (tangents * filters).sum((1, 2))


# Function.apply of Python first looks for torch.func, whose transforms have gone another way already.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _Peak).apply


def _seen_through() -> bool:
    """Whether a compiler or a transform of `torch.func` follows what is computed."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _plain(tensor: Tensor) -> bool:
    """Whether a CPU tensor is just memory, and no mode or transform is following what happens to it."""
    return torch._C._dispatch_keys(tensor) in PLAIN and not torch._C._len_torch_dispatch_stack()


def _find(maps: Tensor, smoothing: Smoothing) -> tuple[Tensor, Tensor]:
    """The peaks [n] of maps [n, h, w] once smoothed and their pixels [n], counted row by row; the first that ties."""
    n, h, w = maps.shape
    columns = torch.mm(smoothing.horizontal, maps.contiguous().as_strided((w, n * h), (1, w)))  # [w, n * h]
    if columns.dtype != maps.dtype:  # autocast lowered the precision, and peaks might be mistaken
        with torch.autocast(maps.device.type, enabled=False):
            return _find(maps, smoothing)
    smoothed = torch.mm(smoothing.vertical, columns.as_strided((h, w * n), (1, h)))  # [h, w * n]
    if not maps.is_cpu or n == 0:
        peaks, pixels = smoothed.view(h * w, n).max(0)
        return peaks, pixels
    # Maps are the innermost dimension, of which pooling (unlike argmax) takes several at a time.
    planes = smoothed.as_strided((1, n, h, w), (h * w * n, 1, w * n, n))
    peaks, pixels = F.max_pool2d_with_indices(planes, (h, w), (h, w))
    return peaks.view(n), pixels.view(n)


def gaussian_smooth(maps: Tensor, kernel_size: int = 3, sigma: float = 0.5**0.5) -> Tensor:
    """The smoothed maps themselves, [..., h, w]; arguments and errors as for `gaussian_peak`."""
    exact = maps.float() if maps.dtype in HALF else maps
    smoothing = _smoothing_of(exact, kernel_size, sigma)
    with torch.autocast(maps.device.type, enabled=False):
        return (smoothing.vertical @ exact @ smoothing.horizontal.T).to(maps.dtype)


def _smoothing_of(maps: Tensor, kernel_size: int, sigma: float) -> Smoothing:
    """The matrices for these maps [..., h, w], kept from an earlier call if there was one."""
    if maps.ndim < 2:
        raise ValueError(f"maps have shape {list(maps.shape)}; expected [..., h, w].")
    h, w = maps.shape[-2:]
    # A compiler meets sizes that may be symbolic, and folds the two matrices into its own code. What is made within a
    # transform or a mode may be more, or less, than memory, and is nothing to keep.
    make = _smoothing if _seen_through() or torch._C._len_torch_dispatch_stack() else _kept_smoothing
    return make(h, w, kernel_size, sigma, maps.dtype, maps.device)


def _smoothing(h: int, w: int, kernel_size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Smoothing:
    """The matrices for one kind of map. Arguments are checked here, so that repeated calls do not check again."""
    if not dtype.is_floating_point:
        raise TypeError(f"maps are {dtype}; gaussian_peak expects real floating point, e.g. maps.float().")
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size!r}; expected a positive odd integer such as 3.")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma is {sigma!r}; expected a positive number of pixels such as 0.7071.")
    if min(h, w) <= kernel_size // 2:
        raise ValueError(
            f"maps are {h} x {w}; a kernel of size {kernel_size} is reflected at the borders and needs at least "
            f"{kernel_size // 2 + 1} x {kernel_size // 2 + 1}. Use larger maps or a smaller kernel."
        )
    with torch.inference_mode(False):  # may be kept for a later call that wants gradients
        vertical = _matrix(h, kernel_size, sigma, dtype, device)
        horizontal = _matrix(w, kernel_size, sigma, dtype, device)
        table = kernel = None
        if not (_seen_through() or torch._C._len_torch_dispatch_stack()):
            if (h * w) ** 2 <= TABLE_LIMIT:
                table = (vertical[:, None, :, None] * horizontal[:, None, :]).view(h * w, h, w)
            library = _library(dtype) if device.type == "cpu" and h * (w + kernel_size) <= STACK_LIMIT else None
            if library is not None:
                half = _weights(kernel_size, sigma, dtype, device)[kernel_size // 2 :].contiguous()
                kernel = Kernel(library, half, half.data_ptr(), kernel_size // 2)
        return Smoothing(vertical, horizontal, table, kernel)


_kept_smoothing = lru_cache(maxsize=16)(_smoothing)


@cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """smoothing.c for maps of this type, if it can be compiled here."""
    real = {torch.float32: "float", torch.float64: "double"}.get(dtype)
    library = native.load("smoothing.c", real=real) if real else None
    if library is not None:
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        library.find.argtypes = (pointer, number, number, number, pointer, number, pointer, pointer)
        library.spread.argtypes = (pointer, pointer, number, number, number, number, pointer, number, pointer)
        library.find.restype = library.spread.restype = None
    return library


def _matrix(size: int, kernel_size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[size, size]: row i holds the weights of smoothed pixel i, those beyond a border folded back by reflection."""
    pixels = torch.arange(size, device=device)
    sources = (pixels[:, None] + _offsets(kernel_size, device)).abs()
    sources = size - 1 - (size - 1 - sources).abs()
    return ((sources[:, :, None] == pixels) * _weights(kernel_size, sigma, dtype, device)[:, None]).sum(1)


def _weights(kernel_size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The kernel along one axis, [kernel_size]."""
    weights = torch.exp(-((_offsets(kernel_size, device).to(dtype) / sigma) ** 2) / 2)
    return weights / weights.sum()


def _offsets(kernel_size: int, device: torch.device) -> Tensor:
    return torch.arange(-(kernel_size // 2), kernel_size // 2 + 1, device=device)


def benchmark(counts: Sequence[int] = (2, 64), size: int = 16, rounds: int = 60, calls: int = 20) -> None:
    """Print what a forward and backward pass costs on one CPU thread: medians over interleaved rounds.

    "alone" calls autograd for each pass. "in a graph" calls it once for `calls` passes, as it is called once for all
    of a model: starting it takes tens of microseconds.
    """
    torch.set_num_threads(1)
    line = _matrix(3, 3, 0.5**0.5, torch.float32, torch.device("cpu"))[1]
    kernel = torch.outer(line, line)[None, None]

    def convolved(maps: Tensor) -> Tensor:
        padded = F.pad(maps.unsqueeze(1), (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, kernel).amax((-2, -1)).squeeze(1)

    def alone(peak: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> None:
        maps, ones = inputs[0], torch.ones(len(inputs[0]))
        for _ in inputs:
            torch.autograd.grad(peak(maps), maps, ones)

    def in_a_graph(peak: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> None:
        ones = torch.ones(len(inputs) * len(inputs[0]))
        torch.autograd.grad(torch.cat([peak(maps) for maps in inputs]), inputs, ones)

    ours_is = "plain torch" if _library(torch.float32) is None else "smoothing.c"
    print(f"{'maps':>12} {'measured':>12} {'pad + conv2d + amax':>20} {'gaussian_peak':>14} {'ratio':>6}  ({ours_is})")
    for count in counts:
        inputs = [torch.rand(count, size, size, requires_grad=True) for _ in range(calls)]
        for measured in (alone, in_a_graph):
            timers = [
                # What other programs take from a busy machine does not count.
                timeit.Timer(partial(measured, peak, inputs), timer=time.thread_time)
                for peak in (convolved, gaussian_peak)
            ]
            times = [[timer.timeit(1) / calls * 1e6 for timer in timers] for _ in range(rounds + 1)]
            theirs, ours = (statistics.median(column) for column in zip(*times[1:], strict=True))  # round 0 warms up
            name = measured.__name__.replace("_", " ")
            print(f"{f'{count} x {size}x{size}':>12} {name:>12} {theirs:17.0f} us {ours:11.0f} us {theirs / ours:6.1f}")


if __name__ == "__main__":
    benchmark()
