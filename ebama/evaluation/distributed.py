"""One process or, under `torchrun`, one of several that share the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch import distributed

from ..checks import expect


@contextmanager
def workers() -> Iterator[tuple[int, int]]:
    """(rank, number of processes); joins the others with torch.distributed when `torchrun` has started several."""
    size = os.environ.get("WORLD_SIZE") or "1"
    is_number = size.strip().removeprefix("-").isdecimal()
    count = int(expect("WORLD_SIZE", size, is_number, "a whole number, as torchrun sets it, or no such variable"))
    if count == 1:
        yield 0, 1
        return
    # gloo on GPUs too: the processes only wait for each other, and nccl would keep a waiting GPU busy. Some may have
    # much more to do than others.
    distributed.init_process_group("gloo", timeout=timedelta(days=1))
    try:
        yield distributed.get_rank(), count
    finally:
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait for the other processes, if there are any; ConnectionError if one of them has ended instead."""
    if not distributed.is_initialized():
        return
    try:
        distributed.barrier()
    except RuntimeError as error:
        raise ConnectionError(
            "Another process of this run has ended. What was made is kept: the same command makes the rest."
        ) from error


def own_device(device: str) -> str:
    """Where this process computes: "cuda" becomes "cuda:I" in the I-th process that `torchrun` started on a machine."""
    index = os.environ.get("LOCAL_RANK")
    return f"{device}:{index}" if device == "cuda" and index is not None else device
