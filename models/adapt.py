"""A foreign module becomes a `Network`: its attention layers hand out their scores and take controls.

`layer` describes a layer's projections by attribute paths, `adapt` finds the layers and opens them:

    network = adapt(net, {CrossAttention: layer(q="to_q", k="to_k", v="to_v", out="to_out", heads="heads")},
                    lambda net, z, t, context: net(z, t, context), context_shape=(77, 768))

Weights and names of the foreign module stay what they are. A layer that nobody records or controls runs its own code;
the others run `Attention` over the same weights.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from .attention import (
    Attention,
    AttentionRecord,
    AttentionRecords,
    AttentionResult,
    Control,
    Kind,
    Request,
    Site,
    select_sites,
)
from .network import of_shape

Call = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(net, z [B, C, h, w], t [B], context [B, key, D]) -> noise [B, C, h, w]: how the foreign module is run."""

CONTEXT_NAMES = ("context", "encoder_hidden_states", "cond", "y", "kv")
MASK_NAMES = ("mask", "attention_mask", "attn_mask", "key_padding_mask")
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Layer:
    """Where a foreign attention layer keeps its parts, as attribute paths ("to_out.0"); see `layer`."""

    out: str
    heads: str | int
    q: str | None = None
    k: str | None = None
    v: str | None = None
    kv: str | None = None
    qkv: str | None = None
    context: str | None = None
    mask: str | None = None

    def __post_init__(self) -> None:
        given = {name for name in ("q", "k", "v", "kv", "qkv") if getattr(self, name) is not None}
        if given not in ({"q", "k", "v"}, {"q", "kv"}, {"qkv"}):
            raise ValueError(
                f"layer got {', '.join(sorted(given)) or 'no projection'}; expected q, k, v, or q, kv, or qkv."
            )


def layer(
    *,
    out: str,
    heads: str | int,
    q: str | None = None,
    k: str | None = None,
    v: str | None = None,
    kv: str | None = None,
    qkv: str | None = None,
    context: str | None = None,
    mask: str | None = None,
) -> Layer:
    """Describe a foreign attention layer by attribute paths.

    Args:
        out: the output projection, a linear layer or a sequence of one and dropout.
        heads: the attribute that holds the number of heads, or the number itself.
        q, k, v: the projections of queries, keys and values; or `kv`, keys and values in one; or `qkv`, all in one.
        context, mask: the parameters of its `forward` for them, if they have unusual names.

    Raises ValueError for another combination of projections.
    """
    return Layer(out, heads, q, k, v, kv, qkv, context, mask)


@dataclass
class _Running:
    """One call of an adapted network: what it is asked for, and what its layers have recorded so far."""

    names: Mapping[int, str]
    sites: Mapping[str, Site]
    request: Request
    checkpoint: bool
    probe: list[tuple[str, Kind, int, int]] | None = None
    records: list[AttentionRecord] = field(default_factory=list)
    moved: Tensor | None = None


_running: ContextVar[_Running | None] = ContextVar("running", default=None)  # so that threads do not see each other


class _Stop(Exception):
    """Nothing beyond the last selected site is computed."""


class _Open:
    """Mixed into each adapted layer's class: a subclass keeps `isinstance`, state dicts and copies as they were."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own computation, unless the running call asks for its attention."""
        own = partial(super().forward, *args, **kwargs)  # type: ignore[misc]
        running = _running.get()
        name = running.names.get(id(self)) if running else None
        if running is None or name is None:
            return own()
        request = running.request
        if running.probe is None and name not in request.record and request.control is None:
            return checkpointed(own, use_reentrant=False) if running.checkpoint else own()
        description: Layer = self._description  # type: ignore[attr-defined]
        x, context, mask = _inputs(name, description, super().forward, args, kwargs)  # type: ignore[misc]
        attention = _attention(name, self, description, "self" if context is None else "cross")  # type: ignore[arg-type]
        if running.probe is not None:
            return _probe(running.probe, name, attention, own, x, context, mask)
        if context is not None and running.moved is not None:
            context = running.moved
        run = partial(attention, site=running.sites[name], request=request, mask=mask)
        result: AttentionResult = (
            checkpointed(run, x, context, use_reentrant=False) if running.checkpoint else run(x, context)
        )
        if result.record is not None:
            running.records.append(result.record)
        if result.out is None:
            raise _Stop
        if context is not None:
            running.moved = result.context
        return result.out


