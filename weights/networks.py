"""The networks of a configuration without memory for weights, and the names and shapes of the weights they want."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ebama.models import VAE, StableDiffusionConfig, TextEncoder, UNet

Shape = tuple[int, ...]


def build_on_meta(config: StableDiffusionConfig) -> dict[str, nn.Module]:
    """The networks on the meta device, built in no time and without drawing random numbers."""
    with torch.device("meta"):
        return {"unet": UNet(config.unet), "vae": VAE(config.vae), "text_encoder": TextEncoder(config.text)}


def shapes(networks: Mapping[str, nn.Module]) -> dict[str, dict[str, Shape]]:
    """The shape of every weight of three networks, by component and name."""
    return {
        component: {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
        for component, network in networks.items()
    }


def expected_shapes(config: StableDiffusionConfig) -> dict[str, dict[str, Shape]]:
    """The same for the networks of `config`."""
    return shapes(build_on_meta(config))
