"""The parts of a method, and how an energy over attention maps becomes steps of the latent."""

from __future__ import annotations

from .gradient import Energy, GradientMethod, Maps, Refinement, gradient_guide
from .method import Conditioning, Controls, Cost, GuidanceResult, Guide, Method, Needs, Task, classifier_free

__all__ = [
    "Conditioning",
    "Controls",
    "Cost",
    "Energy",
    "GradientMethod",
    "GuidanceResult",
    "Guide",
    "Maps",
    "Method",
    "Needs",
    "Refinement",
    "Task",
    "classifier_free",
    "gradient_guide",
]
