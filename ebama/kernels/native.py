"""C files for the CPU, compiled once where there is a compiler and kept in the user's cache folder.

EBAMA_NATIVE=0 in the environment turns them off.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

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


def peak_kernel(real: str) -> Callable[[Tensor, Tensor, Tensor, int], Tensor] | None:
    """peak.c for maps of "float" or "double"."""
    library = load("peak.c", real=real)
    if library is None:
        return None
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    find_peaks = library.peak
    find_peaks.argtypes = (pointer, number, number, number, pointer, pointer, number, pointer)

    def peak(maps: Tensor, vertical: Tensor, horizontal: Tensor, reach: int) -> Tensor:
        maps = maps.contiguous()
        pixels = maps.new_empty(len(maps), dtype=torch.int64)
        weights = vertical.data_ptr(), horizontal.data_ptr()
        if find_peaks(maps.data_ptr(), *maps.shape, *weights, reach, pixels.data_ptr()):
            raise MemoryError(f"no memory to smooth maps of {maps.shape[1]} x {maps.shape[2]} pixels.")
        return pixels

    return peak
