"""Stable Diffusion v1 networks whose attention can be recorded and rewritten; needs torch and einops only."""

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
    attention_scores,
)
from .config import MINIATURE, SD_V1, StableDiffusionConfig, TextConfig, UNetConfig, VAEConfig
from .foreign import layer
from .network import Network
from .text import TextEncoder
from .unet import UNet
from .vae import VAE, Posterior

__all__ = [
    "MINIATURE",
    "SD_V1",
    "VAE",
    "Attention",
    "AttentionCall",
    "AttentionRecord",
    "AttentionRecords",
    "Control",
    "Network",
    "Posterior",
    "Request",
    "Site",
    "StableDiffusionConfig",
    "TextConfig",
    "TextEncoder",
    "UNet",
    "UNetConfig",
    "VAEConfig",
    "adapt",
    "attention_scores",
    "layer",
]
