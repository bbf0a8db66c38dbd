"""A second device without its hardware: a tensor class that lives there and refuses to meet tensors of the CPU.

`with second_device():` makes the device `SECOND` real: what is created or moved there computes on the CPU's memory, but
no operation takes tensors of both. Only what says so crosses over: `.to(device)`, `.cpu()`, `.item()` and their like,
and single numbers on the CPU, which every device takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ebama import smoothing

SECOND = torch.device("meta")
"""Besides the CPU the only one that every build of torch can differentiate on."""


class SecondTensor(Tensor):
    """A tensor on the second device; `memory` are its values."""

    memory: Tensor

    @staticmethod
    def __new__(cls: type[SecondTensor], memory: Tensor) -> SecondTensor:
        facts = {"strides": memory.stride(), "storage_offset": memory.storage_offset(), "dtype": memory.dtype}
        tensor = Tensor._make_wrapper_subclass(cls, memory.shape, device=SECOND, **facts)  # type: ignore[attr-defined]
        tensor.memory = memory
        return tensor  # type: ignore[no-any-return]

    def __repr__(self, **_: Any) -> str:
        return f"SecondTensor({self.memory})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # results have no class but their own

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return compute(func, args, kwargs or {})


class _Lists(TorchFunctionMode):
    """Lists of numbers, of which torch makes meta tensors without asking anyone, become tensors on the CPU first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], SecondTensor):
            args = args[0], tree_map(_index, args[1], is_leaf=lambda value: isinstance(value, list)), *args[2:]
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            device = kwargs.pop("device", None)
            return func(*args, **kwargs).to(device or "cpu")
        if func is Tensor.tolist:
            return func(args[0].cpu())
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Run an operation where its tensors are, or where `device` says; RuntimeError if they are in two places."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, SecondTensor)]
    strangers = [tensor for tensor in tensors if not isinstance(tensor, SecondTensor) and tensor.ndim]
    if there and strangers:
        raise RuntimeError(f"{func} got tensors of two devices: {SECOND} and {strangers[0].device}.")
    if there and func.namespace == "ebama":  # as on any device without a kernel of its own
        with _Operations():
            return smoothing._peak(*args, **kwargs)
    device = kwargs.get("device")
    target = SECOND if there and device is None else device
    kwargs = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
    memory = {id(tensor.memory): tensor for tensor in there}  # an operation in place gives the same tensor back
    out = func(*tree_map(_memory, args), **tree_map(_memory, kwargs))
    if there and torch.Tag.inplace_view in func.tags:  # squeeze_ and the like change the shape of what they were given
        with no_dispatch():
            func(*args, **kwargs)
    if target is None or torch.device(target).type != SECOND.type:
        return out
    return tree_map(lambda value: memory[id(value)] if id(value) in memory else _there(value), out)


def _index(value: Any) -> Any:
    return torch.tensor(value).to(SECOND) if isinstance(value, list) else value


def _memory(value: Any) -> Any:
    return value.memory if isinstance(value, SecondTensor) else value


def _there(value: Any) -> Any:
    return SecondTensor(value) if isinstance(value, Tensor) else value


class _Autocast(torch.autocast):
    """Which knows no meta device, even where it is switched off."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == SECOND.type else device_type, *args, **kwargs)


@contextmanager
def second_device() -> Iterator[torch.device]:
    with pytest.MonkeyPatch.context() as patch, _Lists(), _Operations():
        patch.setattr(torch, "autocast", _Autocast)
        yield SECOND
