"""Methods that place objects in boxes: each object of a prompt that has one (`Group.box`)."""

from __future__ import annotations

from .bounded_attention import BoundedAttention
from .boxdiff import BoxDiff
from .layout_guidance import LayoutGuidance

__all__ = ["BoundedAttention", "BoxDiff", "LayoutGuidance"]
