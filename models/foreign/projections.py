"""Ours over the weights of a foreign attention layer: projections that are parts, normed or shared by several heads."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ..attention import Attention, Kind
from .layer import CannotAdaptError, Layer
from .multihead import bare_weights


class Rows(nn.Module):
    """Some rows of a fused projection as a linear layer over the same weights."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: slice = slice(None)) -> None:
        super().__init__()
        self.weight, self.bias = weight[rows], None if bias is None else bias[rows]  # views

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., rows]."""
        return nn.functional.linear(x, self.weight, self.bias)


class Part(nn.Module):
    """Some of what a projection returns that is fused, or a convolution of single pixels, and does more than its
    weights say, as one that is being fine-tuned."""

    def __init__(self, projection: nn.Module, rows: slice) -> None:
        super().__init__()
        self._projection, self._rows = [projection], rows

    @property
    def weight(self) -> Tensor:
        """[rows, width], without what the projection adds."""
        return self._whole.flatten(1)[self._rows]

    @property
    def _whole(self) -> Tensor:
        return self._projection[0].weight  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., rows]."""
        pixel = (1,) * (self._whole.ndim - 2)
        returned: Tensor = self._projection[0](x.reshape(-1, x.shape[-1], *pixel) if pixel else x)
        return returned.reshape(*x.shape[:-1], -1)[..., self._rows]


class Normed(nn.Module):
    """A projection with a norm behind it: of each head, unless the norm is as wide as all of them."""

    def __init__(self, projection: nn.Module, norm: nn.Module, heads: int) -> None:
        super().__init__()
        self._parts, self._heads = (projection, norm), heads
        shape = getattr(norm, "normalized_shape", ())
        self._widths = {parameter.numel() for parameter in norm.parameters()} | {*shape[-1:]}

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., inner width]."""
        projection, norm = self._parts
        projected: Tensor = projection(x)
        whole = projected.shape[-1] in self._widths
        normed: Tensor = norm(projected if whole else projected.unflatten(-1, (self._heads, -1)))
        return normed.reshape(projected.shape)


class Repeated(nn.Module):
    """A projection to fewer heads, each of which serves `times` heads of the queries in a row."""

    def __init__(self, projection: nn.Module, heads: int, times: int) -> None:
        super().__init__()
        self._projection, self._heads, self._times = [projection], heads, times

    @property
    def weight(self) -> Tensor:
        """[inner width, width], where the projection alone has one."""
        return self._repeated(self._projection[0].weight, 0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., inner width]."""
        return self._repeated(self._projection[0](x), x.ndim - 1)

    def _repeated(self, of_heads: Tensor, dim: int) -> Tensor:
        """The heads along a dimension, each as often as it serves."""
        heads: Tensor = of_heads.unflatten(dim, (self._heads, -1))
        return heads.repeat_interleave(self._times, dim).flatten(dim, dim + 1)


def part(name: str, module: nn.Module, path: str) -> Any:
    """The part of a layer at an attribute path; ValueError, which names the layer, if it is not there."""
    value: Any = module
    for step in path.split("."):
        value = value[int(step)] if step.isdecimal() else getattr(value, step, None)
        if value is None:
            raise CannotAdaptError(
                f"The layer {name} ({type(module).__name__}) has no {path!r}, which its description names."
            )
    return value


def attention_over(name: str, module: nn.Module, description: Layer, kind: Kind) -> Attention:
    """Our layer over the weights of a foreign one; ValueError, which names the layer, if a part is not there."""
    out = part(name, module, description.out)
    q, k, v = _projections(name, module, description, out)
    heads = description.heads if isinstance(description.heads, int) else part(name, module, description.heads)
    if description.norm is not None and not callable(part(name, module, description.norm)):
        raise CannotAdaptError(f"{description.norm!r} of the layer {name} is no module that norms its input.")
    inner_width, key_width = q.weight.shape[0], k.weight.shape[0]
    if type(heads) is not int or heads < 1 or inner_width % heads:
        raise CannotAdaptError(
            f"The layer {name} has heads = {heads!r}; expected a divisor of its inner width {inner_width}."
        )
    key_heads, rest = divmod(key_width * heads, inner_width)  # fewer than the queries' in grouped-query attention
    if rest or not key_heads or heads % key_heads or v.weight.shape[0] % key_heads:
        raise CannotAdaptError(
            f"The layer {name} has keys of width {key_width} and values of width {v.weight.shape[0]}; with heads = "
            f"{heads} of width {inner_width // heads}, expected as many heads, or a divisor of them for each."
        )
    if description.q_norm is not None:
        q = Normed(q, part(name, module, description.q_norm), heads)
    if description.k_norm is not None:
        k = Normed(k, part(name, module, description.k_norm), key_heads)
    if key_heads != heads:
        k, v = (Repeated(projection, key_heads, heads // key_heads) for projection in (k, v))
    if _is_convolution(out):
        out = _rows(out)
    return Attention.of(q, k, v, out, heads=heads, kind=kind)


def _projections(name: str, module: nn.Module, description: Layer, out: Any) -> tuple[Any, Any, Any]:
    """Of queries, keys and values, each with a `weight` [rows, width]."""

    def known(path: str | None) -> Any:
        projection = part(name, module, str(path))
        weight = getattr(projection, "weight", None)
        if not isinstance(weight, Tensor) or not (weight.ndim == 2 or _is_convolution(projection)):
            raise CannotAdaptError(f"{path!r} of the layer {name} is no linear layer, but {type(projection).__name__}.")
        return projection

    def linear(path: str | None) -> Any:
        projection = known(path)
        return _rows(projection) if _is_convolution(projection) else projection

    if isinstance(module, nn.MultiheadAttention):
        q, k, v = (Rows(weight, bias) for weight, bias in bare_weights(name, module))
        return q, k, v
    if description.qkv is not None:
        fused = known(description.qkv)
        rows = fused.weight.shape[0]
        queries = _input_width(out) or rows // 3  # as many as go into the output; keys and values may be fewer
        middle = queries + (rows - queries) // 2
        ends = (slice(0, queries), slice(queries, middle), slice(middle, rows))
        q, k, v = (_rows(fused, rows_of_one) for rows_of_one in ends)
        return q, k, v
    if description.kv is not None:
        fused = known(description.kv)
        rows = fused.weight.shape[0]
        halves = (slice(0, rows // 2), slice(rows // 2, rows))
        return linear(description.q), *(_rows(fused, half) for half in halves)
    return linear(description.q), linear(description.k), linear(description.v)


def _is_convolution(projection: Any) -> bool:
    """Whether it is one of single pixels."""
    weight = getattr(projection, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim > 2 and weight.numel() == math.prod(weight.shape[:2])


def _rows(projection: Any, rows: slice = slice(None)) -> Any:
    is_bare = type(projection) in (nn.Linear, nn.Conv1d, nn.Conv2d) and "forward" not in vars(projection)
    return Rows(projection.weight.flatten(1), projection.bias, rows) if is_bare else Part(projection, rows)


def _input_width(out: Any) -> int | None:
    """That of the first linear layer in an output projection."""
    weights = (getattr(module, "weight", None) for module in out.modules())
    return next((w.shape[1] for w in weights if isinstance(w, Tensor) and w.ndim >= 2), None)
