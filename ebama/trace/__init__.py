"""Attention during a run: recording, curves and figures."""

from __future__ import annotations

from .recorder import TraceOptions, TraceRecorder
from .trace import Quantity, Trace

__all__ = ["Quantity", "Trace", "TraceOptions", "TraceRecorder"]
