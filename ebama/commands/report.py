"""`report`: the table and the page of a run again, from its scores.jsonl."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import path

if TYPE_CHECKING:
    from .arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("report", help="make table and report.html of an evaluation again, from scores.jsonl")
    parser.add_argument("folder", type=path, help="what `evaluate --out` or `--score-only` named")
    parser.add_argument("--against", metavar="METHOD", default="sd", help="what differences are to (default: sd)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    show(options.folder, options.against)


def show(folder: Path, baseline: str = "sd") -> None:
    """Write table and page of a folder; print the table, and where the page lies."""
    from ..evaluation.report.tables import write

    print(write(folder, baseline))
    print(folder / "report.html")
