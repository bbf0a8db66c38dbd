"""The variational autoencoder of Stable Diffusion, both ways."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention
from .blocks import Downsample, Level, ResBlock, Upsample
from .config import VAEConfig

EPS = 1e-6


@dataclass(frozen=True, eq=False)
class Posterior:
    """Diagonal Gaussian over latents, `mean` and `logvar` [B, 4, h, w] in VAE units (not scaled)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """mean + std * noise; the noise is drawn on the generator's device (CPU if None) and moved."""
        device = generator.device if generator is not None else torch.device("cpu")
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=torch.float32)
        return self.mean + (0.5 * self.logvar).exp() * noise.to(self.mean)


class PixelAttention(Attention):
    """Single-head self-attention over pixels with its own norm and residual, [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, width: int, *, groups: int) -> None:
        super().__init__(width, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, width, eps=EPS)

    def attend(self, x: Tensor) -> Tensor:
        """Residual attention over all pixels of x."""
        out: Tensor = self(rearrange(self.group_norm(x), "b c h w -> b (h w) c")).out
        return x + rearrange(out, "b (h w) c -> b c h w", h=x.shape[2])


class _Coder(nn.Module):
    """Shared by encoder and decoder: the middle and the way out."""

    def __init__(self, config: VAEConfig, width_out: int, channels_out: int) -> None:
        super().__init__()
        width, groups = config.widths[-1], config.norm_groups
        self.mid_block = Level(
            [ResBlock(width, width, groups=groups, eps=EPS) for _ in range(2)],
            [PixelAttention(width, groups=groups)] if config.mid_attention else None,
        )
        self.conv_norm_out = nn.GroupNorm(groups, width_out, eps=EPS)
        self.conv_out = nn.Conv2d(width_out, channels_out, 3, padding=1)

    def _middle(self, h: Tensor) -> Tensor:
        h = self.mid_block.resnets[0](h)
        for attention in self.mid_block.attentions:
            h = attention.attend(h)  # type: ignore[operator]
        return self.mid_block.resnets[1](h)  # type: ignore[no-any-return]

    def _out(self, h: Tensor) -> Tensor:
        return self.conv_out(F.silu(self.conv_norm_out(h)))  # type: ignore[no-any-return]


class Encoder(_Coder):
    """Image [B, 3, H, W] -> moments [B, 2 * latent channels, H / factor, W / factor]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config, config.widths[-1], 2 * config.latent_channels)
        self.conv_in = nn.Conv2d(config.image_channels, config.widths[0], 3, padding=1)
        levels, before = [], config.widths[0]
        for i, width in enumerate(config.widths):
            resnets = [
                ResBlock(before if j == 0 else width, width, groups=config.norm_groups, eps=EPS)
                for j in range(config.blocks)
            ]
            last = i == len(config.widths) - 1
            levels.append(Level(resnets, downsample=None if last else Downsample(width, asymmetric=True)))
            before = width
        self.down_blocks = nn.ModuleList(levels)

    def forward(self, x: Tensor) -> Tensor:
        """Moments before `quant_conv`."""
        h = self.conv_in(x)
        for level in self.down_blocks:
            for module in (*level.resnets, *level.downsamplers):  # type: ignore[misc]
                h = module(h)
        return self._out(self._middle(h))


class Decoder(_Coder):
    """Latent [B, 4, h, w] -> image [B, 3, h * factor, w * factor]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config, config.widths[0], config.image_channels)
        self.conv_in = nn.Conv2d(config.latent_channels, config.widths[-1], 3, padding=1)
        levels, before = [], config.widths[-1]
        for i, width in enumerate(reversed(config.widths)):
            resnets = [
                ResBlock(before if j == 0 else width, width, groups=config.norm_groups, eps=EPS)
                for j in range(config.blocks + 1)
            ]
            levels.append(Level(resnets, upsample=None if i == len(config.widths) - 1 else Upsample(width)))
            before = width
        self.up_blocks = nn.ModuleList(levels)

    def forward(self, z: Tensor) -> Tensor:
        """Image in about [-1, 1] from a latent that went through `post_quant_conv`."""
        h = self._middle(self.conv_in(z))
        for level in self.up_blocks:
            for module in (*level.resnets, *level.upsamplers):  # type: ignore[misc]
                h = module(h)
        return self._out(h)


class VAE(nn.Module):
    """Autoencoder between images [B, 3, H, W] in [-1, 1] and latents [B, 4, H / factor, W / factor].

    Both directions are in VAE units: a latent of the diffusion model is `vae.scale` times a sample of the posterior.
    """

    def __init__(self, config: VAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VAEConfig()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    @property
    def scale(self) -> float:
        """Latent of the diffusion model = scale * sample of the posterior (SD v1: 0.18215)."""
        return self.config.scale

    def encode(self, x: Tensor) -> Posterior:
        """Posterior over latents of images [B, 3, H, W] in [-1, 1]; H and W must be multiples of `config.factor`."""
        factor, channels = self.config.factor, self.config.image_channels
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"VAE.encode got shape {list(x.shape)}; "
                f"expected [B, {channels}, H, W] with H and W multiples of {factor}."
            )
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Tensor) -> Tensor:
        """Images [B, 3, H, W] in about [-1, 1] (not clamped) of latents [B, 4, h, w] in VAE units."""
        if z.ndim != 4 or z.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"VAE.decode got shape {list(z.shape)}; expected [B, {self.config.latent_channels}, h, w] "
                "(a latent of the diffusion model divided by vae.scale)."
            )
        return self.decoder(self.post_quant_conv(z))  # type: ignore[no-any-return]
