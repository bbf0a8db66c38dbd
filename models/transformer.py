"""The attention block of the U-Net: self-attention, cross-attention and a gated feed-forward over pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, AttentionRecord, AttentionResult, Request, Site


class BlockResult(NamedTuple):
    """`out` is None where the request said to stop; `context` is what the next block reads."""

    out: Tensor | None
    records: tuple[AttentionRecord, ...]
    context: Tensor


class GEGLU(nn.Module):
    """value * gelu(gate) of one projection that makes [value, gate] in that order; exact (erf) gelu."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * out_width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., out_width]."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """GEGLU to four times the width and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Identity stands where other code bases have dropout, so that the parameter names agree.
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.net(x)  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """x += self-attention(norm x); x += cross-attention(norm x, context); x += feed-forward(norm x)."""

    def __init__(self, width: int, heads: int, context_width: int, *, upcast: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-5)
        self.attn1 = Attention(width, heads, upcast=upcast)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)
        self.attn2 = Attention(width, heads, context_width, upcast=upcast)
        self.norm3 = nn.LayerNorm(width, eps=1e-5)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor, sites: tuple[Site, Site], request: Request) -> BlockResult:
        """x [B, pixels, width], context [B, key, D]; `sites` are those of self- and of cross-attention."""
        first: AttentionResult = self.attn1(self.norm1(x), site=sites[0], request=request)
        records = () if first.record is None else (first.record,)
        if first.out is None:
            return BlockResult(None, records, context)
        x = x + first.out
        second: AttentionResult = self.attn2(self.norm2(x), context, site=sites[1], request=request)
        records = records if second.record is None else (*records, second.record)
        if second.out is None:
            return BlockResult(None, records, second.context)
        x = x + second.out
        return BlockResult(x + self.ff(self.norm3(x)), records, second.context)


class PixelLinear(nn.Conv2d):
    """A linear layer over flattened pixels that keeps 1x1-convolution weights."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return F.linear(x, self.weight.flatten(1), self.bias)


class SpatialTransformer(nn.Module):
    """GroupNorm, linear layer, transformer blocks over pixels in row-major order, linear layer, + skip.

    `linear` says whether the linear layers' weights are matrices, and not those of 1x1 convolutions.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int,
        *,
        depth: int,
        groups: int,
        linear: bool = False,
        upcast: bool = False,
    ) -> None:
        super().__init__()

        def projection() -> nn.Module:
            return nn.Linear(width, width) if linear else PixelLinear(width)

        self.norm = nn.GroupNorm(groups, width, eps=1e-6)  # 1e-6 here, 1e-5 in the U-Net's ResBlocks
        self.proj_in = projection()
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, heads, context_width, upcast=upcast) for _ in range(depth)
        )
        self.proj_out = projection()

    def sites(self, name: str, resolution: tuple[int, int]) -> list[tuple[Site, Site]]:
        """(self, cross) sites of each block, in execution order; `name` is this module's path."""
        return [
            (
                Site(f"{name}.transformer_blocks.{i}.attn1", "self", resolution, block.attn1.heads),  # type: ignore[union-attr, arg-type]
                Site(f"{name}.transformer_blocks.{i}.attn2", "cross", resolution, block.attn2.heads),  # type: ignore[union-attr, arg-type]
            )
            for i, block in enumerate(self.transformer_blocks)
        ]

    def forward(self, x: Tensor, context: Tensor, sites: Sequence[tuple[Site, Site]], request: Request) -> BlockResult:
        """x [B, width, h, w], context [B, key, D]."""
        h = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        records: tuple[AttentionRecord, ...] = ()
        for block, pair in zip(self.transformer_blocks, sites, strict=True):
            result: BlockResult = block(h, context, pair, request)
            records, context = records + result.records, result.context
            if result.out is None:
                return BlockResult(None, records, context)
            h = result.out
        out = x + rearrange(self.proj_out(h), "b (h w) c -> b c h w", h=x.shape[2])
        return BlockResult(out, records, context)
