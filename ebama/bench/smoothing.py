"""The speed of `gaussian_peak` beside padding, convolving and taking the maximum: `python -m ebama.bench.smoothing`.

Forward and backward on one CPU thread. "alone" calls autograd for each pass. "in a graph" calls it once for `calls`
passes, as it is called once for all of a model: starting it takes tens of microseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import register_flop_formula

from ..kernels import peak_kernel
from ..smoothing import gaussian_peak

LINE = torch.tensor((0.2119416, 0.5761169, 0.2119416))
KERNEL = torch.outer(LINE, LINE)[None, None]
"""The kernel that gaussian_peak takes by default."""

Peak = Callable[[Tensor], Tensor]
Passes = Callable[[Peak, Sequence[Tensor]], None]


@register_flop_formula(torch.ops.ebama.peak)
def peak_flops(maps: Sequence[int], kernel_size: int, *_: object, **__: object) -> int:
    """Two products of each pixel with the kernel, one along each axis."""
    n, h, w = maps
    return 2 * 2 * kernel_size * n * h * w


def convolved_peak(maps: Tensor) -> Tensor:
    """The peaks [n] of maps [n, h, w] by a convolution."""
    padded = F.pad(maps.unsqueeze(1), (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, KERNEL).amax((-2, -1)).squeeze(1)


def alone(peak: Peak, inputs: Sequence[Tensor]) -> None:
    """One backward pass for each input."""
    ones = torch.ones(len(inputs[0]))
    for maps in inputs:
        torch.autograd.grad(peak(maps), maps, ones)


def in_a_graph(peak: Peak, inputs: Sequence[Tensor]) -> None:
    """One backward pass for all inputs."""
    peaks = torch.cat([peak(maps) for maps in inputs])
    torch.autograd.grad(peaks, inputs, torch.ones(len(peaks)))


def microseconds(passes: Passes, peak: Peak, inputs: Sequence[Tensor], seconds: float) -> float:
    """The median time of a pass on one thread, measured for that many seconds without what other programs take."""
    names = {"passes": passes, "peak": peak, "inputs": inputs}
    timer = Timer("passes(peak, inputs)", timer=time.thread_time, globals=names)
    return timer.blocked_autorange(min_run_time=seconds).median / len(inputs) * 1e6


def main(counts: Sequence[int] = (2, 64), size: int = 16, calls: int = 20, seconds: float = 2.0) -> None:
    """Print a row for each number of maps, both ways."""
    kernel = "plain torch" if peak_kernel(torch.float32, torch.device("cpu")) is None else "peak.c"
    print(f"{'maps':>12} {'measured':>12} {'pad + conv2d + amax':>20} {'gaussian_peak':>14} {'ratio':>6}  ({kernel})")
    for count in counts:
        inputs = [torch.rand(count, size, size, requires_grad=True) for _ in range(calls)]
        for name, passes in (("alone", alone), ("in a graph", in_a_graph)):
            theirs, ours = (microseconds(passes, peak, inputs, seconds) for peak in (convolved_peak, gaussian_peak))
            print(f"{f'{count} x {size}x{size}':>12} {name:>12} {theirs:17.0f} us {ours:11.0f} us {theirs / ours:6.1f}")


if __name__ == "__main__":
    main()
