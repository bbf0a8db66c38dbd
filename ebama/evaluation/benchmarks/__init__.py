"""The prompts that methods are compared on: published benchmarks by name, own lists from files."""

from __future__ import annotations

from .benchmark import BenchmarkPrompt, ane_objects, load, load_ane

__all__ = ["BenchmarkPrompt", "ane_objects", "load", "load_ane"]
