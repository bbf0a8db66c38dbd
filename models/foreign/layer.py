"""What a foreign attention layer is like: where its parts are, as somebody says or as they are usually named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


class CannotAdaptError(ValueError):
    """A layer computes, or is described as, something that ours does not; says which layer and why."""


OTHERS = (
    "name the other layers in `layers`, {name: layer(...)} or a list of names; hooks where its queries and keys are "
    "ready still give its scores: attention_scores(query, key)"
)
"""The remedy where one layer of a module cannot be adapted."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A foreign attention layer by attribute paths, as "to_out.0".

    Attributes:
        out: the output projection, a linear layer or a sequence of one and dropout.
        heads: the attribute that holds the number of heads, or the number itself.
        q, k, v: the projections of queries, keys and values; or `kv`, keys and values in one; or `qkv`, all in one.
            Keys and values may have fewer heads than queries (grouped queries).
        norm: what the layer applies to its queries' input first (in self-attention to all of it), if anything.
        q_norm, k_norm: norms of queries and keys behind their projections, of each head or of all heads together.
        context, mask: the parameters of its `forward` for them, if they have unusual names.
        residual: whether the layer adds its input, as it came, to its output itself.

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
    residual: bool = False

    def __post_init__(self) -> None:
        given = {name for name in ("q", "k", "v", "kv", "qkv") if getattr(self, name) is not None}
        if given not in PROJECTIONS:
            raise ValueError(
                f"layer got {', '.join(sorted(given)) or 'no projection'}; expected q, k, v, or q, kv, or qkv."
            )


layer = Layer  # reads well in a call: adapt(net, {CrossAttention: layer(q="to_q", ...)}, ...)

PROJECTIONS: tuple[set[str], ...] = ({"q", "k", "v"}, {"q", "kv"}, {"qkv"})
USUAL_NAMES = {
    "q": ("to_q", "q_proj", "q_linear", "query", "q", "wq"),
    "k": ("to_k", "k_proj", "k_linear", "key", "k", "wk"),
    "v": ("to_v", "v_proj", "v_linear", "value", "v", "wv"),
    "kv": ("to_kv", "kv_proj", "kv_linear", "kv"),
    "qkv": ("to_qkv", "qkv_proj", "in_proj", "qkv", "Wqkv"),
    "out": ("to_out", "out_proj", "proj_out", "o_proj", "proj", "out", "wo"),
    "heads": ("heads", "num_heads", "n_heads", "n_head"),
    "q_norm": ("q_norm", "norm_q", "query_norm"),
    "k_norm": ("k_norm", "norm_k", "key_norm"),
}
"""What authors call the parts. A wrong guess is noticed: each layer's output is held against ours."""


def usual_layer(module: nn.Module) -> Layer | None:
    """The description of a layer whose parts have usual names; None for a module that is no such layer."""
    if isinstance(module, nn.MultiheadAttention):
        return Layer(qkv="in_proj_weight", out="out_proj", heads="num_heads")
    found = {part: _first(module, part, names) for part, names in USUAL_NAMES.items()}
    projections = next((names for names in PROJECTIONS if all(found[name] for name in names)), None)
    if projections is None or found["out"] is None or found["heads"] is None:
        return None
    others = set().union(*PROJECTIONS) - projections
    return Layer(**{part: path for part, path in found.items() if part not in others})  # type: ignore[arg-type]


def _first(module: nn.Module, part: str, names: tuple[str, ...]) -> str | None:
    """The first of the names under which the module has a part of that kind."""
    for name in names:
        value: Any = getattr(module, name, None)
        weight = getattr(value, "weight", None)
        if part == "heads":
            fits = type(value) is int
        elif part in ("out", "q_norm", "k_norm"):
            fits = isinstance(value, nn.Module)
        else:
            fits = isinstance(weight, Tensor) and weight.ndim == 2
        if fits:
            return f"{name}.0" if isinstance(value, nn.ModuleList) else name  # the linear layer, then dropout
    return None
