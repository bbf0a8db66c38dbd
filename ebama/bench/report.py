"""Figures of a benchmark as a table, as JSON, and inside a page between two markers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..output.files import write_text
from .runs import Measured


@dataclass(frozen=True)
class Report:
    """Everything that one benchmark measured.

    `model` is "miniature" or "full", `command` what was typed, `machine` what `runs.machine` says, with the load while
    the benchmark began.
    """

    model: str
    command: str
    machine: dict[str, Any]
    measured: tuple[Measured, ...]

    def save(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        values = {
            "model": self.model,
            "command": self.command,
            "machine": self.machine,
            "measured": [m.written() for m in self.measured],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(values, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        """What `save` wrote. Raises ValueError if that is not what the file holds."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            measured = tuple(Measured.read(m) for m in values["measured"])
            for name in ("cpu", "vectors", "cores", "python", "torch"):  # what `markdown` writes
                values["machine"][name]
            return cls(values["model"], values["command"], values["machine"], measured)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no benchmark that `bench --json` wrote ({error}).") from error

    def table(self) -> str:
        """Markdown: a row for each case, the other side's figures and ratios beside ours if there are any."""
        theirs = {m.case: m for m in self.measured if m.side != "ours"}
        heads = ["case", "s (min-max)", "CPU s", "GFLOP", "GFLOP/s", "of matmul", "MiB"]
        heads += ["diffusers s", "CPU s", "MiB", "time", "CPU time", "memory"] if theirs else []
        lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
        for own in (m for m in self.measured if m.side == "ours"):
            line = [own.case, _spread(own), _number(own.cpu)]
            line += [_number(own.gflop), _number(own.rate), _percent(own.share), _whole(own.peak)]
            other = theirs.get(own.case)
            if other:
                line += [_spread(other), _number(other.cpu), _whole(other.peak)]
                line += [f"{own.seconds / other.seconds:.2f}x", f"{own.cpu / other.cpu:.2f}x"]
                line += [f"{own.peak / other.peak:.2f}x" if own.peak and other.peak else ""]
            elif theirs:
                line += [""] * 6
            lines.append(line)
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def markdown(self) -> str:
        """The table under a line that says what it holds for."""
        m = self.machine
        threads = max((measured.threads for measured in self.measured), default=0)
        rounds = max((len(measured.rounds) for measured in self.measured), default=0)
        load = f"; load average at the start {m['load'][0]}" if m.get("load") else ""
        return (
            f"`{self.command}`: medians of {rounds} rounds on {m['cpu']} ({m['vectors']}), {m['cores']} cores, "
            f"{threads} thread{'s' * (threads != 1)}{load}; Python {m['python']}, torch {m['torch']}"
            f"{', diffusers ' + m['diffusers'] if 'diffusers' in m else ''}.\n\n{self.table()}\n"
        )


def check_markers(page: Path, name: str) -> None:
    """Raise ValueError unless the page has the two markers of that name."""
    text = page.read_text(encoding="utf-8")
    if not _between(name).search(text):
        raise ValueError(f"{page} has no lines '<!-- bench:{name} -->' and '<!-- /bench:{name} -->' to write between.")


def rewrite(page: Path, name: str, text: str) -> None:
    """Put `text` between the markers <!-- bench:NAME --> and <!-- /bench:NAME --> of a page."""
    check_markers(page, name)
    content = page.read_text(encoding="utf-8")
    write_text(page, _between(name).sub(lambda m: f"{m[1]}\n{text}{m[2]}", content))


def _between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- bench:{name} -->).*?(<!-- /bench:{name} -->)", re.DOTALL)


def batches(measured: Sequence[Measured]) -> list[tuple[int, float, float]]:
    """(pictures, seconds, CPU seconds) of the cases batch:N."""
    found = [m for m in measured if m.case.startswith("batch:") and m.side == "ours"]
    return sorted((int(m.case.partition(":")[2]), m.seconds, m.cpu) for m in found)


def _spread(m: Measured) -> str:
    seconds = [r.seconds for r in m.rounds]
    return f"{_number(m.seconds)} ({_number(min(seconds))}-{_number(max(seconds))})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
