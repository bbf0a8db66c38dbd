"""Methods that place objects in boxes: each object of a prompt that has one (`Group.box`)."""

from __future__ import annotations

from .boxdiff import BoxDiff
from .layout_guidance import LayoutGuidance

__all__ = ["BoxDiff", "LayoutGuidance"]
