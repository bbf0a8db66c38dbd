"""A foreign module becomes a `Network`: its attention layers hand out their scores and take controls.

`layer` describes a layer's projections by attribute paths, `adapt` finds the layers and opens them:

    network = adapt(net, {CrossAttention: layer(q="to_q", k="to_k", v="to_v", out="to_out", heads="heads")},
                    lambda net, z, t, context: net(z, t, context), context_shape=(77, 768))

Weights and names of the foreign module stay what they are. A layer that nobody records or controls runs its own code;
the others run `Attention` over the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from .attention import (
    AttentionRecord,
    AttentionRecords,
    AttentionResult,
    Control,
    Kind,
    Request,
    Site,
    select_sites,
)
from .conditions import Context
from .foreign import Layer, attention_over, check_output, inputs, resolution
from .network import of_shape, same_values

Call = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(net, z [B, C, h, w], t [B], context [B, key, D]) -> noise [B, C, h, w]: how the foreign module is run."""


@dataclass
class _Running:
    """One call of an adapted network: what it is asked for, and what its layers have recorded so far."""

    names: Mapping[int, str]
    sites: Mapping[str, Site]
    request: Request
    checkpoint: bool
    probe: list[tuple[str, Kind, int, int]] | None = None
    records: list[AttentionRecord] = field(default_factory=list)
    moves: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def moved(self, context: Tensor) -> Tensor:
        """What a control has made of a context that the module gives to several layers; others stay as they are."""
        return next((moved for given, moved in reversed(self.moves) if same_values(given, context)), context)


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
        x, context, mask = inputs(name, self, description, super().forward, args, kwargs)  # type: ignore[misc, arg-type]
        attention = attention_over(name, self, description, "self" if context is None else "cross")  # type: ignore[arg-type]
        if running.probe is not None:
            output = own()
            check_output(name, output, attention(x, context, mask=mask).out)
            running.probe.append((name, attention.kind, x.shape[1], attention.heads))
            return output
        given, context = context, None if context is None else running.moved(context)
        run = partial(attention, site=running.sites[name], request=request, mask=mask)
        result: AttentionResult = (
            checkpointed(run, x, context, use_reentrant=False) if running.checkpoint else run(x, context)
        )
        if result.record is not None:
            running.records.append(result.record)
        if result.out is None:
            raise _Stop
        if given is not None and result.context is not context:
            running.moves.append((given, result.context))
        return result.out


class AdaptedNetwork(nn.Module):
    """A foreign module as a `Network`; made by `adapt`."""

    def __init__(
        self, net: nn.Module, call: Call, context_shape: tuple[int, int], channels: int, vector_width: int | None
    ) -> None:
        super().__init__()
        self.net = net
        self._call, self._context_shape, self._channels = call, context_shape, channels
        self._vector_width = vector_width
        self._named: tuple[int, dict[int, str]] = (0, {})
        self._sites: dict[tuple[int, int, int], list[Site]] = {}

    @property
    def _names(self) -> dict[int, str]:
        """Name of each open layer by its identity, found again in a copy of this network."""
        if self._named[0] != id(self.net):
            opened = ((name, module) for name, module in self.net.named_modules() if isinstance(module, _Open))
            self._named = id(self.net), {id(module): name for name, module in opened}
        return self._named[1]

    def sites(self, latent_shape: Sequence[int]) -> list[Site]:
        """Attention layers in execution order for latents [..., C, h, w]; runs the module once for a size not seen yet.

        That run also holds each layer against `Attention`. Raises ValueError, with the layer's name, where they
        differ: it then computes something else beside softmax(QK^T / sqrt(d)) V.
        """
        channels, height, width = [self._channels, *map(int, latent_shape)][-3:]
        if (channels, height, width) not in self._sites:
            self._sites[channels, height, width] = self._find_sites(channels, height, width)
        return self._sites[channels, height, width]

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
    def _find_sites(self, channels: int, height: int, width: int) -> list[Site]:
        like = next(self.net.parameters())
        generator = torch.Generator().manual_seed(0)  # numbers in which a difference would show
        z = torch.randn(1, channels, height, width, generator=generator).to(like)
        context = torch.randn(1, *self._context_shape, generator=generator).to(like)
        if self._vector_width is not None:
            context = Context.of(context, torch.randn(1, self._vector_width, generator=generator).to(like))
        probe: list[tuple[str, Kind, int, int]] = []
        training = self.net.training
        self.net.eval()  # dropout would make every layer differ
        try:
            self._call_net(_Running(self._names, {}, Request(), False, probe), z, 1, context)
        finally:
            self.net.train(training)
        if not probe:
            opened = ", ".join(self._names.values())
            raise ValueError(f"None of the layers {opened} ran; describe the modules whose forward is called.")
        names = [name for name, *_ in probe]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"The layer {twice[0]} runs more than once in a call, so its records would have one name.")
        return [
            Site(name, kind, resolution(name, queries, height, width), heads) for name, kind, queries, heads in probe
        ]


def adapt(
    net: nn.Module,
    layers: Mapping[type[nn.Module] | str, Layer],
    call: Call,
    *,
    context_shape: tuple[int, int],
    channels: int = 4,
    vector_width: int | None = None,
) -> AdaptedNetwork:
    """Open the attention layers of a foreign module; what the module computes stays the same.

    Args:
        net: the module; it is changed in place (only the classes of its attention layers are).
        layers: what its attention layers are like, by their class, or by the name of a single one in the module.
        call: runs the module, see `Call`.
        context_shape: (keys, width) of the text context.
        channels: of the latents where `sites` is asked for a height and width alone.
        vector_width: of the vectors, if `call` is given a `Context` (`context.tokens`, `context.vector`).

    Raises:
        ValueError: nothing fits the description, or a layer lacks a part that it names.
    """
    chosen: list[tuple[nn.Module, Layer]] = []
    for name, module in net.named_modules():
        by_class = (d for kind, d in layers.items() if not isinstance(kind, str) and isinstance(module, kind))
        description = layers.get(name) or next(by_class, None)
        if description is not None:
            attention_over(name, module, description, "self")  # all its parts are there
            chosen.append((module, description))
    if not chosen:
        asked = ", ".join(kind if isinstance(kind, str) else kind.__name__ for kind in layers)
        present = sorted({type(module).__name__ for module in net.modules() if "ttention" in type(module).__name__})
        raise ValueError(
            f"{type(net).__name__} holds no layer {asked or '(none was named)'}; classes in it that sound like "
            f"attention: {', '.join(present) or 'none'}."
        )
    for module, description in chosen:
        if not isinstance(module, _Open):
            kind = type(module)
            module.__class__ = type(kind.__name__, (_Open, kind), {"__module__": kind.__module__})
        module._description = description  # type: ignore[assignment]
    return AdaptedNetwork(net, call, context_shape, channels, vector_width)
