"""The U-Net of Stable Diffusion: noise prediction, with its attention on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as checkpointed

from .attention import AttentionRecord, AttentionRecords, Control, Kind, Request, Site, select_sites
from .blocks import Downsample, Level, ResBlock, Upsample
from .conditions import Context, Embedding, TimeEmbedding
from .config import UNetConfig
from .network import attention_request
from .transformer import SpatialTransformer

EPS = 1e-5


class Step(NamedTuple):
    """One module of the network in execution order; `pop` joins a skip before it, `push` keeps its output as one."""

    name: str
    module: nn.Module
    pop: bool = False
    push: bool = False


class UNet(nn.Module):
    """Noise prediction epsilon(z, t, context). Module and parameter names are diffusers'.

    `config.widths` etc. describe the network; `sites(latent_shape)` lists its attention layers.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        widths, top = config.widths, len(config.widths) - 1
        time_width = 4 * widths[0]

        def res(in_width: int, out_width: int) -> ResBlock:
            return ResBlock(in_width, out_width, groups=config.norm_groups, eps=EPS, time_width=time_width)

        def attention(i: int) -> nn.Module:
            return SpatialTransformer(
                widths[i],
                config.heads[i],
                config.context_width,
                depth=config.depths[i],
                groups=config.norm_groups,
                linear=config.linear_projections,
                upcast=config.upcast_attention,
            )

        self.time_embedding = TimeEmbedding(widths[0])
        self.add_embedding = Embedding(config.vector_width, time_width) if config.vector_width else None
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        skips, before, levels = [widths[0]], widths[0], []
        for i, width in enumerate(widths):
            resnets = [res(before if j == 0 else width, width) for j in range(config.blocks)]
            attentions = [attention(i) for _ in resnets] if config.attention[i] else None
            levels.append(Level(resnets, attentions, downsample=Downsample(width) if i < top else None))
            skips += [width] * (config.blocks + (i < top))
            before = width
        self.down_blocks = nn.ModuleList(levels)
        self.mid_block = Level([res(before, before) for _ in range(2)], [attention(top)])
        levels = []
        for i in reversed(range(top + 1)):
            resnets = []
            for _ in range(config.blocks + 1):
                resnets.append(res(before + skips.pop(), widths[i]))
                before = widths[i]
            attentions = [attention(i) for _ in resnets] if config.attention[i] else None
            levels.append(Level(resnets, attentions, upsample=Upsample(before) if i > 0 else None))
        self.up_blocks = nn.ModuleList(levels)
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def steps(self) -> Iterator[Step]:
        """The network between the time embedding and the output norm, as one list in execution order."""
        yield Step("conv_in", self.conv_in, push=True)
        for name, level in self._levels("down_blocks"):
            for j, resnet in enumerate(level.resnets):
                if level.attentions:
                    yield Step(f"{name}.resnets.{j}", resnet)
                    yield Step(f"{name}.attentions.{j}", level.attentions[j], push=True)
                else:
                    yield Step(f"{name}.resnets.{j}", resnet, push=True)
            for module in level.downsamplers:
                yield Step(f"{name}.downsamplers.0", module, push=True)
        yield Step("mid_block.resnets.0", self.mid_block.resnets[0])
        yield Step("mid_block.attentions.0", self.mid_block.attentions[0])
        yield Step("mid_block.resnets.1", self.mid_block.resnets[1])
        for name, level in self._levels("up_blocks"):
            for j, resnet in enumerate(level.resnets):
                yield Step(f"{name}.resnets.{j}", resnet, pop=True)
                if level.attentions:
                    yield Step(f"{name}.attentions.{j}", level.attentions[j])
            for module in level.upsamplers:
                yield Step(f"{name}.upsamplers.0", module)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile both ways to run the network, predictions and attention passes; arguments are `torch.compile`'s.

        There is no graph break in either, unless a control's own code makes one.
        """
        for name in ("forward", "attention"):
            setattr(self, name, _for_any_timestep(torch.compile(getattr(self, name), *args, **options)))

    def sites(self, latent_shape: Sequence[int]) -> list[Site]:
        """Attention layers in execution order for latents [..., h, w]."""
        return [site for _, pairs in self._sites(latent_shape) for pair in pairs for site in pair]

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
        """Predict the noise in z [B, 4, h, w], or what else the network was trained to predict, at timestep t (int or
        [B]) under context [B, 77, D]; it is a `Context` where the network takes a vector too.

        Args:
            record: sites (or their names) whose scores to return; the result is then (epsilon, records).
            control: rewrites attention during this call.
            checkpoint: recompute activations in the backward pass instead of keeping them (less memory, more time).

        Raises:
            ValueError: shapes that do not fit, a selection that is empty or names no site (the message lists them).
        """
        self._check(z, context)
        names = frozenset() if record is None else select_sites(self.sites(z.shape), record, _size(z))
        h, records = self._run(z, t, context, Request(names, control=control), checkpoint)
        assert h is not None
        epsilon = self.conv_out(F.silu(self.conv_norm_out(h)))
        return epsilon if record is None else (epsilon, records)

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
        """Records only: runs the network up to the scores of the last selected site, and nothing after.

        Sites are those of the given resolution (side in pixels, or (h, w); None: any) and kind (None: both), or
        exactly `sites` if given. The records equal those of a full forward. Arguments and errors as for `forward`.
        """
        self._check(z, context)
        request = attention_request(self, z, resolution, kind, sites, control)
        return self._run(z, t, context, request, checkpoint)[1]

    def _run(
        self, z: Tensor, t: int | Tensor, context: Tensor, request: Request, checkpoint: bool
    ) -> tuple[Tensor | None, AttentionRecords]:
        def call(module: nn.Module, *args: object) -> Any:
            if checkpoint and torch.is_grad_enabled():
                return checkpointed(module, *args, use_reentrant=False)
            return module(*args)

        time = self.time_embedding(torch.as_tensor(t, device=z.device).expand(z.shape[0]))
        if isinstance(context, Context):
            if self.add_embedding is not None:
                time = time + self.add_embedding(context.vector)
            context = context.tokens
        sites = dict(self._sites(z.shape))
        records: tuple[AttentionRecord, ...] = ()
        skips: list[Tensor] = []
        h = z
        for name, module, pop, push in self.steps():
            if pop:
                h = torch.cat([h, skips.pop()], dim=1)
            if isinstance(module, SpatialTransformer):
                result = call(module, h, context, sites[name], request)
                records, context = records + result.records, result.context
                if result.out is None:
                    return None, AttentionRecords(records)
                h = result.out
            else:
                h = call(module, h, time) if isinstance(module, ResBlock) else call(module, h)
            if push:
                skips.append(h)
        return h, AttentionRecords(records)

    def _levels(self, name: str) -> Iterator[tuple[str, Level]]:
        for i, level in enumerate(getattr(self, name)):
            yield f"{name}.{i}", level

    def _sites(self, latent_shape: Sequence[int]) -> Iterator[tuple[str, list[tuple[Site, Site]]]]:
        """(name, sites of its blocks) of each SpatialTransformer, in execution order."""
        height, width = (int(side) for side in latent_shape[-2:])
        for name, module, _, _ in self.steps():
            if isinstance(module, Downsample):
                height, width = height // 2, width // 2
            elif isinstance(module, Upsample):
                height, width = height * 2, width * 2
            elif isinstance(module, SpatialTransformer):
                yield name, module.sites(name, (height, width))

    def _check(self, z: Tensor, context: Tensor) -> None:
        config = self.config
        if z.ndim != 4 or z.shape[1] != config.in_channels or z.shape[2] % config.factor or z.shape[3] % config.factor:
            raise ValueError(
                f"UNet got latents of shape {list(z.shape)}; expected [B, {config.in_channels}, h, w] with h and w "
                f"multiples of {config.factor}."
            )
        if context.ndim != 3 or context.shape[0] != z.shape[0] or context.shape[2] != config.context_width:
            raise ValueError(
                f"UNet got a context of shape {list(context.shape)}; expected [{z.shape[0]}, tokens, "
                f"{config.context_width}]: one text encoding for each latent."
            )
        vector = context.vector.shape[1] if isinstance(context, Context) else None
        if vector != config.vector_width:
            raise ValueError(
                f"UNet got a context {'without a vector' if vector is None else f'with vectors of width {vector}'}; "
                f"expected {'none' if config.vector_width is None else f'width {config.vector_width}'}: "
                "Context.of(tokens, vector) gives each sample one, and whatever mixes samples loses it."
            )


def _size(z: Tensor) -> str:
    return f"latents of {list(z.shape[-2:])}"


def _for_any_timestep(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Pass timesteps on as tensors: for a number, the compiler would make the network anew each time."""

    def run(z: Tensor, t: int | Tensor, *args: Any, **options: Any) -> Any:
        return compiled(z, torch.as_tensor(t, device=z.device), *args, **options)

    return run
