"""The peak of a Gaussian-smoothed map as one operation, whose gradient is a closed form.

Smoothing with reflect padding is linear and separable: smoothed = V map H^T, where V [h, h] and H [w, w] hold the
kernel, folded back at the borders. So the maximum is <filter, map> with filter = (row of V) x (row of H) at the peak,
and that filter is its gradient: non-zero on the kernel_size x kernel_size pixels around the peak and nowhere else.

`python -m ebama.smoothing` compares its speed with padding, convolving and taking the maximum.
"""

from __future__ import annotations

import math
import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

# The filters of all pixels are kept as one table if it has at most this many numbers (maps up to 32 x 32: 4 MiB).
TABLE_LIMIT = 1 << 20
HALF = (torch.float16, torch.bfloat16)


class Smoothing(NamedTuple):
    """What smooths [h, w] maps: V [h, h], H [w, w] and, unless too large, all filters [h * w, h, w]."""

    vertical: Tensor
    horizontal: Tensor
    table: Tensor | None

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
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        _, pixels = _find(maps.detach(), smoothing)
        return (maps * smoothing.filters(pixels)).sum((1, 2))
    return cast(Tensor, _Peak.apply(maps, smoothing))  # type: ignore[no-untyped-call]


class _Peak(torch.autograd.Function):
    """The same in the fewest operations; compilers and `torch.func` see through the plain ones above."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, smoothing: Smoothing) -> Tensor:
        peaks, ctx.pixels = _find(maps, smoothing)
        ctx.smoothing = smoothing
        return peaks

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        filters: Tensor = ctx.smoothing.filters(ctx.pixels)
        return filters * slopes.view(-1, 1, 1), None

    @staticmethod
    def jvp(ctx: Any, tangents: Tensor, _: None) -> Tensor:
        filters: Tensor = ctx.smoothing.filters(ctx.pixels)
        return (tangents * filters).sum((1, 2))


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
    # A compiler meets sizes that may be symbolic, and folds the two matrices into its own code.
    make = _smoothing if torch.compiler.is_compiling() else _kept_smoothing
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
        table = None
        if not torch.compiler.is_compiling() and (h * w) ** 2 <= TABLE_LIMIT:
            table = (vertical[:, None, :, None] * horizontal[:, None, :]).view(h * w, h, w)
        return Smoothing(vertical, horizontal, table)


_kept_smoothing = lru_cache(maxsize=16)(_smoothing)


def _matrix(size: int, kernel_size: int, sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[size, size]: row i holds the weights of smoothed pixel i, those beyond a border folded back by reflection."""
    offsets = torch.arange(-(kernel_size // 2), kernel_size // 2 + 1, device=device)
    weights = torch.exp(-((offsets.to(dtype) / sigma) ** 2) / 2)
    pixels = torch.arange(size, device=device)
    sources = (pixels[:, None] + offsets).abs()
    sources = size - 1 - (size - 1 - sources).abs()
    return ((sources[:, :, None] == pixels) * (weights / weights.sum())[:, None]).sum(1)


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

    print(f"{'maps':>12} {'measured':>12} {'pad + conv2d + amax':>20} {'gaussian_peak':>14} {'ratio':>6}")
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
