"""What attention did during a run: recording, curves and figures."""

from __future__ import annotations

from .trace import Quantity, Trace, TraceOptions, TraceRecorder

__all__ = ["Quantity", "Trace", "TraceOptions", "TraceRecorder"]
