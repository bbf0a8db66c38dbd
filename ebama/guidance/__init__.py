"""The parts of a method, and how an energy over attention maps becomes steps of the latent."""

from __future__ import annotations

from .any_network import AnyMethod, guide_for, start_for
from .composition import Composition, compose
from .conditioning import Conditioning, classifier_free
from .gradient import Energy, Losses, Maps, Refinement, Step, descent, gradient_guide
from .gradient_method import GradientMethod, guidance_resolution
from .method import Controls, Cost, GuidanceResult, Guide, Method, Needs, Start
from .task import PipelineInputs, Task

__all__ = [
    "AnyMethod",
    "Composition",
    "Conditioning",
    "Controls",
    "Cost",
    "Energy",
    "GradientMethod",
    "GuidanceResult",
    "Guide",
    "Losses",
    "Maps",
    "Method",
    "Needs",
    "PipelineInputs",
    "Refinement",
    "Start",
    "Step",
    "Task",
    "classifier_free",
    "compose",
    "descent",
    "gradient_guide",
    "guidance_resolution",
    "guide_for",
    "start_for",
]
