"""Weights -> a few digits that tell them from others."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn


def fingerprint(*networks: nn.Module) -> str:
    """16 hex digits that change when the weights do: SHA-256 over up to 64 values of each tensor, in float32.

    All values would take seconds at full size; a training, however short, moves some of these.
    """
    digest = hashlib.sha256()
    for network in networks:
        for name, tensor in network.state_dict().items():
            every = max(1, math.ceil(tensor.numel() / 64))
            # Not reshape(-1), which copies channels_last weights: seconds at full size.
            values = tensor.take(torch.arange(0, tensor.numel(), every, device=tensor.device))
            digest.update(f"{name} {list(tensor.shape)}".encode())
            digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
