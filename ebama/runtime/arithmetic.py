"""float16 and bfloat16 weights on processors that have no arithmetic for them.

PyTorch then multiplies half precision matrices number by number, a hundred times slower than float32 ones. Inside
`usable_arithmetic` such products are taken in float32 and rounded to the precision that they would have had: weights
keep their half size in memory, and a layer's float32 copy lives as long as its product takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_PRODUCTS = frozenset(
    (
        F.linear,
        F.conv2d,
        F.scaled_dot_product_attention,
        torch.matmul,
        torch.bmm,
        Tensor.matmul,
        Tensor.__matmul__,
        Tensor.bmm,
    )
)


def usable_arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which networks of this dtype run at a usable speed on this device: often one that does nothing."""
    if device.type != "cpu" or dtype not in (torch.float16, torch.bfloat16) or has_arithmetic(dtype):
        return nullcontext()
    return _Float32Products(dtype)


def has_arithmetic(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies matrices of float16 or bfloat16, as far as PyTorch knows."""
    kind = {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
    # PyTorch has no public name for this; without it half precision counts as slow, and is computed in float32.
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported", None)
    return supported is not None and bool(supported())


class _Float32Products(TorchFunctionMode):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function not in _PRODUCTS or not any(self._is_half(value) for value in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        result = function(*map(self._widened, args), **{name: self._widened(value) for name, value in kwargs.items()})
        return result.to(self._dtype)

    def _is_half(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.dtype == self._dtype

    def _widened(self, value: Any) -> Any:
        return value.float() if self._is_half(value) else value
