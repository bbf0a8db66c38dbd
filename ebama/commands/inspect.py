"""`inspect`: say what a checkpoint is and holds."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("inspect", help="say what a checkpoint is and holds, without opening its weights")
    parser.add_argument("checkpoint")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ebama.weights import inspect

    found = inspect(options.checkpoint)
    print(json.dumps(found.as_dict(), indent=2, default=str) if options.json else found)
