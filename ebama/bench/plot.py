"""The picture of what several pictures cost."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..output.files import written_whole
from ..trace.figures import DPI, LINES
from .report import Report, batches


def draw(report: Report, path: Path) -> None:
    """Seconds over pictures with the line through the first, and seconds of each picture.

    Raises ValueError unless the report has two cases batch:N or more.
    """
    points = batches(report.measured)
    if len(points) < 2:
        raise ValueError("There is nothing to draw; measure several batches, as --only batch:1,batch:8,batch:32.")
    counts, seconds, cpu = (list(column) for column in zip(*points, strict=True))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    total, each = figure.subplots(1, 2)
    for values, name, (colour, dash) in ((seconds, "wall", LINES[0]), (cpu, "CPU", LINES[1])):
        total.plot(counts, values, color=colour, linestyle=dash, marker="o", label=f"{name} seconds")
        shares = [value / count for value, count in zip(values, counts, strict=True)]
        each.plot(counts, shares, color=colour, linestyle=dash, marker="o", label=f"{name} seconds")
    total.set(xlabel="pictures in one call", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    each.set(xlabel="pictures in one call", ylabel="seconds for each", xlim=(0, None), ylim=(0, None))
    for axes in (total, each):
        axes.legend()
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=DPI, format="png")
