"""One case in a process of its own: the setting as argument, `go` or `end` on stdin, a JSON line on stdout for each."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

import torch

from ..runtime.allocator import keep_freed_memory
from . import cases
from . import diffusers_baseline as peer
from .meter import Meter, Stop
from .settings import Setting


class _Pipe:
    """Rounds by lines of text."""

    def __init__(self, asked: TextIO, answered: TextIO) -> None:
        self._asked, self._answered = asked, answered
        self._ready = False

    def wait(self) -> bool:
        if not self._ready:
            self._ready = True
            self.report({"ready": True})
        return self._asked.readline().strip() == "go"

    def report(self, values: dict[str, Any]) -> None:
        self._answered.write(json.dumps(values) + "\n")
        self._answered.flush()


def main() -> None:
    """Run the case of sys.argv[1]."""
    setting = Setting.read(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    pipe = _Pipe(sys.stdin, answers)
    if setting.side == "ours":
        keep_freed_memory()  # as the command line does
    side = cases if setting.side == "ours" else peer
    meter = Meter(
        pipe, torch.device(setting.device), getattr(torch, setting.dtype), 1024 if setting.device == "cpu" else 8192
    )
    try:
        side.run(setting, meter)
    except Stop:
        pipe.report({"peak": None if setting.name == "import" else meter.peak(), "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
