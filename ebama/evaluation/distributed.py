"""One process or, under `torchrun`, one of several that share the work."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch import distributed

from ..checks import expect, one_line

_PATIENCE = 5  # seconds


@contextmanager
def workers() -> Iterator[tuple[int, int]]:
    """(rank, number of processes); joins the others with torch.distributed when `torchrun` has started several."""
    count = _number("WORLD_SIZE", "1")
    if count == 1:
        yield 0, 1
        return
    rank = _number("RANK", "")
    expect("RANK", rank, 0 <= rank < count, f"one of 0 to {count - 1}, as WORLD_SIZE is {count}")
    # gloo on GPUs too: the processes only wait for each other, and nccl would keep a waiting GPU busy. Some may have
    # much more to do than others.
    try:
        _wait(
            lambda: distributed.init_process_group("gloo", timeout=timedelta(days=1)),
            f"the other processes of this run (WORLD_SIZE is {count})",
        )
    except (ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"The {count} processes of this run cannot meet ({one_line(error)}); torchrun sets MASTER_ADDR and "
            "MASTER_PORT for them, or nobody sets WORLD_SIZE."
        ) from error
    try:
        yield distributed.get_rank(), count
    except Exception:  # not Stopped, at which a thread may still wait in the group
        distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()


def barrier() -> None:
    """Wait for the other processes, if there are any; ConnectionError if one of them has ended instead."""
    if not distributed.is_initialized():
        return
    try:
        _wait(distributed.barrier, "the other processes of this run to end their parts")
    except RuntimeError as error:
        raise ConnectionError(
            "Another process of this run has ended. What was made is kept: the same command makes the rest."
        ) from error


def _wait(join: Callable[[], object], purpose: str) -> None:
    """Do what waits for other processes, and say so where it takes long. It waits in another thread: in the middle of a
    library no signal reaches Python."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            join()
        except Exception as error:
            errors.append(error)

    thread, began, is_told = threading.Thread(target=run, daemon=True), time.monotonic(), False
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        if not is_told and time.monotonic() > began + _PATIENCE:
            print(f"waiting for {purpose}", file=sys.stderr, flush=True)
            is_told = True
    if errors:
        raise errors[0]


def _number(name: str, default: str) -> int:
    """What `torchrun` says in the environment; ValueError for what is no number."""
    text = os.environ.get(name) or default
    is_number = text.strip().removeprefix("-").isdecimal()
    return int(expect(name, text, is_number, "a whole number, as torchrun sets it, or no WORLD_SIZE"))


def own_place() -> int:
    """Which of the processes that `torchrun` started on a machine this is, from 0."""
    return _number("LOCAL_RANK", "0")


def own_device(device: str) -> str:
    """Where this process computes: "cuda" becomes "cuda:I" in the I-th process that `torchrun` started on a machine."""
    index = os.environ.get("LOCAL_RANK")
    return f"{device}:{index}" if device == "cuda" and index is not None else device
