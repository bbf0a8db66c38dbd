"""Build the reference of all public names from their docstrings, or fail: `python docs/reference.py FOLDER`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import get_type_hints

import pdoc

import ebama

PARTS = ("models", "samplers", "weights", "prompt", "guidance", "methods", "trace", "output", "runtime", "evaluation")
HIDDEN = ("app", "bench", "cli", "commands", "kernels", "training", *PARTS)


def modules() -> list[str]:
    """The package, its parts, and their modules: all but commands, `bench` and the recipe of the miniature."""
    own = [info.name for info in pkgutil.iter_modules([str(Path(ebama.__file__).parent)]) if info.name not in HIDDEN]
    names = ["ebama", *(f"ebama.{name}" for name in own)]
    for part in PARTS:
        found = pdoc.extract.walk_specs([f"ebama.{part}"])  # leaves out modules that `__all__` does not name
        package = sys.modules[f"ebama.{part}"]
        inner = [f"ebama.{part}.{info.name}" for info in pkgutil.iter_modules(package.__path__) if not info.ispkg]
        names += [f"ebama.{part}", *(name for name in inner if name not in found)]
    return names


def resolve(names: Sequence[str]) -> None:
    """Look up the types of named tuples' fields, which they keep as text and pdoc would look up in another module.

    A type that would close a circle of imports is among the names of its package.
    """
    for name in names:
        for value in list(vars(importlib.import_module(name)).values()):
            if isinstance(value, type) and hasattr(value, "_fields") and value.__module__.startswith("ebama."):
                package = sys.modules[value.__module__.rpartition(".")[0]]
                value.__new__.__annotations__ = get_type_hints(value, localns=vars(package))


def main(folder: Path) -> None:
    """Write the pages; exit with pdoc's warnings if it has any."""
    names = modules()
    for package in ("ebama", *(f"ebama.{part}" for part in PARTS)):
        for name in getattr(sys.modules[package], "__all__", ()):  # some are imported on demand; pdoc wants them there
            setattr(sys.modules[package], name, getattr(sys.modules[package], name))
    resolve(list(pdoc.extract.walk_specs(names)))
    pdoc.render.configure(docformat="google")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        pdoc.pdoc(*names, output_directory=folder)
    texts = [str(warning.message) for warning in caught if warning.category is UserWarning]
    # A class of tensors inherits names that torch gives to its own class from outside, without a source.
    if problems := [text for text in texts if not text.startswith("Cannot determine where ebama.models.")]:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