class AdaptedNetwork(nn.Module):
    """A foreign module as a `Network`; made by `adapt`."""

    def __init__(self, net: nn.Module, call: Call, context_shape: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.net = net
        self._call, self._context_shape, self._channels = call, context_shape, channels
        self._named: tuple[int, dict[int, str]] = (0, {})
        self._sites: dict[tuple[int, int], list[Site]] = {}

    @property
    def _names(self) -> dict[int, str]:
        """Name of each open layer by its identity, found again in a copy of this network."""
        if self._named[0] != id(self.net):
            opened = ((name, module) for name, module in self.net.named_modules() if isinstance(module, _Open))
            self._named = id(self.net), {id(module): name for name, module in opened}
        return self._named[1]

    def sites(self, latent_shape: Sequence[int]) -> list[Site]:
        """Attention layers in execution order for latents [..., h, w]; runs the module once for a size not seen yet.

        That run also holds each layer against `Attention`. Raises ValueError, with the layer's name, where they
        differ: it then computes something else beside softmax(QK^T / sqrt(d)) V.
        """
        height, width = (int(side) for side in latent_shape[-2:])
        if (height, width) not in self._sites:
            self._sites[height, width] = self._find_sites(height, width)
        return self._sites[height, width]

    def forward(
        self,
        z: Tensor,
        t: int | Tensor,
        context: Tensor,
        *,
        record: Iterable[Site | str] | None = None,
        control: Control | None = None,
        checkpoint: bool = False,
    ) -> Tensor | tuple[Tensor, AttentionRecords]:
        """The module's noise prediction; with `record`, (noise, records). Arguments and errors as `UNet.forward`."""
        names = (
            frozenset()
            if record is None
            else select_sites(self.sites(z.shape), record, f"latents of {list(z.shape[-2:])}")
        )
        noise, records = self._run(z, t, context, Request(names, control=control), checkpoint)
        assert noise is not None  # nothing told the run to stop
        return noise if record is None else (noise, records)

    def attention(
        self,
        z: Tensor,
        t: int | Tensor,
        context: Tensor,
        resolution: int | tuple[int, int] | None = 16,
        kind: Kind | None = "cross",
        *,
        sites: Iterable[Site | str] | None = None,
        control: Control | None = None,
        checkpoint: bool = False,
    ) -> AttentionRecords:
        """Records only; the module runs as far as the last of them. Arguments and errors as `UNet.attention`.

        With `checkpoint` the attention layers compute their activations again for the gradient.
        """
        available = self.sites(z.shape)
        wanted = of_shape(available, resolution, kind) if sites is None else sites
        names = select_sites(available, wanted, f"latents of {list(z.shape[-2:])}")
        last = [site.name for site in available if site.name in names][-1]
        return self._run(z, t, context, Request(names, stop_after=last, control=control), checkpoint)[1]

    def _run(
        self, z: Tensor, t: int | Tensor, context: Tensor, request: Request, checkpoint: bool
    ) -> tuple[Tensor | None, AttentionRecords]:
        asked = bool(request.record) or request.control is not None
        sites = {site.name: site for site in self.sites(z.shape)} if asked else {}
        running = _Running(self._names if asked else {}, sites, request, checkpoint and torch.is_grad_enabled())
        noise = self._call_net(running, z, t, context)
        return noise, AttentionRecords(running.records)

    def _call_net(self, running: _Running, z: Tensor, t: int | Tensor, context: Tensor) -> Tensor | None:
        token = _running.set(running)
        try:
            return self._call(self.net, z, torch.as_tensor(t, device=z.device).expand(len(z)), context)
        except _Stop:
            return None
        finally:
            _running.reset(token)

    @torch.no_grad()
    def _find_sites(self, height: int, width: int) -> list[Site]:
        like = next(self.net.parameters())
        generator = torch.Generator().manual_seed(0)  # numbers in which a difference would show
        z = torch.randn(1, self._channels, height, width, generator=generator).to(like)
        context = torch.randn(1, *self._context_shape, generator=generator).to(like)
        probe: list[tuple[str, Kind, int, int]] = []
        training = self.net.training
        self.net.eval()  # dropout would make every layer differ
        try:
            self._call_net(_Running(self._names, {}, Request(), False, probe), z, 1, context)
        finally:
            self.net.train(training)
        names = [name for name, *_ in probe]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"The layer {twice[0]} runs more than once in a call, so its records would have one name.")
        return [
            Site(name, kind, _resolution(name, queries, height, width), heads) for name, kind, queries, heads in probe
        ]


def adapt(
    net: nn.Module,
    layers: Mapping[type[nn.Module] | str, Layer],
    call: Call,
    *,
    context_shape: tuple[int, int],
    channels: int = 4,
) -> AdaptedNetwork:
    """Open the attention layers of a foreign module; what the module computes stays the same.

    Args:
        net: the module; it is changed in place (only the classes of its attention layers are).
        layers: what its attention layers are like, by their class, or by the name of a single one in the module.
        call: runs the module, see `Call`.
        context_shape: (keys, width) of the text context.
        channels: of the latents.

    Raises:
        ValueError: nothing fits the description, or a layer lacks a part that it names.
    """
    chosen: dict[str, nn.Module] = {}
    for name, module in net.named_modules():
        description = layers.get(name, next((d for kind, d in layers.items() if _is_kind(module, kind)), None))
        if description is not None:
            _attention(name, module, description, "self")  # all its parts are there
            chosen[name] = module
    if not chosen:
        asked = ", ".join(kind if isinstance(kind, str) else kind.__name__ for kind in layers)
        present = sorted({type(module).__name__ for module in net.modules() if "ttention" in type(module).__name__})
        raise ValueError(
            f"{type(net).__name__} holds no layer {asked or '(none was named)'}; classes in it that sound like "
            f"attention: {', '.join(present) or 'none'}."
        )
    for name, module in chosen.items():
        description = layers.get(name) or next(d for kind, d in layers.items() if _is_kind(module, kind))
        if not isinstance(module, _Open):
            kind = type(module)
            module.__class__ = type(kind.__name__, (_Open, kind), {"__module__": kind.__module__})
        module._description = description  # type: ignore[assignment]
    return AdaptedNetwork(net, call, context_shape, channels)


