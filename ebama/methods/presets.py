"""Options whose right value depends on the model; the classes' defaults are Stable Diffusion v1's."""

from __future__ import annotations

from typing import Any

from ..models import MINIATURE, StableDiffusionConfig

MINIATURE_OPTIONS: dict[str, dict[str, Any]] = {
    "ane": {"step_size": 6.0},
    "syngen": {"step_size": 3.0},
    "ebama": {
        "step_size": 15.0,
        "intensity_weight": 1.0,
        "guided_steps": 12,  # later ones bind nothing more, and of 50 steps they stain and break
        "center": True,
    },
    "ebama-official": {"step_size": 10.0},
    "conform": {"step_size": 8.0},
    "divide-and-bind": {"step_size": 12.0},
    "ebca": {"gamma_attention": 0.002, "gamma_norm": 0.004},
    "attention-regulation": {"edited_calls": 8, "share": 0.1},
    "initno": {"step_size": 3.0, "learning_rate": 0.03, "max_rounds": 1, "iterations": 6, "final_iterations": 0},
    "self-cross": {"step_size": 10.0, "learning_rate": 0.03, "max_rounds": 1, "iterations": 6, "final_iterations": 0},
    "boxdiff": {"step_size": 10.0, "max_refinements": 3},
}
"""Chosen on prompts outside the benchmark; docs/methods.md says how and has the figures."""


V2_OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"normalize_eot": True} for name in ("ane", "boxdiff", "divide-and-bind", "ebama-official")},
    "self-cross": {"max_rounds": 0, "guided_steps": 40},
}
"""As the codes of Attend-and-Excite and Self-Cross have it for Stable Diffusion 2.1. All else is v1's, for Stable
Diffusion XL too: neither was tuned on real weights."""


def preset(name: str, config: StableDiffusionConfig) -> dict[str, Any]:
    """The options of a method that differ from its defaults for a model of this shape."""
    if config.unet == MINIATURE.unet:
        return MINIATURE_OPTIONS.get(name, {})
    return V2_OPTIONS.get(name, {}) if config.version == "2" else {}
