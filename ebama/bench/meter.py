"""Seconds, floating-point operations and memory of some work, in rounds that somebody else starts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer, timer
from torch.utils.flop_counter import flop_registry

from ..runtime.arithmetic import usable_arithmetic
from ..runtime.usage import resident

_MIB = 2**20


class Stop(BaseException):
    """No further round is wanted; passes through code that catches ordinary errors."""


@dataclass(frozen=True)
class Round:
    """One round: wall seconds, CPU seconds of all threads and child processes, and what a matrix product did before it
    in GFLOP per wall second."""

    seconds: float
    cpu: float
    matmul: float


class Meter:
    """Times what lies between `begin` and `end`; `measure` does it for a function, after one counted run to warm up.

    The pipe brings True for another round or False. Out go the GFLOP of the counted run (None without one) when the
    first round can begin, then a `Round` after each. `matmul` is the side of the square matrices whose product is timed
    before a round.
    """

    def __init__(self, pipe: Connection, device: torch.device, dtype: torch.dtype, matmul: int) -> None:
        self._pipe, self._device, self._dtype, self._matmul = pipe, device, dtype, matmul
        self._clock = _clock(device)
        self._gflop: float | None = None
        self._ready = False

    def measure(self, work: Callable[[], object]) -> None:
        """Run `work` once and count its operations, then once a round."""
        with Counting() as counted:
            work()
        self._gflop = counted.flops / 1e9 or None
        while True:
            self.begin()
            work()
            self.end()

    def begin(self) -> None:
        """Wait for the next round and start its clocks. Raises Stop if there is none."""
        if not self._ready:
            self._ready = True
            if self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
            with contextlib.suppress(OSError):  # where the system can forget how much memory was in use before
                Path("/proc/self/clear_refs").write_text("5")
            self._pipe.send(self._gflop)
        if not self._pipe.recv():
            raise Stop
        self._rate = matmul_rate(self._matmul, self._device, self._dtype)
        self._start = self._clock(), _cpu_seconds()

    def end(self) -> None:
        """Stop the clocks and report the round."""
        seconds, cpu = self._clock() - self._start[0], _cpu_seconds() - self._start[1]
        self._pipe.send(Round(seconds, cpu, self._rate))

    def peak(self) -> float:
        """The most memory in MiB that was in use during the rounds: the process's, or the GPU's tensors."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / _MIB
        if (most := resident("VmHWM")) is not None:  # since the first round
            return most / _MIB
        import resource  # elsewhere in all its life

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB


class Counting(TorchDispatchMode):
    """Counts the floating-point operations of products with the formulas of `torch.utils.flop_counter`.

    (`FlopCounterMode` itself puts hooks on modules, with which `torch.autograd.grad` cannot end at a latent.)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if formula := flop_registry.get(function._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


# What the registry lacks: a CPU's fused attention, which takes as many as any other's.
for _pass in ("", "_backward"):
    _formula = flop_registry[getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention{_pass}")]
    flop_registry.setdefault(getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention_for_cpu{_pass}"), _formula)


def matmul_rate(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of the best of three products of square matrices, as the library runs them in that dtype."""
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    threads = torch.get_num_threads()
    product = Timer("left @ right", globals={"left": left, "right": right}, timer=_clock(device), num_threads=threads)
    with usable_arithmetic(device, dtype):
        return 2e-9 * size**3 / min(product.timeit(1).median for _ in range(3))


def _clock(device: torch.device) -> Callable[[], float]:
    """PyTorch's timer waits for the GPU, but would open one in a process that measures a CPU's memory."""
    return timer if device.type == "cuda" else time.perf_counter


def _cpu_seconds() -> float:
    try:
        import resource
    except ImportError:  # Windows: without the child processes
        return time.process_time()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
