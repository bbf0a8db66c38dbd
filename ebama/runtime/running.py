"""Where networks run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .arithmetic import usable_arithmetic
from .exhaustion import is_exhausted


class OutOfMemory(MemoryError):
    """Memory ran out, and the message says what to lower."""


@contextmanager
def running(weight: Tensor, advice: Callable[[], str]) -> Iterator[None]:
    """A context for networks of this weight's device and dtype: without gradients unless they are asked for, half
    precision at a usable speed, and `advice` as the error where memory runs out."""
    # Not in a caller's inference mode, where the gradients that methods follow could not exist.
    with torch.inference_mode(False), torch.no_grad(), usable_arithmetic(weight.device, weight.dtype):
        try:
            yield
        except Exception as error:
            if isinstance(error, OutOfMemory) or not is_exhausted(error):
                raise
            raise OutOfMemory(advice()) from error
