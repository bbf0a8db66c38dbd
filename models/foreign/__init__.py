"""Attention layers of foreign modules: their description, ours over their weights, and how the two are compared."""

from __future__ import annotations

from .adapted import AdaptedNetwork, Call
from .layer import CannotAdaptError, Layer, layer, usual_layer
from .multihead import keep_forward
from .opened import Open
from .projections import attention_over

__all__ = [
    "AdaptedNetwork",
    "Call",
    "CannotAdaptError",
    "Layer",
    "Open",
    "attention_over",
    "keep_forward",
    "layer",
    "usual_layer",
]
