"""`bench`: what the library costs on this machine, alone or beside diffusers."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from .arguments import path, positive

if TYPE_CHECKING:
    from .arguments import Commands

_MOST_THREADS = 1024


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("bench", help="measure what the library costs on this machine: time, FLOPs, memory")
    parser.add_argument("--only", metavar="CASE,...", help="forward, guided, images:sd, batch:32 ...; default: all")
    parser.add_argument("--full", action="store_true", help="full-size SD v1 of random weights (minutes, 4 GB of disk)")
    parser.add_argument("--repeat", type=positive, default=5, metavar="N", help="rounds of each case (default 5)")
    parser.add_argument("--against", choices=["diffusers"], help="measure its Attend-and-Excite in turn with ours")
    parser.add_argument("--steps", type=positive, default=50, help="of whole pictures (default 50)")
    parser.add_argument("--threads", type=positive, help="of PyTorch; default: its own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--json", type=path, metavar="FILE", help="write all figures, after every case")
    parser.add_argument("--plot", type=path, metavar="FILE", help="draw what the cases batch:N cost")
    parser.add_argument("--read", type=path, metavar="FILE", help="measure nothing; take the figures of a --json file")
    parser.set_defaults(run=_run, usual=vars(parser.parse_args([])))


def _run(options: argparse.Namespace) -> None:
    from ..bench.cases import Setting
    from ..bench.report import Report
    from ..bench.run import bench
    from ..output.files import check_file

    changed = {name: value for name, value in vars(options).items() if options.usual.get(name, value) != value}
    if options.plot and options.plot.suffix != ".png":
        raise ValueError(f"--plot draws a PNG; {options.plot} should end in .png.")
    if options.plot:
        check_file(options.plot)
    if options.read:
        if given := [f"--{name}" for name in changed if name not in ("read", "plot")]:
            raise ValueError(f"--read measures nothing: leave out {', '.join(given)}.")
        report = Report.load(options.read)
    else:
        cases = [case for case in (options.only or "").split(",") if case]
        if options.plot and sum(case.startswith("batch") for case in cases or ["batch"] * 2) < 2:
            raise ValueError(f"--plot needs several batches; {options.only} are measured. Try --only batch:1,batch:8.")
        if options.json:
            check_file(options.json)
        if (options.threads or 1) > _MOST_THREADS:
            raise ValueError(f"--threads is {options.threads}; expected at most {_MOST_THREADS:,}.")
        words = ["train_free.py", "bench", *(["--full"] if options.full else [])]
        for name in ("only", "against", "repeat", "threads", "steps", "device", "dtype"):
            words += [f"--{name}", str(changed[name])] if name in changed else []
        report = bench(
            cases,
            Setting("", device=options.device, dtype=options.dtype, threads=options.threads, steps=options.steps),
            full=options.full,
            repeat=options.repeat,
            against=options.against,
            json=options.json,
            command=shlex.join(words),
        )
    print(report.markdown())
    if options.plot:
        report.draw(options.plot)
        print(options.plot)
