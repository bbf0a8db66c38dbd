"""Attention that hands out its scores before softmax: the operation, the layer, sites, records and controls.

A *site* is one attention layer of a network at one input size. The caller of the network says which sites to record
and gets their scores back as *records*; nothing is stored on a module and no hook is needed.
"""

from __future__ import annotations

from .control import AttentionCall, Control
from .layer import Attention, AttentionResult, Request, attention_scores
from .records import AttentionRecord, AttentionRecords, resized
from .sites import Kind, Site, select_sites, site_names
from .texts import attention_to, text_maps
from .watch import Watch

__all__ = [
    "Attention",
    "AttentionCall",
    "AttentionRecord",
    "AttentionRecords",
    "AttentionResult",
    "Control",
    "Kind",
    "Request",
    "Site",
    "Watch",
    "attention_scores",
    "attention_to",
    "resized",
    "select_sites",
    "site_names",
    "text_maps",
]
