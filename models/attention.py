"""Attention that hands out its scores before softmax: the operation, the layer, sites, records and control.

A *site* is one attention layer of a network at one input size. The caller of the network says which sites to record
and gets their scores back as *records*; nothing is stored on a module and no hook is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from html import escape
from typing import Any, Literal, NamedTuple, SupportsIndex, overload

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["cross", "self"]


@dataclass(frozen=True)
class Site:
    """One attention layer: where it sits in the network and what its maps look like.

    `name` is the layer's module path in the network, `resolution` the (height, width) of its queries in pixels of the
    feature map ((1, n) for a text of n tokens), `kind` says whether its keys are another sequence ("cross": text
    tokens) or the queries' own ("self").
    """

    name: str
    kind: Kind
    resolution: tuple[int, int]
    heads: int

    def __str__(self) -> str:
        height, width = self.resolution
        return f"{self.name} ({self.kind}, {height}x{width}, {self.heads} heads)"


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """Scores of one site in one call: QK^T / sqrt(d), [batch, head, query, key], before softmax.

    Queries are the pixels of `site.resolution` in row-major order. These are the scores that the layer used: a mask
    has set those of hidden keys to -inf, a control may have rewritten them. `given_probabilities` are those of a layer
    whose softmax runs over more keys than these, as where text and image are one sequence.
    """

    site: Site
    scores: Tensor
    given_probabilities: Tensor | None = None

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax of the scores over the keys, or the given ones, [batch, head, query, key]; float32 for half precision
        scores."""
        return _softmax(self.scores) if self.given_probabilities is None else self.given_probabilities

    def select(self, rows: Any, heads: Any = slice(None)) -> AttentionRecord:
        """The record of some rows of the batch, and of some of the heads."""
        given = self.given_probabilities
        return AttentionRecord(self.site, self.scores[rows][:, heads], None if given is None else given[rows][:, heads])


class AttentionRecords(Sequence[AttentionRecord]):
    """The records of one call, in execution order; index by position, slice or site name."""

    def __init__(self, records: Sequence[AttentionRecord]) -> None:
        self._records = tuple(records)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[AttentionRecord]:
        return iter(self._records)

    @overload
    def __getitem__(self, index: SupportsIndex | str) -> AttentionRecord: ...
    @overload
    def __getitem__(self, index: slice) -> AttentionRecords: ...
    def __getitem__(self, index: SupportsIndex | str | slice) -> AttentionRecord | AttentionRecords:
        if isinstance(index, slice):
            return AttentionRecords(self._records[index])
        if not isinstance(index, str):
            return self._records[index]
        for record in self._records:
            if record.site.name == index:
                return record
        raise KeyError(f"No record of site {index!r}; recorded: {', '.join(r.site.name for r in self._records)}.")

    def __repr__(self) -> str:
        return f"AttentionRecords({', '.join(str(record.site) for record in self._records)})"

    def _repr_html_(self) -> str:
        """In a notebook: a row for each site."""
        heads = ("site", "kind", "maps", "batch", "heads", "keys", "lowest score", "highest score")
        rows = []
        for record in self._records:
            batch, count, _, keys = record.scores.shape
            limits = [f"{value.item():.3g}" for value in record.scores.detach().aminmax()] if batch else ["", ""]
            maps = "x".join(map(str, record.site.resolution))
            rows.append((record.site.name, record.site.kind, maps, batch, count, keys, *limits))
        header = "".join(f"<th>{head}</th>" for head in heads)
        body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"

    def where(
        self, *, kind: Kind | None = None, resolution: int | tuple[int, int] | None = None, name: str | None = None
    ) -> AttentionRecords:
        """The records of the sites of a kind, a resolution (side or (h, w)) and a name, which may have wildcards as
        "up_blocks.*"; None for any."""
        size = (resolution, resolution) if isinstance(resolution, int) else resolution
        return AttentionRecords(
            [
                record
                for record in self._records
                if kind in (None, record.site.kind)
                and size in (None, record.site.resolution)
                and (name is None or fnmatchcase(record.site.name, name))
            ]
        )

    def mean_scores(self) -> Tensor:
        """Uniform mean of the scores over sites x heads, [batch, h, w, key].

        Raises ValueError if the sites differ in kind, in resolution or in the number of keys.
        """
        return self._mean([record.scores for record in self._records])

    def mean_probabilities(self) -> Tensor:
        """Uniform mean of the probabilities over sites x heads, [batch, h, w, key]; errors as `mean_scores`."""
        return self._mean([record.probabilities for record in self._records])

    def _mean(self, maps: Sequence[Tensor]) -> Tensor:
        if len({(record.site.kind, record.site.resolution, record.scores.shape[-1]) for record in self._records}) != 1:
            recorded = ", ".join(str(record.site) for record in self._records) or "none"
            raise ValueError(
                "Maps can be averaged only over sites of one kind, one resolution and one number of keys; recorded: "
                f"{recorded}. Choose some of them (`where`), record fewer, or average by hand."
            )
        height, width = self._records[0].site.resolution
        mean = torch.cat([m.float() if m.itemsize < 4 else m for m in maps], dim=1).mean(dim=1)
        return rearrange(mean, "b (h w) k -> b h w k", h=height, w=width)


