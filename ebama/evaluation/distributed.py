"""One process or, under `torchrun`, one of several that share the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch import distributed


@contextmanager
def workers(device: str) -> Iterator[tuple[int, int]]:
    """(rank, number of processes); joins the others with torch.distributed when `torchrun` has started several."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield 0, 1
        return
    backend = "nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(days=1))  # others may have much more to do
    try:
        yield distributed.get_rank(), count
    finally:
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if distributed.is_initialized():
        distributed.barrier()