def _is_kind(module: nn.Module, kind: type[nn.Module] | str) -> bool:
    return not isinstance(kind, str) and isinstance(module, kind)


class _Rows(nn.Module):
    """Some rows of a fused projection as a linear layer of its own, over the same weights."""

    def __init__(self, fused: nn.Linear, part: int, parts: int) -> None:
        super().__init__()
        size = fused.weight.shape[0] // parts
        self._fused, self._rows = [fused], slice(part * size, (part + 1) * size)  # a list: not a submodule twice

    @property
    def weight(self) -> Tensor:
        return self._fused[0].weight[self._rows]

    @property
    def bias(self) -> Tensor | None:
        bias = self._fused[0].bias
        return None if bias is None else bias[self._rows]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def _attention(name: str, module: nn.Module, description: Layer, kind: Kind) -> Attention:
    """Our layer over the weights of a foreign one; ValueError, which names the layer, if a part is not there."""

    def part(path: str) -> Any:
        value: Any = module
        for step in path.split("."):
            value = value[int(step)] if step.isdecimal() else getattr(value, step, None)
            if value is None:
                raise ValueError(
                    f"The layer {name} ({type(module).__name__}) has no {path!r}, which its description names."
                )
        return value

    def linear(path: str | None) -> Any:
        projection = part(str(path))
        if not isinstance(getattr(projection, "weight", None), Tensor) or projection.weight.ndim != 2:
            raise ValueError(f"{path!r} of the layer {name} is no linear layer, but {type(projection).__name__}.")
        return projection

    if description.qkv is not None:
        q, k, v = (_Rows(linear(description.qkv), i, 3) for i in range(3))
    elif description.kv is not None:
        q, k, v = linear(description.q), *(_Rows(linear(description.kv), i, 2) for i in range(2))
    else:
        q, k, v = (linear(path) for path in (description.q, description.k, description.v))
    heads = description.heads if isinstance(description.heads, int) else part(description.heads)
    inner_width = q.weight.shape[0]
    if type(heads) is not int or heads < 1 or inner_width % heads:
        raise ValueError(
            f"The layer {name} has heads = {heads!r}; expected a divisor of its inner width {inner_width}."
        )
    return Attention.of(q, k, v, part(description.out), heads=heads, kind=kind)


def _inputs(
    name: str, description: Layer, forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Queries, context (None: self-attention) and mask of a foreign layer's call."""
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
    return x, None if context is x else context, _per_head(mask)


def _per_head(mask: Tensor | None) -> Tensor | None:
    """A mask of keys [batch, key], or of pairs [batch, query, key], as it broadcasts to [batch, head, query, key]."""
    if mask is None or mask.ndim > 3:
        return mask
    mask = mask if mask.is_floating_point() else mask.bool()
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None]


def _take(values: dict[str, Any], names: Iterable[str | None]) -> Tensor | None:
    found = [value for value in (values.pop(name, None) for name in names if name) if value is not None]
    return found[0] if found else None


def _probe(
    probe: list[tuple[str, Kind, int, int]],
    name: str,
    attention: Attention,
    own: Callable[[], Any],
    x: Tensor,
    context: Tensor | None,
    mask: Tensor | None,
) -> Any:
    """Note a site, once it is sure that our layer computes what the foreign one does."""
    theirs, ours = own(), attention(x, context, mask=mask).out
    if not isinstance(theirs, Tensor) or ours is None or theirs.shape != ours.shape:
        raise ValueError(f"The layer {name} cannot be adapted: it does not return [batch, query, width] alone.")
    scale = max(float(theirs.abs().max()), 1e-12)
    if not float((theirs - ours).abs().max()) <= TOLERANCE * scale:
        raise ValueError(
            f"The layer {name} cannot be adapted: its output is not that of softmax(QK^T / sqrt(d)) V over the "
            "described projections (another scale, a norm, a bias or a residual inside, or heads in another order)."
        )
    probe.append((name, attention.kind, x.shape[1], attention.heads))
    return theirs


def _resolution(name: str, queries: int, height: int, width: int) -> tuple[int, int]:
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
