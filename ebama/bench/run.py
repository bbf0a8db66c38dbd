"""What the command `bench` does: cases one by one, every figure kept as soon as there is one."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ebama.weights import load, save

from .. import methods
from . import diffusers_baseline as peer
from .checkpoints import random_model
from .report import Report, check_markers, rewrite
from .runs import Measured, machine, measure
from .settings import CASES, Setting, expanded

_MINIATURE_ONLY = ("images", "batch")
_WEIGHTLESS = ("import", "smoothing")


@dataclass(frozen=True)
class Plan:
    """What to measure and where to put it; `against` is "diffusers" or None."""

    cases: Sequence[str] = ()
    full: bool = False
    repeat: int = 5
    against: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    steps: int = 50
    json: Path | None = None
    markdown: Path | None = None
    command: str = "train_free.py bench"


def bench(plan: Plan) -> Report:
    """Measure, print each case as it is done, and write what the plan wants written.

    Raises ValueError for cases that there are not, a page without markers, a missing diffusers or a case that fails.
    """
    default = [name for name in CASES if not (plan.full and name in (*_MINIATURE_ONLY, *_WEIGHTLESS))]
    cases = expanded(plan.cases or default, methods.names())
    for case in cases:
        if plan.full and case.partition(":")[0] in _MINIATURE_ONLY:
            raise ValueError(f"{case} is measured on the miniature only; leave out --full or {case}.")
    model = "full" if plan.full else "miniature"
    if plan.markdown:
        check_markers(plan.markdown, model)
    here = machine()
    if plan.against:
        here["diffusers"] = peer.available()
    folder = Path(tempfile.mkdtemp())
    try:
        weights = _weights(plan, cases, folder)
        measured: list[Measured] = []
        for case in cases:
            setting = Setting(
                case,
                weights=weights,
                device=plan.device,
                dtype=plan.dtype,
                threads=plan.threads,
                steps=plan.steps,
            )
            sides = ["ours", *([plan.against] if plan.against and peer.has(case) else [])]
            print(f"{case}...", end="", file=sys.stderr, flush=True)
            found = measure(setting, sides, plan.repeat)
            print("".join(f" {m.side} {m.seconds:.3g} s" for m in found), file=sys.stderr, flush=True)
            measured += found
            report = Report(model, plan.command, here, tuple(measured))
            if plan.json:
                report.save(plan.json)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if plan.markdown:
        rewrite(plan.markdown, model, report.markdown())
    return report


def _weights(plan: Plan, cases: Sequence[str], folder: Path) -> str | None:
    """Both sides read the same files; ours alone reads the embedded miniature where that is meant."""
    if all(case.partition(":")[0] in _WEIGHTLESS for case in cases) or not (plan.full or plan.against):
        return None
    save(random_model() if plan.full else load(), folder / "model")
    return str(folder / "model")
