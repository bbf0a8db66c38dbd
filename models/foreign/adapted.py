"""A foreign module as a `Network`: finds its sites by one run, and runs it for what is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from ..attention import AttentionRecords, Control, Kind, Request, Site, select_sites
from ..conditions import Context
from ..network import attention_request
from .calls import refusing, resolution
from .layer import CannotAdaptError
from .opened import Probed, Running, Stop, running_call

Call = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(net, z [B, C, h, w], t [B], context [B, key, D]) -> noise [B, C, h, w]: how the foreign module is run."""


_ONE_TRIAL = threading.RLock()
"""A trial run has the modules of a network in another mode than they are in."""


class AdaptedNetwork(nn.Module):
    """A foreign module as a `Network`; made by `adapt`."""

    def __init__(
        self,
        net: nn.Module,
        layers: frozenset[str],
        call: Call,
        context_shape: tuple[int, int],
        channels: int,
        vector_width: int | None,
    ) -> None:
        super().__init__()
        self.net, self._layers = net, layers
        self._call, self._context_shape, self._channels = call, context_shape, channels
        self._vector_width = vector_width
        self._named: tuple[int, dict[int, str]] = (0, {})
        self._sites: dict[tuple[int, int, int], list[Site]] = {}

    @property
    def _names(self) -> dict[int, str]:
        """Name of each layer that is asked for by its identity, found again in a copy of this network."""
        if self._named[0] != id(self.net):
            modules = self.net.named_modules()
            self._named = id(self.net), {id(module): name for name, module in modules if name in self._layers}
        return self._named[1]

    def sites(self, latent_shape: Sequence[int]) -> list[Site]:
        """Attention layers in execution order for latents [..., C, h, w]; runs the module once for a size not seen yet.

        That run also holds each layer against `Attention`. Raises ValueError, with the layer's name, where they
        differ: it then computes something else beside softmax(QK^T / sqrt(d)) V.
        """
        channels, height, width = [self._channels, *map(int, latent_shape)][-3:]
        if (size := (channels, height, width)) not in self._sites:
            with _ONE_TRIAL:
                if size not in self._sites:  # another thread may have found them meanwhile
                    self._sites[size] = self._find_sites(*size)
        return self._sites[size]

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
        request = attention_request(self, z, resolution, kind, sites, control)
        return self._run(z, t, context, request, checkpoint)[1]

    def _run(
        self, z: Tensor, t: int | Tensor, context: Tensor, request: Request, checkpoint: bool
    ) -> tuple[Tensor | None, AttentionRecords]:
        asked = bool(request.record) or request.control is not None
        sites = {site.name: site for site in self.sites(z.shape)} if asked else {}
        running = Running(
            self._names if asked else {}, sites, request, checkpoint and torch.is_grad_enabled(), rows=len(z)
        )
        noise = self._call_net(running, z, t, context)
        running.check_ran()
        return noise, AttentionRecords(running.records)

    def _call_net(self, running: Running, z: Tensor, t: int | Tensor, context: Tensor) -> Tensor | None:
        token = running_call.set(running)
        try:
            return self._call(self.net, z, torch.as_tensor(t, device=z.device).expand(len(z)), context)
        except Stop:
            return None
        finally:
            running_call.reset(token)

    @torch.no_grad()
    def _find_sites(self, channels: int, height: int, width: int) -> list[Site]:
        like = next(self.net.parameters())
        generator = torch.Generator().manual_seed(0)  # numbers in which a difference would show
        z = torch.randn(1, channels, height, width, generator=generator, device="cpu").to(like)
        context = torch.randn(1, *self._context_shape, generator=generator, device="cpu").to(like)
        if self._vector_width is not None:
            context = Context.of(
                context, torch.randn(1, self._vector_width, generator=generator, device="cpu").to(like)
            )
        probe: list[Probed] = []
        modes = [(module, module.training) for module in self.net.modules()]
        self.net.eval()  # dropout would make every layer differ
        shapes = f"a latent {list(z.shape)}, a timestep [1] and a context {list(context.shape)}"
        try:
            with refusing(f"{type(self.net).__name__} does not run with {shapes}; `call` says how to run it"):
                self._call_net(Running(self._names, {}, Request(), False, probe), z, 1, context)
                if any(got is not None and got.shape[1] > self._context_shape[0] for *_, got in probe):
                    self._check_text_is_first(probe, z, context)
        finally:
            for module, training in modes:
                module.training = training
        if not probe:
            opened = ", ".join(self._names.values())
            raise ValueError(
                f"None of the layers {opened} ran; describe the modules whose forward is called, and bring it back "
                "where it was replaced (`del layer.forward`)."
            )
        names = [name for name, *_ in probe]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"The layer {twice[0]} runs more than once in a call, so its records would have one name.")
        return [
            Site(name, kind, resolution(name, queries, height, width), heads) for name, kind, queries, heads, _ in probe
        ]

    def _check_text_is_first(self, probe: Sequence[Probed], z: Tensor, context: Tensor) -> None:
        """Raise ValueError for a layer whose context holds more than the text, and not behind it: a word of the prompt
        would be another key. Where the text is, another run shows, with another text."""
        keys = self._context_shape[0]
        changed = context.clone()
        changed += 1
        again: list[Probed] = []
        self._call_net(Running(self._names, {}, Request(), False, again), z, 1, changed)
        for (name, *_, before), (*_, after) in zip(probe, again, strict=True):
            if before is None or after is None or before.shape[1] <= keys:
                continue
            moved = (before != after).any(dim=-1)[0]
            if moved[keys:].any() and not moved[0]:
                raise CannotAdaptError(
                    f"The layer {name} cannot be adapted: its context has {before.shape[1]} keys and begins with "
                    f"others than the {keys} of the text, as pixels or tokens of the network; name the other layers "
                    "in `layers`."
                )
