"""How much memory is in use: by a process, by tensors on a GPU, and at most while something runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# PyTorch documents this class but has no public name for it.
from torch.utils._python_dispatch import TorchDispatchMode


def held(device: torch.device) -> int:
    """Bytes that are in use now: by the process, or by tensors on a GPU. 0 where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return resident("VmRSS") or 0


def resident(field: str, process: int | str = "self") -> int | None:
    """Bytes of a process in memory, now ("VmRSS") or at most so far ("VmHWM"); None if that is not told."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return None


def peak(work: Callable[[], object], known: Sequence[Tensor]) -> int:
    """The most bytes that the tensors made by `work` held at one time; those of `known` do not count."""
    live = _Live(known)
    with live:
        work()
    return live.most


class _Live(TorchDispatchMode):
    """Sums the storages of what operations return, until they are freed."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes = {tensor.untyped_storage().data_ptr(): 0 for tensor in known}  # by address
        self._now = self.most = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        address = storage.data_ptr()
        if address not in self._sizes:
            self._sizes[address] = storage.nbytes()
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._drop, address)

    def _drop(self, address: int) -> None:
        self._now -= self._sizes.pop(address, 0)
