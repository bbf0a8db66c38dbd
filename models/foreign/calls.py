"""The call of a foreign attention layer: its inputs, what it returns against ours, and the shape of its maps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .layer import OTHERS, CannotAdaptError, Layer
from .multihead import pop_mask, swapped
from .projections import part

CONTEXT_NAMES = ("context", "encoder_hidden_states", "cond", "y", "kv", "key", "k")
VALUE_NAMES = ("value", "v")
"""Of the values' input, where it is an argument apart: that of the keys."""
MASK_NAMES = ("mask", "attention_mask", "attn_mask", "key_padding_mask")
WEIGHTS_NAMES = ("need_weights", "average_attn_weights", "output_attentions")
"""Whether a layer returns its probabilities, too."""
TOLERANCE = 1e-3
"""Relative: float16 layers differ by less, another computation by more; those of bfloat16 by some of its steps."""


@contextmanager
def refusing(problem: str) -> Iterator[None]:
    """Whatever fails inside is a ValueError that says the problem."""
    try:
        yield
    except CannotAdaptError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [""]
        raise CannotAdaptError(f"{problem} ({type(error).__name__}: {lines[0]}).") from error


class Inputs(NamedTuple):
    """Of a layer's call: its first argument as it came, the queries' input [batch, query, width], normed where the
    layer does so, the context [batch, key, width] (None: self-attention) and a mask."""

    given: Tensor
    x: Tensor
    context: Tensor | None
    mask: Tensor | None


def inputs(
    name: str,
    module: nn.Module,
    description: Layer,
    forward: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Inputs:
    """Those of a foreign layer's call."""
    bound = inspect.signature(forward).bind(*args, **kwargs)
    values = dict(bound.arguments)
    for catch_all in [p.name for p in bound.signature.parameters.values() if p.kind is p.VAR_KEYWORD]:
        values |= values.pop(catch_all, {})
    x = values.pop(next(iter(bound.signature.parameters)))
    context = _take(values, (description.context,) if description.context else CONTEXT_NAMES)
    if isinstance(module, nn.MultiheadAttention):
        mask = pop_mask(values, module.num_heads)
    else:
        mask = _take(values, (description.mask,) if description.mask else MASK_NAMES)
    _take(values, WEIGHTS_NAMES)
    defaults = {p.name: p.default for p in bound.signature.parameters.values()}
    more = [
        key
        for key, value in values.items()
        if value is not None and value is not defaults.get(key) and not (key in VALUE_NAMES and value is context)
    ]
    if more:
        raise CannotAdaptError(
            f"The layer {name} cannot be adapted: it takes {', '.join(more)} too. If that is its context or mask, say "
            f"context= or mask= in its description; otherwise {OTHERS}."
        )
    if not isinstance(x, Tensor) or x.ndim not in (3, 4):
        given = f"of shape {list(x.shape)}" if isinstance(x, Tensor) else f"as {type(x).__name__}"
        raise CannotAdaptError(
            f"The layer {name} cannot be adapted: it gets its queries' input {given}; expected [batch, query, width] "
            f"or [batch, width, h, w]. Describe the module inside it that attends to these, or {OTHERS}."
        )
    context = None if context is x or context is None else swapped(module, context)
    norm = part(name, module, description.norm) if description.norm else nn.Identity()
    if x.ndim == 3:
        rows = norm(swapped(module, x))
    else:  # the norms of torch that have a normalized_shape are of rows, others of maps
        rows = norm(x.flatten(2).mT) if hasattr(norm, "normalized_shape") else norm(x).flatten(2).mT
    return Inputs(x, rows, context, _per_head(name, mask, rows))


def as_given(module: Any, description: Layer, out: Tensor, given: Tensor) -> Tensor:
    """Ours, [batch, query, width], laid out as the layer's input, which is added where the layer does so."""
    out = out.mT.unflatten(-1, given.shape[-2:]) if given.ndim == 4 else swapped(module, out)
    return out + given if description.residual else out


def _per_head(name: str, mask: Tensor | None, x: Tensor) -> Tensor | None:
    """A mask of keys [key] or [batch, key], or of pairs [query, key] or [batch, query, key], as it broadcasts to
    [batch, head, query, key]."""
    if mask is None:
        return None
    mask = mask if mask.is_floating_point() else mask.bool()
    mask = mask[None] if mask.ndim == 1 else mask
    if mask.ndim == 2 and len(mask) == x.shape[1] != len(x):
        return mask
    if len(mask) not in (1, len(x)):
        raise CannotAdaptError(
            f"The layer {name} cannot be adapted: it got a mask of shape {list(mask.shape)} in a batch of {len(x)}; "
            "what differs between samples must travel in the context."
        )
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask


def _take(values: dict[str, Any], names: Iterable[str | None]) -> Tensor | None:
    found = [value for value in (values.pop(name, None) for name in names if name) if value is not None]
    return found[0] if found else None


def check_output(name: str, theirs: Any, ours: Tensor, beside: Sequence[Any], pairs: tuple[int, int]) -> None:
    """Raise ValueError, which names the layer, unless ours computes what the foreign one does, which may return its
    probabilities [..., query, key] or None beside it; pairs are (queries, keys)."""
    if not isinstance(theirs, Tensor) or theirs.shape != ours.shape:
        raise CannotAdaptError(f"The layer {name} cannot be adapted: it does not return [batch, query, width] alone.")
    if any(more is not None and getattr(more, "shape", ())[-2:] != pairs for more in beside):
        raise CannotAdaptError(
            f"The layer {name} cannot be adapted: it returns more than [batch, query, width] and probabilities, as "
            "joint attention of text and image does; a class with the three methods of Network serves such networks."
        )
    scale = max(float(theirs.abs().max()), 1e-12)
    tolerance = 4 * torch.finfo(theirs.dtype).eps if theirs.dtype == torch.bfloat16 else TOLERANCE
    if not float((theirs - ours).abs().max()) <= tolerance * scale:
        raise CannotAdaptError(
            f"The layer {name} cannot be adapted: its output is not that of softmax(QK^T / sqrt(d)) V over the "
            "described projections (another scale, rotary positions, a bias, a residual that residual=True does "
            "not say, a norm that norm=, q_norm= or k_norm= does not name, heads in another order, a mask that is no "
            f"argument of its forward, or one of other numbers than those added to scores). So {OTHERS}."
        )


def resolution(name: str, queries: int, height: int, width: int) -> tuple[int, int]:
    """(h, w) of the feature map with that many pixels: the latent's divided by a whole number, rounded either way."""
    found = {
        size
        for factor in range(1, max(height, width) + 1)
        for size in ((height // factor, width // factor), (-(-height // factor), -(-width // factor)))
        if math.prod(size) == queries
    }
    if len(found) == 1:
        return found.pop()
    fit = (
        f"fit several feature maps ({sorted(found)})"
        if found
        else "fit no feature map (registers, a class token or text among the pixels cannot be told apart)"
    )
    raise CannotAdaptError(
        f"The {queries} queries of the layer {name} {fit} of a latent of {height}x{width}, so its maps have no shape; "
        "name the other layers in `layers`."
    )
