"""The networks of a configuration without memory for weights, and the names and shapes of the weights they want."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import nn

from ebama.models import VAE, StableDiffusionConfig, TextEncoder, UNet

Shape = tuple[int, ...]

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
"""The components that are text encoders, in the order in which the U-Net reads them."""


def build_on_meta(config: StableDiffusionConfig) -> dict[str, nn.Module]:
    """The networks on the meta device, built in no time and without drawing random numbers."""
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {"unet": UNet(config.unet), "vae": VAE(config.vae)}
        for name, text in zip(TEXT_ENCODERS, config.texts, strict=False):
            networks[name] = TextEncoder(text)
        return networks


def shapes(networks: Mapping[str, nn.Module]) -> dict[str, dict[str, Shape]]:
    """The shape of every weight of some networks, by component and name."""
    return {
        component: {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
        for component, network in networks.items()
    }


@lru_cache(maxsize=8)
def expected_shapes(config: StableDiffusionConfig) -> dict[str, dict[str, Shape]]:
    """The same for the networks of `config`; not to be changed."""
    return shapes(build_on_meta(config))
