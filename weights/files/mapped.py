"""Reading weights that are mapped from a file: all pages at once, and whether they are finite, at memory's speed.

A mapped weight that is simply read stops at every few pages for the kernel to find the next. For the 4 GB of a whole
checkpoint that takes several times as long as the reading itself.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14
_BLOCK = 1 << 18  # numbers looked at together: few enough to stay in the processor's cache for a second look
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@lru_cache(maxsize=1)
def _madvise() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def populate(weight: Tensor) -> None:
    """Bring all of a mapped weight into memory; nothing happens where the kernel cannot.

    Raises OSError if the file has become shorter or its disk fails, where reading the weight would end the process.
    """
    if sys.platform != "linux" or not weight.nbytes or weight.device.type != "cpu":
        return
    start = weight.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    length = weight.data_ptr() + weight.nbytes - start
    if _madvise()(start, length, _POPULATE_READ) and ctypes.get_errno() == errno.EFAULT:
        raise OSError(errno.EFAULT, os.strerror(errno.EIO))


def is_finite(weight: Tensor) -> bool:
    """Whether no value of a contiguous floating-point CPU tensor is NaN or infinite.

    Told from the bits, exactly and for every floating-point type: as integers, positive numbers are ordered by size
    with infinity and NaN at the end, and so are negative ones without their sign bit.
    """
    size = weight.element_size()
    largest = int(torch.tensor(torch.finfo(weight.dtype).max, dtype=weight.dtype, device="cpu").view(_INTEGERS[size]))
    sign = 1 << 8 * size - 1
    words = weight.reshape(-1).view(_INTEGERS[size]).numpy()
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        if block.max() > largest or block.view(f"u{size}").max() > sign + largest:
            return False
    return True
