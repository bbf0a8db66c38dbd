"""Methods that optimise the initial noise before they sample."""

from __future__ import annotations

from .initno import InitNO
from .self_cross import SelfCross

__all__ = ["InitNO", "SelfCross"]
