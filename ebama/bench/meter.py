"""Seconds, floating-point operations and memory of a piece of work, taken in rounds that somebody else starts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ..runtime.arithmetic import usable_arithmetic
from ..runtime.memory import resident

_MIB = 2**20


class Stop(BaseException):
    """No further round is wanted; passes through code that catches ordinary errors."""


class Line(Protocol):
    """How rounds are started and reported."""

    def wait(self) -> bool:
        """Whether another round is wanted, once that is known."""

    def report(self, values: dict[str, Any]) -> None:
        """Hand over what was measured."""


@dataclass(frozen=True)
class Round:
    """One round: wall seconds, CPU seconds of all threads and child processes, and what a matrix product did before it
    in GFLOP per wall second."""

    seconds: float
    cpu: float
    matmul: float


class Meter:
    """Times what lies between `begin` and `end`; `measure` does it for a function, after one counted run to warm up.

    `matmul` is the side of the square matrices whose product is timed before each round.
    """

    def __init__(self, line: Line, device: torch.device, dtype: torch.dtype, matmul: int) -> None:
        self._line, self._device, self._dtype, self._matmul = line, device, dtype, matmul
        self._start = (0.0, 0.0)
        self._rate = 0.0
        self._started = False

    def measure(self, work: Callable[[], object]) -> None:
        """Run `work` once and count its operations, then once a round."""
        with Counting() as counted:
            work()
        self._line.report({"gflop": counted.flops / 1e9})
        while True:
            self.begin()
            work()
            self.end()

    def begin(self) -> None:
        """Wait for the next round and start its clocks. Raises Stop if there is none."""
        if not self._started:  # the first time, everything is warm
            reset_peak(self._device)
            self._started = True
        if not self._line.wait():
            raise Stop
        self._rate = matmul_rate(self._matmul, self._device, self._dtype)
        self._start = self._clocks()

    def end(self) -> None:
        """Stop the clocks and report the round."""
        seconds, cpu = (now - then for now, then in zip(self._clocks(), self._start, strict=True))
        self._line.report(asdict(Round(seconds, cpu, self._rate)))

    def peak(self) -> float:
        """The most memory in MiB that was in use during the rounds: the process's, or the GPU's tensors."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / _MIB
        return peak_resident()

    def _clocks(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter(), _cpu_seconds()


class Counting(TorchDispatchMode):
    """Counts the floating-point operations of products with the formulas of `torch.utils.flop_counter`.

    (Its own mode watches modules too, and does so with hooks that `torch.autograd.grad` forbids on the latent.)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        aten = torch.ops.aten
        self._formulas: dict[Any, Any] = {
            **flop_registry,
            aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _fused_attention_backward,
        }

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if formula := self._formulas.get(function._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _fused_attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


def matmul_rate(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of the best of three products of square matrices, as the library runs them in that dtype."""
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    with usable_arithmetic(device, dtype):
        for _ in range(3):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            torch.matmul(left, right)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def reset_peak(device: torch.device) -> None:
    """Forget how much memory was in use before, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> float:
    """The most memory in MiB that this process had, since `reset_peak` on Linux, in all its life elsewhere."""
    if (most := resident("VmHWM")) is not None:
        return most / _MIB
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB


def _cpu_seconds() -> float:
    try:
        import resource
    except ImportError:  # Windows: without the child processes
        return time.process_time()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
