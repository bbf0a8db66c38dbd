"""Stable Diffusion's networks whose attention can be recorded and rewritten; needs torch and einops only."""

from __future__ import annotations

from .adapt import adapt
from .attention import (
    Attention,
    AttentionCall,
    AttentionRecord,
    AttentionRecords,
    Control,
    Request,
    Site,
    Watch,
    attention_scores,
    attention_to,
    text_maps,
)
from .conditions import Context, sinusoids
from .config import (
    MINIATURE,
    SD_V1,
    SD_V2,
    SD_V2_V,
    SDXL,
    StableDiffusionConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
)
from .foreign import layer
from .network import Network
from .text import TextEncoder, TextEncoding
from .unet import UNet
from .vae import VAE, Posterior

__all__ = [
    "MINIATURE",
    "SDXL",
    "SD_V1",
    "SD_V2",
    "SD_V2_V",
    "VAE",
    "Attention",
    "AttentionCall",
    "AttentionRecord",
    "AttentionRecords",
    "Context",
    "Control",
    "Network",
    "Posterior",
    "Request",
    "Site",
    "StableDiffusionConfig",
    "TextConfig",
    "TextEncoder",
    "TextEncoding",
    "UNet",
    "UNetConfig",
    "VAEConfig",
    "Watch",
    "adapt",
    "attention_scores",
    "attention_to",
    "layer",
    "sinusoids",
    "text_maps",
]
