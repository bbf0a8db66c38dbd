"""OpenCLIP's text encoders in single files: other names, queries, keys and values in one, the projection transposed.

`split` takes such weights apart before they are renamed, `join` puts ours together before they are named for a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from ebama.models import TextConfig

from ..files.tensors import Entry
from .renaming import ITSELF, Block, Parts

Weights: TypeAlias = dict[str, Tensor]

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # in the order of their rows
_FUSED = re.compile(r"(.*\battn\.)in_proj_(weight|bias)")
_PROJECTED = re.compile(r"(.*\bself_attn\.)[qkv]_proj\.(weight|bias)")
_PROJECTION = "text_projection"
_TURNED = {_PROJECTION, "visual.proj"}  # [from, to] there, [to, from] here
_LAYER: Parts = {
    ".layer_norm1": (".ln_1",),
    ".self_attn": (".attn",),
    ".layer_norm2": (".ln_2",),
    ".mlp.fc1": (".mlp.c_fc",),
    ".mlp.fc2": (".mlp.c_proj",),
}


def text_blocks(config: TextConfig) -> Iterator[Block]:
    """Our names and OpenCLIP's of a text encoder's weights."""
    yield "embeddings.token_embedding", "token_embedding", ITSELF
    yield "embeddings.position_embedding.weight", "positional_embedding", ITSELF
    for i in range(config.layers):
        yield f"encoder.layers.{i}", f"transformer.resblocks.{i}", _LAYER
    yield "final_layer_norm", "ln_final", ITSELF
    if config.projection_width:
        yield "text_projection.weight", _PROJECTION, ITSELF


def is_unread(name: str, config: TextConfig) -> bool:
    """Whether an OpenCLIP weight is of the layer after the last that the encoder runs, or of the rest of OpenCLIP."""
    unread = (f"transformer.resblocks.{config.layers}.", "logit_scale", "attn_mask", "visual.")
    return name.startswith(unread) or (name.startswith(_PROJECTION) and not config.projection_width)


def split(name: str, entry: Entry) -> list[tuple[str, Entry]]:
    """The weights of which an entry consists; most are one as they are."""
    if name.removeprefix("model.") in _TURNED and len(entry.shape) == 2:
        return [(name, Entry(entry.key, entry.shape[::-1], entry.dtype, lambda: entry.read().T))]
    match = _FUSED.fullmatch(name)
    if match is None or not entry.shape or entry.shape[0] % 3:
        return [(name, entry)]
    whole: list[Tensor] = []  # read once for all three

    def part(i: int) -> Tensor:
        whole.extend([] if whole else [entry.read()])
        return whole[0].chunk(3)[i]

    shape = (entry.shape[0] // 3, *entry.shape[1:])
    return [
        (f"{match[1]}{projection}.{match[2]}", Entry(entry.key, shape, entry.dtype, partial(part, i)))
        for i, projection in enumerate(_PROJECTIONS)
    ]


def fused_name(name: str) -> str:
    """Our name of the weight that holds this one in OpenCLIP."""
    return _PROJECTED.sub(r"\1in_proj_\2", name)


def join(weights: Weights) -> Weights:
    """Weights by our names -> by those of `fused_name`, as OpenCLIP has them."""
    joined: Weights = {}
    for name, weight in weights.items():
        match = _PROJECTED.fullmatch(name)
        if match:
            parts = [weights[f"{match[1]}{projection}.{match[2]}"] for projection in _PROJECTIONS]
            joined.setdefault(fused_name(name), torch.cat(parts))
        else:
            joined[name] = weight.T if name == f"{_PROJECTION}.weight" else weight
    return joined
