"""Errors that mean that memory ran out, whoever raised them."""

from __future__ import annotations

_SIGNS = (
    "out of memory",
    "allocate memory",
    "not enough memory",
    "bad_alloc",
    "could not create a primitive",  # oneDNN's, under a limit of the address space
    "could not create a memory",
    "can't start new thread",
    "failed to map segment",  # a library that is opened
)


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out; this imports nothing, which may be impossible by then."""
    if isinstance(error, RuntimeError | OSError | ImportError | SystemError):
        return any(sign in str(error).lower() for sign in _SIGNS)
    return isinstance(error, MemoryError)
