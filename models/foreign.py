"""One attention layer of a foreign module: its description, our layer over its weights, the inputs of its calls."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .attention import Attention, Kind

CONTEXT_NAMES = ("context", "encoder_hidden_states", "cond", "y", "kv")
MASK_NAMES = ("mask", "attention_mask", "attn_mask", "key_padding_mask")
TOLERANCE = 1e-3
"""Relative: float16 layers differ by less, another computation by more."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A foreign attention layer by attribute paths, as "to_out.0".

    Attributes:
        out: the output projection, a linear layer or a sequence of one and dropout.
        heads: the attribute that holds the number of heads, or the number itself.
        q, k, v: the projections of queries, keys and values; or `kv`, keys and values in one; or `qkv`, all in one.
        norm: what the layer applies to its queries' input first (in self-attention to all of it), if anything.
        q_norm, k_norm: norms of queries and keys behind their projections, of each head or of all heads together.
        context, mask: the parameters of its `forward` for them, if they have unusual names.

    Raises ValueError for another combination of projections.
    """

    out: str
    heads: str | int
    q: str | None = None
    k: str | None = None
    v: str | None = None
    kv: str | None = None
    qkv: str | None = None
    norm: str | None = None
    q_norm: str | None = None
    k_norm: str | None = None
    context: str | None = None
    mask: str | None = None

    def __post_init__(self) -> None:
        given = {name for name in ("q", "k", "v", "kv", "qkv") if getattr(self, name) is not None}
        if given not in ({"q", "k", "v"}, {"q", "kv"}, {"qkv"}):
            raise ValueError(
                f"layer got {', '.join(sorted(given)) or 'no projection'}; expected q, k, v, or q, kv, or qkv."
            )


layer = Layer  # reads well in a call: adapt(net, {CrossAttention: layer(q="to_q", ...)}, ...)


class Rows(nn.Module):
    """Some rows of a fused projection as a linear layer of its own, over the same weights."""

    def __init__(self, fused: nn.Linear, part: int, parts: int) -> None:
        super().__init__()
        size = fused.weight.shape[0] // parts
        self._fused, self._rows = [fused], slice(part * size, (part + 1) * size)  # a list: not a submodule twice

    @property
    def weight(self) -> Tensor:
        """[rows, width], a view."""
        return self._fused[0].weight[self._rows]

    @property
    def bias(self) -> Tensor | None:
        """[rows], a view; None if the fused projection has none."""
        bias = self._fused[0].bias
        return None if bias is None else bias[self._rows]

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., rows]."""
        return nn.functional.linear(x, self.weight, self.bias)


