"""CUDA files for GPUs of NVIDIA, compiled when they are first needed by NVRTC, which CUDA builds of torch bring along.

torch has a function for this, but it is private and looks for a CUDA toolkit. This one needs NVRTC and the driver.
EBAMA_NATIVE=0 in the environment turns it off.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

THREADS = 128  # in a block
LIBRARIES = ("libnvrtc.so.*", "libnvrtc-*.so.*", "nvrtc64_*.dll")
FOLDERS = ("lib", "*/lib", "*/bin")


@dataclass(frozen=True)
class PeakKernel:
    """peak.cu on one device: the driver's library, context and function, and what tells the stream to use."""

    driver: ctypes.CDLL
    context: ctypes.c_void_p
    function: ctypes.c_void_p
    stream: Callable[[], int]

    def __call__(self, maps: Tensor, vertical: Tensor, horizontal: Tensor, reach: int) -> Tensor:
        """The pixels [n] of the peaks of maps [n, h, w]."""
        (n, h, w), maps = maps.shape, maps.contiguous()
        pixels = maps.new_empty(n, dtype=torch.int64)
        if n == 0:
            return pixels
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        arguments = (
            *(pointer(maps.data_ptr()), integer(h), integer(w)),
            *(pointer(vertical.data_ptr()), pointer(horizontal.data_ptr()), integer(reach)),
            pointer(pixels.data_ptr()),
        )
        addresses = (pointer * len(arguments))(*map(ctypes.addressof, arguments))
        grid, block, shared_memory = (n, 1, 1), (THREADS, 1, 1), 0
        # A thread that has not used the device yet has no context.
        _check(self.driver.cuCtxPushCurrent_v2(self.context))
        try:
            stream = pointer(self.stream())
            launch = self.driver.cuLaunchKernel
            _check(launch(self.function, *grid, *block, shared_memory, stream, addresses, None))
        finally:
            _check(self.driver.cuCtxPopCurrent_v2(ctypes.byref(pointer())))
        return pixels


def peak_kernel(real: str, device: torch.device) -> PeakKernel | None:
    """peak.cu for maps of "float" or "double" on a device; None where it cannot be had, for any reason."""
    if os.environ.get("EBAMA_NATIVE") == "0" or torch.version.cuda is None:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    try:
        code = compile_source("peak.cu", f"sm_{major}{minor}", real=real, THREADS=str(THREADS))
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        index = torch.cuda.current_device() if device.index is None else device.index
        return load(driver, index, code, lambda: torch.cuda.current_stream(device).cuda_stream)
    except (OSError, RuntimeError):
        return None


def load(driver: ctypes.CDLL, index: int, code: bytes, stream: Callable[[], int]) -> PeakKernel:
    """The kernel in compiled code, loaded onto device number `index`, in the context that torch uses there."""
    context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), index))
    _check(driver.cuCtxPushCurrent_v2(context))
    try:
        _check(driver.cuModuleLoadData(ctypes.byref(module), code))
        _check(driver.cuModuleGetFunction(ctypes.byref(function), module, b"peak"))
    finally:
        _check(driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p())))
    return PeakKernel(driver, context, function, stream)


def compile_source(name: str, architecture: str, **macros: str) -> bytes:
    """Machine code (CUBIN) of a CUDA file beside this one for an architecture such as "sm_80", with these macros.

    Raises:
        OSError: if there is no NVRTC.
        RuntimeError: if NVRTC refuses the file, with what it says.
    """
    nvrtc, program, size = _nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    source = Path(__file__).with_name(name).read_bytes()
    options = [f"--gpu-architecture={architecture}", *(f"-D{macro}={value}" for macro, value in macros.items())]
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None))
    try:
        if nvrtc.nvrtcCompileProgram(program, len(options), encoded):
            _check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
            log = ctypes.create_string_buffer(size.value)
            _check(nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"NVRTC cannot compile {name} for {architecture}: {log.value.decode()}")
        _check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        code = ctypes.create_string_buffer(size.value)
        _check(nvrtc.nvrtcGetCUBIN(program, code))
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _nvrtc() -> ctypes.CDLL:
    """NVRTC from the system's libraries, from torch's, or from NVIDIA's packages."""
    version = (torch.version.cuda or "12").partition(".")[0]
    package = importlib.util.find_spec("nvidia")
    roots = [Path(torch.__file__).parent, *map(Path, (package and package.submodule_search_locations) or ())]
    files = [path for root in roots for place in product(FOLDERS, LIBRARIES) for path in root.glob("/".join(place))]
    for name in (f"libnvrtc.so.{version}", *(str(path) for path in files if "builtins" not in path.name)):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise OSError("there is no NVRTC; CUDA builds of torch bring it, or: pip install nvidia-cuda-nvrtc-cu12")


def _check(result: int) -> None:
    """Raise a RuntimeError unless a call of the driver or of NVRTC succeeded."""
    if result:
        raise RuntimeError(f"CUDA reports error {result}.")
