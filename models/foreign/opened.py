"""A foreign attention layer that is open: it runs its own code, or ours over its weights where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from ..attention import Attention, AttentionRecord, AttentionResult, Kind, Request, Site
from ..network import same_values
from .calls import Inputs, as_given, check_output, inputs, refusing
from .layer import CannotAdaptError, Layer
from .projections import attention_over

Probed = tuple[str, Kind, int, int, Tensor | None]
"""Of a layer in the trial run: its name, kind, number of queries and heads, and the context that it got."""


@dataclass
class Running:
    """One call of an adapted network: what it is asked for, for how many latents, and what its layers did so far."""

    names: Mapping[int, str]
    sites: Mapping[str, Site]
    request: Request
    checkpoint: bool
    probe: list[Probed] | None = None
    rows: int = 1
    ran: set[str] = field(default_factory=set)
    records: list[AttentionRecord] = field(default_factory=list)
    moves: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def site(self, name: str, rows: int) -> Site:
        """The site of a layer that is asked in this call, where it has so many rows; ValueError if it cannot be."""
        self.ran.add(name)
        if (site := self.sites.get(name)) is None:
            raise ValueError(
                f"The layer {name} runs in this call, and did not in the trial run; leave it out of `layers`."
            )
        if site.kind == "cross" and rows != self.rows:  # self-attention may go by windows
            raise ValueError(
                f"The layer {name} ran {rows} rows for {self.rows} latents; expected one for each. `call` should run "
                "the samples alone and all at once: what guidance subtracts is a call of its own."
            )
        return site

    def check_ran(self) -> None:
        """After the call, raise ValueError if none of the layers that were asked for ran."""
        if (self.request.record and not self.records) or (self.request.control is not None and not self.ran):
            name, *more = sorted(self.request.record or self.sites)
            others = f" (and {len(more)} more)" if more else ""
            raise ValueError(
                f"The layer {name}{others} was asked for and did not run in this call: the network left it out (choose "
                "others by `sites=`), or its `forward` was replaced (`del layer.forward` brings it back)."
            )

    def moved(self, context: Tensor) -> Tensor:
        """What a control has made of a context that the module gives to several layers; others stay as they are."""
        return next((moved for given, moved in reversed(self.moves) if same_values(given, context)), context)


running_call: ContextVar[Running | None] = ContextVar("running", default=None)  # so that threads do not see each other


class Stop(Exception):
    """Nothing beyond the last selected site is computed."""


class Open:
    """Mixed into each adapted layer's class: a subclass keeps `isinstance`, state dicts and copies as they were.

    Its names have two underscores, so that they are none of the layer's.
    """

    _description: Layer
    __beside: int | None = None
    __drops = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own computation, unless the running call asks for its attention."""
        own = partial(super().forward, *args, **kwargs)  # type: ignore[misc]
        running = running_call.get()
        name = running.names.get(id(self)) if running else None
        if running is None or name is None:
            return own()
        if running.probe is not None:
            with refusing(f"The layer {name} cannot be adapted"):
                with _filled(self):  # type: ignore[arg-type]
                    self.__try(name, running.probe, own, args, kwargs)
                returned = own()
                return self.__beside_none(returned[0] if isinstance(returned, tuple) else returned)
        request = running.request
        if name not in request.record and request.control is None:
            return checkpointed(own, use_reentrant=False) if running.checkpoint else own()
        if self.__drops and self.training:  # type: ignore[attr-defined]
            raise ValueError(
                f"The layer {name} drops attention at random in training mode, which recording or controlling it would "
                "leave out; set that dropout to 0, or call eval() on the layer."
            )
        attention, (first, x, context, mask) = self.__read(name, args, kwargs)
        given, context = context, None if context is None else running.moved(context)
        run = partial(attention, site=running.site(name, len(x)), request=request, mask=mask)
        result: AttentionResult = (
            checkpointed(run, x, context, use_reentrant=False) if running.checkpoint else run(x, context)
        )
        if result.record is not None:
            running.records.append(result.record)
        if result.out is None:
            raise Stop
        if given is not None and result.context is not context:
            running.moves.append((given, result.context))
        return self.__beside_none(as_given(self, self._description, result.out, first))

    def __beside_none(self, out: Tensor) -> Tensor | tuple[Tensor | None, ...]:
        """The output, with None for whatever the layer returns beside it, as the trial run has seen."""
        return out if self.__beside is None else (out, *(None,) * self.__beside)

    def __try(self, name: str, probe: list[Probed], own: Callable[[], Any], args: Any, kwargs: Any) -> None:
        """Hold the layer's own output against ours."""
        attention, (first, x, context, mask) = self.__read(name, args, kwargs)
        shapes = " and a context ".join(str(list(given.shape)) for given in (x, context) if given is not None)

        def ours() -> Tensor:
            with refusing(f"The layer {name} cannot be adapted: attention over the described projections fails"):
                out = attention(x, context, mask=mask).out
                assert out is not None  # nothing told it to stop
                return as_given(self, self._description, out, first)

        def compared() -> int | None:
            with refusing(f"The layer {name} cannot be adapted: it fails on queries {shapes}"), _same_numbers(x.device):
                returned = own()
            theirs, *beside = returned if isinstance(returned, tuple) else (returned,)
            check_output(name, theirs, ours(), beside, (x.shape[1], (x if context is None else context).shape[1]))
            return len(beside) if isinstance(returned, tuple) else None

        self.__beside = compared()
        self.__drops = _drops_attention(self, compared, ours, x.device)  # type: ignore[arg-type]
        probe.append((name, attention.kind, x.shape[1], attention.heads, context))

    def __read(self, name: str, args: Any, kwargs: Any) -> tuple[Attention, Inputs]:
        """Ours over the layer's weights, and the inputs of its call."""
        module: Any = self
        call = inputs(name, module, module._description, super().forward, args, kwargs)  # type: ignore[misc]
        kind: Kind = "self" if call.context is None else "cross"
        return attention_over(name, module, module._description, kind), call


def _same_numbers(device: torch.device) -> AbstractContextManager[None]:
    """What is random inside draws the numbers that are drawn after it."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@contextmanager
def _filled(layer: nn.Module) -> Iterator[None]:
    """Parameters that are zero hold numbers meanwhile: behind an output that begins as zero nothing can be compared."""
    numbers = torch.Generator().manual_seed(0)
    plain = [p.data for p in layer.parameters() if p.is_floating_point() and type(p.data) is Tensor]
    empty = [values for values in plain if 0 not in values.stride() and not values.any()]
    try:
        for values in empty:  # `data`, so that a graph that holds them is none the wiser
            size = values.shape[-1] ** 0.5 if values.ndim > 1 else 2.0
            values.copy_(torch.randn(values.shape, generator=numbers, device="cpu").to(values) / size)
        torch.clear_autocast_cache()  # of what they were
        yield
    finally:
        for values in empty:
            values.zero_()
        torch.clear_autocast_cache()


def _drops_attention(
    layer: nn.Module, compared: Callable[[], object], ours: Callable[[], Tensor], device: torch.device
) -> bool:
    """Whether a layer computes in training mode alone what ours, the same each time, does not: it drops attention at
    random. Projections that drop something are called by ours, too, if in another order.

    Parts with statistics stay in the mode in which they keep them.
    """
    parts = [part for part in layer.modules() if next(part.buffers(recurse=False), None) is None]
    try:
        for part in parts:
            part.training = True
        with _same_numbers(device):
            compared()
    except CannotAdaptError:
        with _same_numbers(device):
            return torch.equal(ours(), ours())
    finally:
        for part in parts:
            part.training = False
    return False
