"""Names and shapes of the weights that the networks of a configuration have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from ebama.models import VAE, StableDiffusionConfig, TextConfig, UNet

Shape = tuple[int, ...]


def shapes(networks: Mapping[str, nn.Module]) -> dict[str, dict[str, Shape]]:
    """The shape of every weight of three networks, by component and name."""
    return {component: _shapes(network) for component, network in networks.items()}


def expected_shapes(config: StableDiffusionConfig) -> dict[str, dict[str, Shape]]:
    """The same for the networks of `config`, without memory for weights and without importing transformers."""
    with torch.device("meta"):
        unet, vae = UNet(config.unet), VAE(config.vae)
    return {"unet": _shapes(unet), "vae": _shapes(vae), "text_encoder": dict(_text_shapes(config.text))}


def _shapes(network: nn.Module) -> dict[str, Shape]:
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items()}


def _text_shapes(config: TextConfig) -> Iterator[tuple[str, Shape]]:
    width, mlp = config.width, config.mlp_width
    yield "embeddings.token_embedding.weight", (config.vocabulary, width)
    yield "embeddings.position_embedding.weight", (config.positions, width)
    layers: dict[str, Shape] = {
        **{f"self_attn.{part}_proj": (width, width) for part in ("k", "v", "q", "out")},
        "layer_norm1": (width,),
        "mlp.fc1": (mlp, width),
        "mlp.fc2": (width, mlp),
        "layer_norm2": (width,),
    }
    named = {f"encoder.layers.{i}.{name}": shape for i in range(config.layers) for name, shape in layers.items()}
    for name, shape in {**named, "final_layer_norm": (width,)}.items():
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]
