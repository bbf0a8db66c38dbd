"""The run of the command `bench`: cases one by one, every figure kept as soon as there is one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from ebama.weights import load, save

from .. import methods
from ..output.files import is_replaceable
from ..runtime.allocator import keep_freed_memory
from . import cases, diffusers_baseline
from .cases import CASES, Setting, expanded
from .checkpoints import random_model
from .meter import Meter, Stop
from .processes import Child
from .report import Measured, Report, machine

_MINIATURE_ONLY = ("images", "batch")
_WEIGHTLESS = ("import", "smoothing")


def bench(
    chosen: Sequence[str],
    conditions: Setting,
    *,
    full: bool = False,
    repeat: int = 5,
    against: str | None = None,
    json: Path | None = None,
    command: str = "train_free.py bench",
) -> Report:
    """Measure these cases (all, if none is chosen), print each as it is done, and write all figures to `json`.

    Of the `conditions`, case, side and weights are replaced. `against` is "diffusers" or None.
    Raises ValueError for cases that there are not, a missing diffusers or a case that fails.
    """
    default = [name for name in CASES if not (full and name in (*_MINIATURE_ONLY, *_WEIGHTLESS))]
    names = expanded(chosen or default, methods.names())
    for case in names:
        if full and case.partition(":")[0] in _MINIATURE_ONLY:
            raise ValueError(f"{case} is measured on the miniature only; leave out --full or {case}.")
    here = machine()
    if against:
        here["diffusers"] = diffusers_baseline.available()
    report = Report("full" if full else "miniature", command, here, ())
    with tempfile.TemporaryDirectory() as folder:
        weights = None  # the embedded miniature, unless both sides shall read the same files
        if (full or against) and any(case.partition(":")[0] not in _WEIGHTLESS for case in names):
            weights = f"{folder}/model"
            save(random_model() if full else load(), weights)
        for case in names:
            sides = ["ours", *([against] if against and diffusers_baseline.has(case) else [])]
            print(f"{case}...", end="", file=sys.stderr, flush=True)
            measured = measure(replace(conditions, case=case, weights=weights), sides, repeat)
            print("".join(f" {m.side} {m.seconds:.3g} s" for m in measured), file=sys.stderr, flush=True)
            report = replace(report, measured=(*report.measured, *measured))
            if json and (is_replaceable(json) or case == names[-1]):  # a pipe is told once
                report.save(json)
    return report


def measure(setting: Setting, sides: Sequence[str], repeat: int) -> list[Measured]:
    """One case of these sides, a process for each: they are set up and warmed in turn, then `repeat` rounds alternate,
    so that whatever else the machine does hits both."""
    children, gflops = [], []
    with ExitStack() as stack:
        for side in sides:
            child = Child(f"case {setting.case} ({side})", _measure_here, replace(setting, side=side))
            children.append(stack.enter_context(child))
            gflops.append(child.answer())  # warm, before the next one starts
        rounds = [[child.ask(True) for child in children] for _ in range(repeat)]
        ends = [child.ask(False) for child in children]
    columns = zip(sides, zip(*rounds, strict=True), gflops, ends, strict=True)
    return [Measured(setting.case, side, mine, gflop, *end) for side, mine, gflop, end in columns]


def _measure_here(pipe: Connection, setting: Setting) -> None:
    """The work of a process: rounds as the meter says, at the end the peak of memory in MiB and PyTorch's threads."""
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    if setting.side == "ours":
        keep_freed_memory()  # as the command line does
    side = cases if setting.side == "ours" else diffusers_baseline
    matmul = 1024 if setting.device == "cpu" else 8192
    meter = Meter(pipe, torch.device(setting.device), getattr(torch, setting.dtype), matmul)
    try:
        side.CASES[setting.name](setting, meter)
    except Stop:
        pipe.send((None if setting.name == "import" else meter.peak(), torch.get_num_threads()))