class Normed(nn.Module):
    """A projection with a norm behind it: of each head, unless the norm is as wide as all of them."""

    def __init__(self, projection: nn.Module, norm: nn.Module, heads: int) -> None:
        super().__init__()
        self._parts, self._heads = (projection, norm), heads

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., inner width]."""
        projection, norm = self._parts
        projected: Tensor = projection(x)
        weight = getattr(norm, "weight", None)
        whole = isinstance(weight, Tensor) and weight.numel() == projected.shape[-1]
        normed: Tensor = norm(projected if whole else projected.unflatten(-1, (self._heads, -1)))
        return normed.reshape(projected.shape)


def part(name: str, module: nn.Module, path: str) -> Any:
    """The part of a layer at an attribute path; ValueError, which names the layer, if it is not there."""
    value: Any = module
    for step in path.split("."):
        value = value[int(step)] if step.isdecimal() else getattr(value, step, None)
        if value is None:
            raise ValueError(
                f"The layer {name} ({type(module).__name__}) has no {path!r}, which its description names."
            )
    return value


def attention_over(name: str, module: nn.Module, description: Layer, kind: Kind) -> Attention:
    """Our layer over the weights of a foreign one; ValueError, which names the layer, if a part is not there."""

    def linear(path: str | None) -> Any:
        projection = part(name, module, str(path))
        if not isinstance(getattr(projection, "weight", None), Tensor) or projection.weight.ndim != 2:
            raise ValueError(f"{path!r} of the layer {name} is no linear layer, but {type(projection).__name__}.")
        return projection

    projections: list[Any]
    if description.qkv is not None:
        projections = [Rows(linear(description.qkv), i, 3) for i in range(3)]
    elif description.kv is not None:
        projections = [linear(description.q), *(Rows(linear(description.kv), i, 2) for i in range(2))]
    else:
        projections = [linear(path) for path in (description.q, description.k, description.v)]
    q, k, v = projections
    heads = description.heads if isinstance(description.heads, int) else part(name, module, description.heads)
    if description.norm is not None and not callable(part(name, module, description.norm)):
        raise ValueError(f"{description.norm!r} of the layer {name} is no module that norms its input.")
    inner_width = q.weight.shape[0]
    if type(heads) is not int or heads < 1 or inner_width % heads:
        raise ValueError(
            f"The layer {name} has heads = {heads!r}; expected a divisor of its inner width {inner_width}."
        )
    if description.q_norm is not None:
        q = Normed(q, part(name, module, description.q_norm), heads)
    if description.k_norm is not None:
        k = Normed(k, part(name, module, description.k_norm), heads)
    return Attention.of(q, k, v, part(name, module, description.out), heads=heads, kind=kind)


def inputs(
    name: str,
    module: nn.Module,
    description: Layer,
    forward: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Queries' input, context (None: self-attention) and mask of a foreign layer's call."""
    bound = inspect.signature(forward).bind(*args, **kwargs)
    values = dict(bound.arguments)
    for catch_all in [p.name for p in bound.signature.parameters.values() if p.kind is p.VAR_KEYWORD]:
        values |= values.pop(catch_all, {})
    x = values.pop(next(iter(bound.signature.parameters)))
    context = _take(values, (description.context,) if description.context else CONTEXT_NAMES)
    mask = _take(values, (description.mask,) if description.mask else MASK_NAMES)
    defaults = {p.name: p.default for p in bound.signature.parameters.values()}
    more = [key for key, value in values.items() if value is not None and value is not defaults.get(key)]
    if more or not isinstance(x, Tensor) or x.ndim != 3:
        problem = f"takes {', '.join(more)} too" if more else "does not take queries of shape [batch, query, width]"
        raise ValueError(f"The layer {name} cannot be adapted: it {problem}; say context= or mask= in its description.")
    context = None if context is x else context
    return (part(name, module, description.norm)(x) if description.norm else x), context, _per_head(mask)


def _per_head(mask: Tensor | None) -> Tensor | None:
    """A mask of keys [batch, key], or of pairs [batch, query, key], as it broadcasts to [batch, head, query, key]."""
    if mask is None or mask.ndim > 3:
        return mask
    mask = mask if mask.is_floating_point() else mask.bool()
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None]


def _take(values: dict[str, Any], names: Iterable[str | None]) -> Tensor | None:
    found = [value for value in (values.pop(name, None) for name in names if name) if value is not None]
    return found[0] if found else None


def check_output(name: str, theirs: Any, ours: Tensor | None) -> None:
    """Raise ValueError, which names the layer, unless ours computes what the foreign one does."""
    if not isinstance(theirs, Tensor) or ours is None or theirs.shape != ours.shape:
        raise ValueError(f"The layer {name} cannot be adapted: it does not return [batch, query, width] alone.")
    scale = max(float(theirs.abs().max()), 1e-12)
    if not float((theirs - ours).abs().max()) <= TOLERANCE * scale:
        raise ValueError(
            f"The layer {name} cannot be adapted: its output is not that of softmax(QK^T / sqrt(d)) V over the "
            "described projections (another scale, a bias or a residual inside, a norm that norm=, q_norm= or k_norm= "
            "does not name, heads in another order, a mask of other numbers than those added to scores). Hooks where "
            "its queries and keys are ready still give its scores: attention_scores(query, key)."
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
    fit = f"fit several feature maps ({sorted(found)})" if found else "fit no feature map"
    raise ValueError(
        f"The {queries} queries of the layer {name} {fit} of a latent of {height}x{width}, so its maps have no shape."
    )
