"""`bench`: what the library costs on this machine, alone or beside diffusers."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import positive

if TYPE_CHECKING:
    from .arguments import Commands


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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, after every case")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="write the table between the markers of a page")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what the cases batch:N cost")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing; take the figures of a --json file")
    parser.set_defaults(run=_run, usual=vars(parser.parse_args([])))


def _run(options: argparse.Namespace) -> None:
    from ..bench.report import Report, rewrite
    from ..bench.run import Plan, bench
    from ..output.naming import check_writable

    if options.plot and options.plot.suffix != ".png":
        raise ValueError(f"--plot draws a PNG; {options.plot} should end in .png.")
    if options.read:
        measuring = (name for name in options.usual if name not in ("read", "markdown", "plot"))
        if given := [name for name in measuring if getattr(options, name) != options.usual[name]]:
            raise ValueError(f"--read measures nothing: leave out {', '.join(f'--{name}' for name in given)}.")
        report = Report.load(options.read)
        if options.markdown:
            rewrite(options.markdown, report.model, report.markdown())
    else:
        cases = [case for case in (options.only or "").split(",") if case]
        if options.plot and sum(case.startswith("batch") for case in cases or ["batch"] * 2) < 2:
            raise ValueError(f"--plot needs several batches; {options.only} are measured. Try --only batch:1,batch:8.")
        if options.json:
            check_writable(options.json.parent)
        plan = Plan(
            cases=cases,
            command=_measuring(options),
            **{
                name: getattr(options, name)
                for name in ("full", "repeat", "against", "device", "dtype", "threads", "steps", "json", "markdown")
            },
        )
        report = bench(plan)
    print(report.table())
    if options.plot:
        from ..bench.plot import draw

        draw(report, options.plot)
        print(options.plot)


def _measuring(options: argparse.Namespace) -> str:
    """The command again, without where its results go."""
    words = ["train_free.py", "bench", *(["--full"] if options.full else [])]
    for name in ("only", "against", "repeat", "threads", "steps", "device", "dtype"):
        value = getattr(options, name)
        if value != options.usual[name]:
            words += [f"--{name}", str(value)]
    return shlex.join(words)
