"""The prompts that methods are compared on: published benchmarks by name, own lists from files."""

from __future__ import annotations

from .benchmark import ane_objects, load, load_ane
from .prompt import BenchmarkPrompt, Boxes

__all__ = ["BenchmarkPrompt", "Boxes", "ane_objects", "load", "load_ane"]
