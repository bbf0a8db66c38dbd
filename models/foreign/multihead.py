"""torch.nn.MultiheadAttention: its projections are bare weights, and its booleans say which keys are not seen."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from .layer import OTHERS, CannotAdaptError


def bare_weights(name: str, module: nn.MultiheadAttention) -> list[tuple[Tensor, Tensor | None]]:
    """Weight [rows, width] and bias [rows] of queries, keys and values."""
    if module.bias_k is not None or module.add_zero_attn:
        option = "add_zero_attn" if module.bias_k is None else "add_bias_kv"
        raise CannotAdaptError(
            f"The layer {name} cannot be adapted: its {option}=True adds a key to those of the context; {OTHERS}."
        )
    fused, bias = module.in_proj_weight, module.in_proj_bias
    apart = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    weights = apart if fused is None else fused.chunk(3)
    return list(zip(weights, (None,) * 3 if bias is None else bias.chunk(3), strict=True))


def keep_forward(module: nn.Module) -> None:
    """Have torch's layer called inside torch's encoder layer, which else passes it by when no gradient is asked for."""
    if isinstance(module, nn.MultiheadAttention):
        module.register_forward_hook(_nothing)  # the encoder layer looks for hooks


def _nothing(module: nn.Module, args: Any, out: Any) -> None:
    """A hook that does nothing."""


def swapped(module: Any, x: Tensor) -> Tensor:
    """x as [batch, token, width], or back, where torch's layer has it as [token, batch, width] (batch_first=False)."""
    return x.transpose(0, 1) if isinstance(module, nn.MultiheadAttention) and not module.batch_first else x


def pop_mask(values: dict[str, Any], heads: int) -> Tensor | None:
    """Its two masks, taken out of the arguments of a call, as one that broadcasts to [batch, head, query, key]."""
    padding, pairs = values.pop("key_padding_mask", None), values.pop("attn_mask", None)
    values.pop("is_causal", None)  # says what attn_mask holds
    masks = [] if padding is None else [padding[:, None, None]]
    if pairs is not None:  # [query, key] or [batch * head, query, key]
        masks.append(pairs[None, None] if pairs.ndim == 2 else pairs.unflatten(0, (-1, heads)))
    if all(mask.dtype == torch.bool for mask in masks):
        return ~functools.reduce(torch.logical_or, masks) if masks else None
    dtype = next(mask.dtype for mask in masks if mask.dtype != torch.bool)
    return sum(_added(mask, dtype) for mask in masks)  # type: ignore[return-value]


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What a mask adds to scores."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
