"""The pipeline that several commands run, on the device and in the precision asked for."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import torch

from ebama.weights import load
from ebama.weights.loading import check_device

from ..guidance import AnyMethod
from ..pipeline import Pipeline
from ..runtime.exhaustion import is_exhausted
from .arguments import MODEL


def open_pipeline(options: argparse.Namespace, *, memory: str | None = None, **changed: Any) -> Pipeline:
    """A pipeline on the model that the options MODEL name, some of them `changed`; ValueError for a device that is not
    there."""
    weights, prediction, device, dtype = (changed.get(name, getattr(options, name)) for name in MODEL)
    check_device(device)
    try:
        sd = load(weights, device=device, dtype=getattr(torch, dtype or "float32"), prediction=prediction)
        return Pipeline(sd, memory=memory)
    except Exception as error:
        if not is_exhausted(error):
            raise
        raise MemoryError(f"The weights do not fit into the memory of {device!r}; try --dtype float16.") from error


def check_drawing() -> None:
    """Raise ValueError, before there is any work to lose, if matplotlib cannot be imported for its settings."""
    os.environ.pop("MPLBACKEND", None)  # of windows, of which there are none
    try:
        import_module("matplotlib")
    except ValueError as error:
        raise ValueError(
            f"matplotlib cannot read its settings ({error}); mend or remove the matplotlibrc of this folder or of its "
            "own configuration."
        ) from error


def check_prompts(
    pipeline: Pipeline, prompts: Sequence[str], systems: Iterable[AnyMethod], options: argparse.Namespace, **words: Any
) -> None:
    """Raise ValueError for a prompt that one of the methods could not be run with, before any is.

    `words` are groups and boxes. Warnings are left to the runs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for prompt in prompts:
            for method in systems:
                pipeline.read(prompt, method, parser=options.parser, ignore=options.ignore, **words)
