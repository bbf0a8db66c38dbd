"""Draw what the U-Net's training logged: `python -m ebama.training.plot_loss --out FILE.png`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..evaluation import jsonl
from .loop import options_parser
from .stages import STAGES

FIGURES = {
    "mse_0": "t < 250",
    "mse_250": "t < 500",
    "mse_500": "t < 750",
    "mse_750": "t < 1000",
    "grounding": "grounding loss",
}
SMOOTHING = 10  # lines of the log (1,000 steps) that a point of a curve is the mean of


def read(path: Path) -> list[dict[str, float]]:
    """The lines of a stage's log by step; where an interruption made a step twice, the last counts."""
    return sorted({line["step"]: line for line in jsonl.read(path)}.values(), key=lambda line: line["step"])


def smoothed(lines: list[dict[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and running means of a figure, of the lines that have it."""
    steps, values = np.array([(line["step"], line[key]) for line in lines if key in line]).T
    width = min(SMOOTHING, len(values))
    return steps[width - 1 :], np.convolve(values, np.full(width, 1 / width), mode="valid")


def main() -> None:
    """Losses over the steps of the stages that have a log, side by side on one scale."""
    from matplotlib.figure import Figure

    parser = options_parser(main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/training.png"))
    options = parser.parse_args()
    logs = {f"{i}: {stage.title}": options.state / f"{stage.name}.jsonl" for i, stage in enumerate(STAGES, 1)}
    logs = {title: log for title, log in logs.items() if log.is_file()}
    if not logs:
        parser.error(f"{options.state} holds no log of a training: train first, or name its folder with --state")
    figure = Figure(figsize=(2 + 3.5 * len(logs), 4), layout="constrained")
    grid = figure.subplots(1, len(logs), sharey=True, squeeze=False)[0]
    for axis, (title, log) in zip(grid, logs.items(), strict=True):
        lines = read(log)
        for key, label in FIGURES.items():
            if any(key in line for line in lines):
                axis.plot(*smoothed(lines, key), "k--" if key == "grounding" else "-", label=label)
        axis.set(title=f"Stage {title}", xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
    grid[0].set_ylabel(f"mean squared error of epsilon, mean of {SMOOTHING * 100} steps")
    figure.legend(*grid[-1].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