class AttentionCall(NamedTuple):
    """The inputs of one attention layer before it computes; given to a control.

    `query` and `key` are [batch, head, query | key, dim]; `context` [batch, key, D] is the layer's input, before
    `Control.contexts` replaces it.
    """

    site: Site
    layer: Attention
    query: Tensor
    key: Tensor
    context: Tensor


class Control:
    """Rewrites attention while a network runs; override what you need, the defaults change nothing.

    Passed as `control=` to one call of the network, it sees every site of that call in execution order.
    """

    def edits_maps(self, site: Site) -> bool:
        """Whether `scores` and `probabilities` are wanted at this site; False leaves it to fused attention.

        True if the class overrides one of them."""
        kind = type(self)
        return kind.scores is not Control.scores or kind.probabilities is not Control.probabilities

    def contexts(self, site: Site, context: Tensor) -> tuple[Tensor, Tensor]:
        """The contexts, each [batch, key, D], from which this site makes its keys and its values."""
        return context, context

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        """The scores [batch, head, query, key] to use instead of `scores`."""
        return scores

    def probabilities(self, call: AttentionCall, probabilities: Tensor) -> Tensor:
        """The probabilities [batch, head, query, key] to use instead; they need not sum to 1."""
        return probabilities

    def next_context(self, call: AttentionCall) -> Tensor:
        """The text context [batch, key, D] that the cross-attention sites after this one see, until the call ends."""
        return call.context


@dataclass(frozen=True)
class Request:
    """A caller's wishes for the attention of a network: sites to record, the site to stop at, a control."""

    record: frozenset[str] = frozenset()
    stop_after: str | None = None
    control: Control | None = None


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
        for_keys, for_values = (context, context) if control is None else control.contexts(site, context)
        query, key = self._split(self.to_q(x)), self.keys(for_keys)
        call = AttentionCall(site, self, query, key, context)

        edited = control if control is not None and control.edits_maps(site) else None
        if not recorded and edited is None:
            fast_causal = self.causal and mask is None  # a mask that is written out would lose the fastest kernels
            heads = F.scaled_dot_product_attention(
                query,
                key,
                self._split(self.to_v(for_values)),
                attn_mask=mask if fast_causal else self._visible(mask, query, key),
                is_causal=fast_causal,
            )
            record = None
        else:
            scores = _masked(self._scores(query, key), self._visible(mask, query, key))
            if edited is not None:
                scores = edited.scores(call, scores)
            record = AttentionRecord(site, scores) if recorded else None
            if request.stop_after == site.name:
                return AttentionResult(None, record, context)
            probabilities = _softmax(scores).to(query.dtype)
            if edited is not None:
                probabilities = edited.probabilities(call, probabilities)
            heads = probabilities @ self._split(self.to_v(for_values))
        out = self.to_out(rearrange(heads, "b h n d -> b n (h d)"))
        return AttentionResult(out, record, context if control is None else control.next_context(call))

    def keys(self, context: Tensor) -> Tensor:
        """Keys of a context [batch, key, D], split into heads: [batch, head, key, dim]."""
        return self._split(self.to_k(context))

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        if not self.upcast or query.itemsize >= 4:
            return attention_scores(query, key)
        with torch.autocast(query.device.type, enabled=False):
            return attention_scores(query.float(), key.float())

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)

    def _visible(self, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
        """`mask` together with the causal one, where the layer is causal."""
        if not self.causal:
            return mask
        past = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        return past if mask is None else mask & past if mask.dtype == torch.bool else _masked(mask, past)


def attention_scores(query: Tensor, key: Tensor) -> Tensor:
    """QK^T / sqrt(d) of query [batch, head, query, d] and key [batch, head, key, d]: [batch, head, query, key]."""
    scale: float = query.shape[-1] ** -0.5
    return (query * scale) @ key.transpose(-1, -2)


def select_sites(available: Sequence[Site], wanted: Iterable[Site | str], input_size: str) -> frozenset[str]:
    """Names of the `wanted` sites; ValueError, which lists those there are, if one is unknown or none is wanted."""
    names = frozenset(site.name if isinstance(site, Site) else site for site in wanted)
    unknown = names - {site.name for site in available}
    if unknown or not names:
        problem = (
            f"There is no attention site {sorted(unknown)}" if unknown else "The selection holds no attention site"
        )
        listing = "\n  ".join(str(site) for site in available)
        raise ValueError(f"{problem} for {input_size}; choose among\n  {listing}")
    return names


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(dim=-1, dtype=torch.float32 if scores.itemsize < 4 else scores.dtype)
