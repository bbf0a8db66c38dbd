"""Cases in processes of their own, a round of each side in turn, so that whatever else the machine does hits both."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .meter import Round
from .settings import Setting


@dataclass(frozen=True)
class Measured:
    """What one side of one case took.

    Attributes:
        rounds: in the order in which they ran.
        gflop: floating-point operations of the products in one round, in 10^9; None where they are not counted.
        peak: most memory in MiB, see `Meter.peak`; None where it means nothing.
        threads: of PyTorch.
    """

    case: str
    side: str
    rounds: tuple[Round, ...]
    gflop: float | None
    peak: float | None
    threads: int

    @property
    def seconds(self) -> float:
        """Median wall seconds of a round."""
        return statistics.median(r.seconds for r in self.rounds)

    @property
    def cpu(self) -> float:
        """Median CPU seconds of a round: all threads together, without what other programs take."""
        return statistics.median(r.cpu for r in self.rounds)

    @property
    def rate(self) -> float | None:
        """GFLOP/s."""
        return self.gflop / self.seconds if self.gflop else None

    @property
    def share(self) -> float | None:
        """The median over rounds of the rate, as a share of the matrix product's just before."""
        if not self.gflop:
            return None
        return statistics.median(self.gflop / r.seconds / r.matmul for r in self.rounds)

    def written(self) -> dict[str, Any]:
        """For JSON, with the figures that follow from the rounds."""
        return {**asdict(self), "seconds": self.seconds, "cpu": self.cpu, "rate": self.rate, "share": self.share}

    @classmethod
    def read(cls, values: dict[str, Any]) -> Measured:
        """What `written` wrote."""
        rounds = tuple(Round(**r) for r in values["rounds"])
        own = {name: values[name] for name in ("case", "side", "gflop", "peak", "threads")}
        return cls(rounds=rounds, **own)


class _Worker:
    """One process of `bench.worker`. Raises ValueError with its last words if it ends before its time."""

    def __init__(self, setting: Setting, stack: ExitStack) -> None:
        self._setting = setting
        self._said = stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ebama.bench.worker", setting.written()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        stack.callback(self._close)
        self.gflop: float | None = None
        while "ready" not in (answer := self._answer()):
            self.gflop = answer["gflop"] or None
        self.rounds: list[Round] = []

    def round(self) -> None:
        """Run one."""
        self._ask("go")
        self.rounds.append(Round(**self._answer()))

    def finish(self) -> Measured:
        """End the process."""
        self._ask("end")
        last = self._answer()
        case, side = self._setting.case, self._setting.side
        return Measured(case, side, tuple(self.rounds), self.gflop, last["peak"], last["threads"])

    def _ask(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._said.seek(0)
            words = self._said.read().strip().splitlines()
            setting = self._setting
            raise ValueError(
                f"The process of case {setting.case} ({setting.side}) ended with code {code}: "
                f"{words[-1] if words else 'killed, perhaps for want of memory'}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def measure(setting: Setting, sides: Sequence[str], repeat: int) -> list[Measured]:
    """One case of these sides: each is set up and warmed in turn, then `repeat` rounds alternate."""
    with ExitStack() as stack:
        workers = [_Worker(replace(setting, side=side), stack) for side in sides]
        for _ in range(repeat):
            for worker in workers:
                worker.round()
        return [worker.finish() for worker in workers]


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "load": [round(load, 1) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    def named() -> Iterator[str]:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                yield line.partition(":")[2].strip()

    try:
        return next(named(), platform.processor())
    except OSError:
        return platform.processor()
