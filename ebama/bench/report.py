"""Figures of a benchmark: what follows from them, as JSON, as a Markdown table, as a picture."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..checks import is_number, short
from ..output.files import write_text, written_whole
from ..output.reading import parse_object, read_text
from .meter import Round


@dataclass(frozen=True)
class Measured:
    """The measurements of one side of one case.

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
    def spread(self) -> str:
        """Median, least and most wall seconds of a round, as a reader sees them."""
        seconds = [r.seconds for r in self.rounds]
        return f"{_number(self.seconds)} ({_number(min(seconds))}-{_number(max(seconds))})"

    @property
    def rate(self) -> float | None:
        """GFLOP/s."""
        return self.gflop / self.seconds if self.gflop else None

    @property
    def share(self) -> float | None:
        """The median over rounds of the rate, as a share of the matrix product's just before."""
        return statistics.median(self.gflop / r.seconds / r.matmul for r in self.rounds) if self.gflop else None


@dataclass(frozen=True)
class Report:
    """Everything that one benchmark measured.

    `model` is "miniature" or "full", `command` what was typed, `machine` what the function of that name says, with the
    load while the benchmark began.
    """

    model: str
    command: str
    machine: dict[str, Any]
    measured: tuple[Measured, ...]

    def save(self, path: Path) -> None:
        """As JSON, whole or not at all, with the figures that follow from the rounds."""
        values = asdict(self)
        for m, written in zip(self.measured, values["measured"], strict=True):
            written |= {"seconds": m.seconds, "cpu": m.cpu, "rate": m.rate, "share": m.share}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read a file that `save` wrote. Raises ValueError if that is not what the file holds."""
        try:
            values = parse_object(read_text(path))
            for m in values["measured"]:
                m["rounds"] = tuple(Round(**r) for r in m["rounds"])
                if not all(is_number(value) for r in m["rounds"] for value in vars(r).values()):
                    raise ValueError(f"the rounds of {short(m['case'])} are not all of numbers")
            measured = tuple(Measured(**{f.name: m[f.name] for f in fields(Measured)}) for m in values["measured"])
            report = cls(**values | {"measured": measured})
            report.markdown()
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no benchmark that `bench --json` wrote ({error}).") from error
        return report

    def markdown(self) -> str:
        """The table under a line that says what it holds for."""
        here = self.machine
        threads = max((m.threads for m in self.measured), default=0)
        rounds = max((len(m.rounds) for m in self.measured), default=0)
        load = f"; load average at the start {here['load'][0]}" if here.get("load") else ""
        diffusers = f", diffusers {here['diffusers']}" if "diffusers" in here else ""
        return (
            f"`{self.command}`: medians of {rounds} rounds on {here['cpu']} ({here['vectors']}), "
            f"{here['cores']} cores, {threads} thread{'s' * (threads != 1)}{load}; "
            f"Python {here['python']}, torch {here['torch']}{diffusers}.\n\n{self.table()}"
        )

    def table(self) -> str:
        """Markdown: a row for each case, the other side's figures and ratios beside ours if there are any."""
        ours, theirs = ({m.case: m for m in self.measured if (m.side == "ours") == own} for own in (True, False))
        heads = ["case", "s (min-max)", "CPU s", "GFLOP", "GFLOP/s", "of matmul", "MiB"]
        heads += ["diffusers s", "CPU s", "MiB", "time", "CPU time", "memory"] if theirs else []
        lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
        for case, m in ours.items():
            line = [case, m.spread, _number(m.cpu), _number(m.gflop), _number(m.rate)]
            line += [_number(m.share, ".0%"), _number(m.peak, ",.0f")]
            if other := theirs.get(case):
                pairs = ((m.seconds, other.seconds), (m.cpu, other.cpu), (m.peak, other.peak))
                line += [other.spread, _number(other.cpu), _number(other.peak, ",.0f")]
                line += [f"{a / b:.2f}x" if a and b else "" for a, b in pairs]
            lines.append(line + [""] * (len(heads) - len(line)))
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def batches(self) -> list[tuple[int, float, float]]:
        """(pictures, seconds, CPU seconds) of the cases batch:N."""
        batches = [m for m in self.measured if m.case.startswith("batch:") and m.side == "ours"]
        return sorted((int(m.case.partition(":")[2]), m.seconds, m.cpu) for m in batches)

    def draw(self, path: Path) -> None:
        """A PNG of seconds over pictures in one call, and of seconds for each picture.

        Raises ValueError unless the report has two cases batch:N or more.
        """
        from matplotlib.figure import Figure

        from ..trace.figures import DPI, LINES, usual_style

        if len(self.batches()) < 2:
            raise ValueError("There is nothing to draw; measure several batches, as --only batch:1,batch:8,batch:32.")
        counts, *seconds = torch.tensor(self.batches(), dtype=torch.float64).T
        path.parent.mkdir(parents=True, exist_ok=True)
        with usual_style(), written_whole(path) as partial:
            figure = Figure(figsize=(8, 3.2), layout="constrained")
            for axes, ylabel in zip(figure.subplots(1, 2), ("seconds", "seconds for each"), strict=True):
                for values, name, (colour, dash) in zip(seconds, ("wall", "CPU"), LINES, strict=False):
                    shown = values if ylabel == "seconds" else values / counts
                    axes.plot(counts, shown, color=colour, linestyle=dash, marker="o", label=f"{name} seconds")
                axes.set(xlabel="pictures in one call", ylabel=ylabel, xlim=(0, None), ylim=(0, None))
                axes.legend()
                axes.grid(alpha=0.3)
            figure.savefig(partial, dpi=DPI, format="png")


def machine() -> dict[str, Any]:
    """The machine that the figures hold for."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(names, platform.processor()),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "load": [round(load, 1) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def _number(value: float | None, form: str | None = None) -> str:
    """As `form` says, or to three digits; nothing for None."""
    return "" if value is None else format(value, form or (",.0f" if value >= 100 else ".3g"))
