"""Small C files, compiled where there is a compiler, once, and kept in the user's cache folder.

They only make things faster: whoever loads one has a way to do without. EBAMA_NATIVE=0 in the environment keeps all of
them from being compiled and used.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

FLAGS = ("-O3", "-shared", "-fPIC")


def load(name: str, **macros: str) -> ctypes.CDLL | None:
    """The C file of that name beside this one, with these macros; None where that cannot be had, for any reason."""
    source = Path(__file__).with_name(name)
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or os.environ.get("EBAMA_NATIVE") == "0":
        return None
    options = (*FLAGS, *(f"-D{name}={value}" for name, value in macros.items()))
    try:
        made_of = "\n".join((source.read_text(encoding="utf-8"), *options, platform.platform()))
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebama" / "native"
        library = folder / f"{source.stem}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
        if not library.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as unfinished:
                made = Path(unfinished) / library.name
                command = [compiler, *options, str(source), "-o", str(made)]
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
                made.replace(library)
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: there is no home folder
        return None
