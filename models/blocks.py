"""The convolutional blocks that the U-Net and the VAE share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ResBlock(nn.Module):
    """GroupNorm, SiLU, conv, [+ time], GroupNorm, SiLU, conv, + skip; [B, C_in, h, w] -> [B, C_out, h, w]."""

    def __init__(
        self, in_width: int, out_width: int, *, groups: int, eps: float, time_width: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_width, eps=eps)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, out_width) if time_width else None
        self.norm2 = nn.GroupNorm(groups, out_width, eps=eps)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_width, out_width, 1) if in_width != out_width else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """`time` is the embedding [B, time_width], wanted if and only if the block was built with `time_width`."""
        h: Tensor = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            assert time is not None
            h = h + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        shortcut: Tensor = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return h + shortcut


class Downsample(nn.Module):
    """Convolution with stride 2. The U-Net pads all around, the VAE's encoder only right and bottom."""

    def __init__(self, width: int, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h/2, w/2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest neighbour x2, then convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, 2h, 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class Level(nn.Module):
    """The modules of one level under diffusers' names; the networks run them, a level itself does nothing."""

    def __init__(
        self,
        resnets: list[ResBlock],
        attentions: list[nn.Module] | None = None,
        *,
        downsample: Downsample | None = None,
        upsample: Upsample | None = None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions or [])
        self.downsamplers = nn.ModuleList([downsample] if downsample else [])
        self.upsamplers = nn.ModuleList([upsample] if upsample else [])
