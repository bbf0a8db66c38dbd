"""The command line: one parser, one way to report errors; what there is to do lies in `commands`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn, TextIO

from . import __version__
from .checks import one_line
from .commands import COMMANDS
from .runtime.allocator import keep_freed_memory
from .runtime.exhaustion import is_exhausted
from .runtime.stops import raised_stops
from .runtime.streams import lasting_output


class _Parser(argparse.ArgumentParser):
    """Errors are one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows what there is)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it worked, 2 with one line on stderr for bad input, 130 when interrupted."""
    with lasting_output() as output, warnings.catch_warnings(), raised_stops() as stops:
        warnings.showwarning = _show_warning
        try:
            options = _parser().parse_args(arguments)
            _check_surroundings()
            os.umask(os.umask(0o077) & 0o077)  # what this writes it can read, whatever the environment says
            keep_freed_memory()
            options.run(options)
            output.flush()
            stops.ended = True
        except (Exception, KeyboardInterrupt) as error:
            stops.ended = True
            if stops or isinstance(error, KeyboardInterrupt):
                print("interrupted; files that were finished are kept", file=sys.stderr)
                return stops[0].code if stops else 130
            if (line := _line(error)) is None:
                raise
            print(f"error: {line}", file=sys.stderr)
            return 2
        if output.error is not None:
            print(f"error: standard output could not be written ({output.error})", file=sys.stderr)
            return 2
    return 0


def _check_surroundings() -> None:
    """Raise ValueError if the working folder was deleted, where libraries of torch end the process, or if the
    environment asks of progress bars what cannot be."""
    from .runtime import progress  # noqa: F401 (which looks at the environment as it is imported)

    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ValueError("The folder in which this was started has been deleted; change to another.") from error


def _line(error: Exception) -> str | None:
    """What an error says, in one line; None for a mistake in the program, whose traceback should be seen."""
    text = one_line(error)
    if is_exhausted(error):
        return text if isinstance(error, MemoryError) and text else f"Memory ran out. {text}".strip()
    is_expected = isinstance(error, ValueError | OSError | ArithmeticError | Warning)
    return (text or type(error).__name__) if is_expected else None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="train_free.py", description="Training-free guidance of text-to-image models by attention.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=sys.stderr)
