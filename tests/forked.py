"""The command line in a copy of the running process: a process of its own, which need not import anything anew."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from ebama.cli import main

Program = Callable[[Sequence[str]], int]


def forked(arguments: Sequence[str], shown: Path, program: Program = main) -> BaseProcess:
    """One command, begun; what it prints goes to the files `shown`.out and `shown`.err."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(arguments, shown, program))
    process.start()
    return process


def _run(arguments: Sequence[str], shown: Path, program: Program) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # ignored if the tests run in the background
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{shown}.{name}", os.O_WRONLY | os.O_CREAT), stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # not pytest's
    sys.exit(program(arguments))
