"""Freed memory that is kept for the next pass."""

from __future__ import annotations

import ctypes

# Of malloc.h in glibc, with the most that its `int` holds.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _MOST = -1, -3, 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask glibc to reuse freed blocks instead of returning them. Returns whether it agreed.

    By default it returns blocks of more than 32 MiB to the system. A pass on the CPU takes many such blocks (oneDNN
    reorders the weights of each convolution into one), and the system clears every page of them anew: a tenth of the
    time. The price is that a process stays as large as it was at its peak. The command line does this; your own program
    has to call it, since it holds for the whole process. Other C libraries have no such switch: False.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc; TypeError: Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MOST)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
