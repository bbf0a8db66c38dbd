"""What the command `generate` does: pictures into files as they are finished, each with its recipe."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ebama.samplers import DDIM, get
from ebama.weights import load

from . import methods
from .methods import Method
from .pipeline import Pipeline, Sampler
from .png import read_metadata, save_png
from .prompt import Group, Words
from .sheet import contact_sheet


@dataclass(frozen=True)
class Recipe:
    """Everything about a run but its method and its seeds; see `Pipeline.__call__` for the meanings."""

    prompt: str
    steps: int = 50
    guidance: float = 7.5
    sampler: str | Sampler = "pndm"
    negative_prompt: str = ""
    groups: Sequence[Group | Words] | None = None
    parser: str = "auto"


def generate(
    recipe: Recipe,
    chosen: dict[str, dict[str, Any]],
    seeds: Sequence[int],
    out: Path,
    *,
    batch_size: int,
    weights: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> None:
    """Make a picture for each method (name -> hyper-parameters) and seed, and a contact sheet if there are several.

    Whatever can be wrong is checked before the first picture; each file is written as soon as its batch is done.
    """
    systems: dict[str, Method] = {name: methods.get(name, **options) for name, options in chosen.items()}
    if isinstance(recipe.sampler, str):
        get(recipe.sampler, recipe.steps)
    _check_writable(out)
    pipeline = Pipeline(load(weights, device=device, dtype=getattr(torch, dtype)))
    folder = out / _slug(recipe.prompt)
    rows: list[tuple[str, list[Image.Image]]] = []
    for name, method in systems.items():
        images: list[Image.Image] = []
        start = time.perf_counter()
        for first in range(0, len(seeds), batch_size):
            result = _run(pipeline, recipe, method, seeds[first : first + batch_size])
            assert result.images is not None
            folder.mkdir(parents=True, exist_ok=True)
            for image, metadata in zip(result.images, result.metadata, strict=True):
                metadata = {**metadata, "weights": str(weights) if weights else None, "dtype": dtype}
                path = _free(folder / f"{name}-seed{metadata['seed']:04d}.png", metadata)
                save_png(image, path, metadata)
                print(path)
            images += result.images
        each = (time.perf_counter() - start) / len(seeds)
        print(f"{name}: {each:.2f} s per picture", file=sys.stderr)
        rows.append((name, images))
    if len(rows) * len(seeds) > 1:
        path = folder / "sheet.png"
        save_png(contact_sheet(rows, [f"seed {seed}" for seed in seeds]), path)
        print(path)


def again(source: Path, out: Path, weights: Path | None, device: str, dtype: str) -> None:
    """Make the picture of a PNG that `generate` wrote again, and say whether every pixel agrees."""
    stored = read_metadata(source)
    if stored["seed"] is None:
        raise ValueError(f"{source} was made from latents given by hand; there is no seed to make it again from.")
    if weights is None and stored["weights"] is not None:
        weights = Path(stored["weights"])
    _check_writable(out)
    options = dict(stored["method"])
    method = methods.get(options.pop("name"), **options)
    solver = stored["sampler"]
    recipe = Recipe(
        prompt=stored["prompt"],
        guidance=stored["guidance"],
        sampler=DDIM(solver["steps"], solver["eta"])
        if solver["name"] == "ddim"
        else get(solver["name"], solver["steps"]),
        negative_prompt=stored["negative_prompt"],
        groups=[Group(tuple(g["object"]), tuple(tuple(m) for m in g["modifiers"])) for g in stored["groups"]],
    )
    pipeline = Pipeline(load(weights, device=device, dtype=getattr(torch, dtype)))
    result = _run(pipeline, recipe, method, [stored["seed"]])
    assert result.images is not None
    path = out / f"{source.stem}-again.png"
    save_png(result.images[0], path, {**stored, **result.metadata[0]})
    print(path)
    with Image.open(source) as original:
        difference = np.abs(np.asarray(original, dtype=int) - np.asarray(result.images[0], dtype=int)).max()
    print(
        "every pixel is the same" if difference == 0 else f"pixels differ by up to {difference} of 255", file=sys.stderr
    )


def _run(pipeline: Pipeline, recipe: Recipe, method: Method, seeds: Sequence[int]) -> Any:
    return pipeline(
        recipe.prompt,
        seeds=list(seeds),
        method=method,
        steps=recipe.steps,
        guidance=recipe.guidance,
        sampler=recipe.sampler,
        groups=recipe.groups,
        negative_prompt=recipe.negative_prompt,
        parser=recipe.parser,
        batch_size=len(seeds),
    )


def _check_writable(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass


def _slug(prompt: str) -> str:
    return "-".join(re.findall(r"\w+", prompt.lower()))[:80] or "prompt"


def _free(path: Path, metadata: dict[str, Any]) -> Path:
    """`path`, or a numbered one beside it if another recipe's picture lies there: nothing is overwritten."""
    candidate, number = path, 1
    while candidate.exists() and _recipe_of(candidate) != _comparable(metadata):
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def _recipe_of(path: Path) -> Any:
    try:
        return _comparable(read_metadata(path))
    except ValueError:
        return None


def _comparable(metadata: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in metadata.items() if key != "versions"}, sort_keys=True)
