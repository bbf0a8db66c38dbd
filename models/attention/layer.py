"""The attention layer: its scores can be recorded and rewritten."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .control import AttentionCall, Control
from .records import AttentionRecord, softmax
from .sites import Kind, Site


@dataclass(frozen=True)
class Request:
    """A caller's wishes for the attention of a network: sites to record, the site to stop at, a control."""

    record: frozenset[str] = frozenset()
    stop_after: str | None = None
    control: Control | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.control, Control | None):
            given = self.control if isinstance(self.control, type) else type(self.control)
            raise ValueError(f"control is {given.__name__}; expected an object of a class that extends Control.")


class AttentionResult(NamedTuple):
    """Output of a layer: `out` [batch, query, width] is None where the request said to stop."""

    out: Tensor | None
    record: AttentionRecord | None
    context: Tensor


class Attention(nn.Module):
    """Multi-head attention, softmax(QK^T / sqrt(d)) V, whose scores can be recorded and rewritten.

    Parameter names are diffusers'.

    Args:
        width: of the queries' input and of the output.
        context_width: of the keys' and values' input, in cross-attention; None for self-attention.
        inner_width: of all heads together; None for `width`.
        bias: whether the query, key and value projections have biases, for all three or each.
        out_bias: whether the output projection has one.
        causal: whether a query sees only the keys up to its own position.
        upcast: whether scores of half precision are computed in float32, in which they cannot overflow. Fused attention
            does so anyway.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int | None = None,
        *,
        inner_width: int | None = None,
        bias: bool | tuple[bool, bool, bool] = False,
        out_bias: bool = True,
        causal: bool = False,
        upcast: bool = False,
    ) -> None:
        super().__init__()
        inner_width = inner_width or width
        if inner_width % heads:
            raise ValueError(f"Attention width {inner_width} is not divisible by heads = {heads}.")
        self.heads = heads
        self.kind: Kind = "self" if context_width is None else "cross"
        self.causal, self.upcast = causal, upcast
        query_bias, key_bias, value_bias = (bias,) * 3 if isinstance(bias, bool) else bias
        self.to_q = nn.Linear(width, inner_width, bias=query_bias)
        self.to_k = nn.Linear(context_width or width, inner_width, bias=key_bias)
        self.to_v = nn.Linear(context_width or width, inner_width, bias=value_bias)
        self.to_out = nn.Sequential(nn.Linear(inner_width, width, bias=out_bias))

    @classmethod
    def of(cls, to_q: Any, to_k: Any, to_v: Any, to_out: Any, *, heads: int, kind: Kind) -> Attention:
        """A layer of given projections, modules [..., width] -> [..., inner width] and back: those of another layer."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.heads, layer.kind, layer.causal, layer.upcast = heads, kind, False, False
        layer.to_q, layer.to_k, layer.to_v, layer.to_out = to_q, to_k, to_v, to_out
        return layer

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        site: Site | None = None,
        request: Request = Request(),
    ) -> AttentionResult:
        """Attend from x [batch, query, width] to context [batch, key, D] (to x itself if None).

        `mask` broadcasts to [batch, head, query, key]: booleans say which keys a query sees (at least one), numbers
        are added to the scores. A layer used alone needs neither `site` nor `request`. With a site named by
        `request.record` the result holds its record; where `request.stop_after` names it, nothing beyond the scores is
        computed.
        """
        context = x if context is None else context
        if site is None:
            site = Site("attention", self.kind, (1, x.shape[1]), self.heads)
        control, recorded = request.control, site.name in request.record
        for_keys, for_values = (context, context) if control is None else _contexts(control, site, context)
        query, key = self._split(self.to_q(x)), self.keys(for_keys)
        call = AttentionCall(site, self, query, key, context, self._visible(mask, query, key))

        edited = control if control is not None and control.edits_maps(site) else None
        if not recorded and edited is None:
            fast_causal = self.causal and mask is None  # a mask that is written out would lose the fastest kernels
            heads = F.scaled_dot_product_attention(
                query,
                key,
                self._split(self.to_v(for_values)),
                attn_mask=mask if fast_causal else call.mask,
                is_causal=fast_causal,
            )
            record = None
        else:
            scores = self.scores(query, key, call.mask)
            if edited is not None:
                scores = _like(scores, edited.scores(call, scores), f"{type(edited).__name__}.scores")
            record = AttentionRecord(site, scores) if recorded else None
            if request.stop_after == site.name:
                return AttentionResult(None, record, context)
            probabilities = softmax(scores).to(query.dtype)
            if edited is not None:
                rewritten = edited.probabilities(call, probabilities)
                probabilities = _like(probabilities, rewritten, f"{type(edited).__name__}.probabilities")
            heads = probabilities.to(query.dtype) @ self._split(self.to_v(for_values))
        out = self.to_out(rearrange(heads, "b h n d -> b n (h d)"))
        return AttentionResult(out, record, context if control is None else control.next_context(call))

    def keys(self, context: Tensor) -> Tensor:
        """Keys of a context [batch, key, D], split into heads: [batch, head, key, dim]."""
        return self._split(self.to_k(context))

    def scores(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of queries [..., head, query, dim] and keys [..., head, key, dim], with a mask as `forward` takes it."""
        if not self.upcast or query.itemsize >= 4:
            return _masked(attention_scores(query, key), mask)
        with torch.autocast(query.device.type, enabled=False):
            return _masked(attention_scores(query.float(), key.float()), mask)

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)

    def _visible(self, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
        """`mask` together with the causal one, where the layer is causal."""
        if not self.causal:
            return mask
        past = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        return past if mask is None else mask & past if mask.dtype == torch.bool else _masked(mask, past)


def _contexts(control: Control, site: Site, context: Tensor) -> tuple[Tensor, Tensor]:
    """The contexts that a control gives for keys and values; ValueError unless they are two, of as many keys."""
    returned: Any = control.contexts(site, context)
    given = [*returned] if isinstance(returned, Iterable) else []
    shapes = [list(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in given]
    if len(shapes) != 2 or shapes[0][:-1] != shapes[1][:-1] or shapes[0][:1] != [len(context)] or len(shapes[0]) < 3:
        raise ValueError(
            f"{type(control).__name__}.contexts returned {shapes} at {site}; expected two contexts, for keys and for "
            f"values, like the one that it got, {list(context.shape)} (both of them may have more keys, or fewer)."
        )
    return given[0], given[1]


def _like(before: Tensor, given: Tensor | None, name: str) -> Tensor:
    """What a control made of scores or probabilities; ValueError unless it has their shape."""
    if not isinstance(given, Tensor) or given.shape != before.shape:
        got = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(
            f"{name} returned {got}; expected the values to use instead of those it got, {list(before.shape)}."
        )
    return given


def attention_scores(query: Tensor, key: Tensor) -> Tensor:
    """QK^T / sqrt(d) of query [batch, head, query, d] and key [batch, head, key, d]: [batch, head, query, key]."""
    scale: float = query.shape[-1] ** -0.5
    return (query * scale) @ key.transpose(-1, -2)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
