"""Attention during a run: recording, curves and figures."""

from __future__ import annotations

from .capture.options import TraceOptions
from .capture.recorder import TraceRecorder
from .capture.source import Source
from .tensors import Quantity
from .trace import Trace

__all__ = ["Quantity", "Source", "Trace", "TraceOptions", "TraceRecorder"]
