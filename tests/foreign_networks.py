"""Small networks in other people's styles, written for the tests: ldm-like, fused projections, DiT-like."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebama.models import adapt, layer
from ebama.models.adapt import AdaptedNetwork


class CrossAttention(nn.Module):
    """ldm's: one class for both kinds, an inner width of its own, dropout in the output, `context=None` means x."""

    def __init__(self, width: int, context_width: int | None, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context_width or width, inner, bias=False)
        self.to_v = nn.Linear(context_width or width, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
        return self.to_out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class LdmBlock(nn.Module):
    def __init__(self, width: int, context_width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, width)
        self.attn1 = CrossAttention(width, None, 2, 6, dropout)
        self.attn2 = CrossAttention(width, context_width, 3, 4, dropout)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)
        h = h + self.attn1(h)
        h = h + self.attn2(h, context=context)
        h = h + self.ff(h)
        return x + h.transpose(1, 2).reshape(x.shape)


class LdmLike(nn.Module):
    """Two levels, sites at the latent's own size and at half of it."""

    def __init__(self, width: int = 8, context_width: int = 10, dropout: float = 0.1) -> None:
        super().__init__()
        self.time = nn.Linear(1, width)
        self.conv_in = nn.Conv2d(4, width, 3, padding=1)
        self.outer = LdmBlock(width, context_width, dropout)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.inner = LdmBlock(width, context_width, dropout)
        self.up = LdmBlock(width, context_width, dropout)
        self.conv_out = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        h = self.conv_in(z) + self.time(t.to(z)[:, None] / 1000)[:, :, None, None]
        skip = self.outer(h, context)
        h = self.inner(self.down(skip), context)
        h = F.interpolate(h, size=skip.shape[-2:]) + skip
        return self.conv_out(self.up(h, context))


class FusedSelf(nn.Module):
    """Queries, keys and values in one projection with a bias, a number of heads under another name."""

    def __init__(self, n_heads: int, width: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in self.in_proj(x).chunk(3, -1))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SeparateCross(nn.Module):
    def __init__(self, n_heads: int, width: int, context_width: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(context_width, width, bias=False)
        self.v_proj, self.out_proj = nn.Linear(context_width, width), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for t in (self.q_proj(x), self.k_proj(y), self.v_proj(y))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FusedLike(nn.Module):
    """A flat network of two blocks at the latent's own size."""

    def __init__(self, width: int = 8, context_width: int = 10) -> None:
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(4, width, 1), nn.Conv2d(width, 4, 1)
        self.first, self.second = FusedSelf(2, width), FusedSelf(2, width)
        self.cross = nn.ModuleList(SeparateCross(4, width, context_width) for _ in range(2))

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        h = self.conv_in(z) * (1 + t.to(z)[:, None, None, None] / 1000)
        x = h.flatten(2).transpose(1, 2)
        for own, cross in zip((self.first, self.second), self.cross, strict=True):
            x = x + own(x)
            x = x + cross(x, context)
        return self.conv_out(x.transpose(1, 2).reshape(h.shape))


class DitCross(nn.Module):
    """Keys and values in one projection; a mask of the text's padding."""

    def __init__(self, width: int, context_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear, self.kv_linear = nn.Linear(width, width), nn.Linear(context_width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cond: Tensor, mask: Tensor | None = None) -> Tensor:
        k, v = self.kv_linear(cond).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (self.q_linear(x), k, v))
        keep = None if mask is None else mask[:, None, None, :]
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=keep).transpose(1, 2).flatten(2))


class DitLike(nn.Module):
    """Patches of 2x2 pixels, so a single resolution; padding of the text is masked."""

    def __init__(self, width: int = 8, context_width: int = 10, padding: int = 0) -> None:
        super().__init__()
        self.padding = padding
        self.patches, self.out = nn.Conv2d(4, width, 2, stride=2), nn.Linear(width, 16)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attn": FusedSelf(2, width), "cross": DitCross(width, context_width, 2)}) for _ in range(3)
        )

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        h = self.patches(z)
        x = h.flatten(2).transpose(1, 2) + t.to(z)[:, None, None] / 1000
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=z.device)
        mask[:, context.shape[1] - self.padding :] = False
        for block in self.blocks:
            x = x + block["attn"](x)
            x = x + block["cross"](x, context, mask=mask if self.padding else None)
        out = self.out(x).transpose(1, 2).reshape(len(z), 16, *h.shape[-2:])
        return F.pixel_shuffle(out, 2)


LDM = {CrossAttention: layer(q="to_q", k="to_k", v="to_v", out="to_out", heads="heads")}
FUSED = {
    FusedSelf: layer(qkv="in_proj", out="out_proj", heads="n_heads"),
    SeparateCross: layer(q="q_proj", k="k_proj", v="v_proj", out="out_proj", heads="n_heads"),
}
DIT = {
    FusedSelf: FUSED[FusedSelf],
    DitCross: layer(q="q_linear", kv="kv_linear", out="proj", heads="num_heads"),
}
STYLES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "ldm": (LdmLike, LDM),
    "fused": (FusedLike, FUSED),
    "dit": (DitLike, DIT),
    "dit-masked": (lambda: DitLike(padding=3), DIT),
}


def foreign(style: str) -> tuple[nn.Module, AdaptedNetwork]:
    """The module as its authors have it, and the same weights adapted."""
    make, layers = STYLES[style]
    torch.manual_seed(0)
    plain = make().eval()
    net = copy.deepcopy(plain)
    return plain, adapt(net, layers, lambda net, z, t, context: net(z, t, context), context_shape=(7, 10))


def diffusers_unet() -> Any:
    """A small U-Net of diffusers' own."""
    diffusers = pytest.importorskip("diffusers", reason="needs the extra `parity`")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=10,
        attention_head_dim=4,
        layers_per_block=1,
        norm_num_groups=8,
    ).eval()


def inputs(batch: int = 2, size: tuple[int, int] = (8, 12)) -> tuple[Tensor, int, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, *size, generator=generator), 500, torch.randn(batch, 7, 10, generator=generator)
