"""Stable Diffusion v1 networks whose attention can be recorded and rewritten; needs torch and einops only.

(`TextEncoder` needs transformers too, and imports it when it is first asked for.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .attention import Attention, AttentionCall, AttentionRecord, AttentionRecords, Control, Site
from .config import MINIATURE, SD_V1, StableDiffusionConfig, TextConfig, UNetConfig, VAEConfig
from .unet import UNet
from .vae import VAE, Posterior

if TYPE_CHECKING:
    from .text import TextEncoder

__all__ = [
    "MINIATURE",
    "SD_V1",
    "VAE",
    "Attention",
    "AttentionCall",
    "AttentionRecord",
    "AttentionRecords",
    "Control",
    "Posterior",
    "Site",
    "StableDiffusionConfig",
    "TextConfig",
    "TextEncoder",
    "UNet",
    "UNetConfig",
    "VAEConfig",
]


def __getattr__(name: str) -> object:
    if name == "TextEncoder":
        from .text import TextEncoder

        return TextEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
