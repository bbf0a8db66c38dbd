"""What the command `generate` does: pictures into files as they are finished, each with its recipe."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ebama.samplers import DDIM, NoiseSchedule, get
from ebama.weights import load

from . import methods
from .methods import Method
from .output.png import read_metadata, save_png
from .pipeline import Pipeline, Sampler
from .prompt import Group, Words, parsers
from .trace.sheet import contact_sheet

_NEEDED = frozenset(
    ("prompt", "seed", "method", "sampler", "guidance", "negative_prompt", "groups", "parser", "weights", "dtype")
)


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
    systems: Mapping[str, Method],
    seeds: Sequence[int],
    out: Path,
    *,
    batch_size: int,
    weights: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    memory: str | None = None,
) -> None:
    """Make a picture for each method (under the name of its files) and seed, and a contact sheet if there are several.

    Whatever else can be wrong is checked before the first picture; each file is written as soon as its batch is done.
    """
    if isinstance(recipe.sampler, str):
        get(recipe.sampler, recipe.steps)
    folder = out / slug(recipe.prompt)
    check_writable(folder)
    pipeline = open_pipeline(weights, device, dtype, memory)
    rows: list[tuple[str, list[Image.Image]]] = []
    names: list[str] = []
    for name, method in systems.items():
        images: list[Image.Image] = []
        start = time.perf_counter()
        for first in range(0, len(seeds), batch_size):
            result = _run(pipeline, recipe, method, seeds[first : first + batch_size])
            assert result.images is not None
            folder.mkdir(parents=True, exist_ok=True)
            for image, metadata in zip(result.images, result.metadata, strict=True):
                metadata = complete(metadata, weights, dtype)
                path = _free(folder / f"{name}-seed{metadata['seed']:04d}.png", metadata)
                save_png(image, path, metadata)
                print(path, flush=True)
                names.append(path.name)
            images += result.images
        each = (time.perf_counter() - start) / len(seeds)
        print(f"{name}: {each:.2f} s per picture", file=sys.stderr)
        rows.append((name, images))
    if len(rows) * len(seeds) > 1:
        sheet = {"pictures": names}
        path = _free(folder / "sheet.png", sheet)
        save_png(contact_sheet(rows, [f"seed {seed}" for seed in seeds]), path, sheet)
        print(path)


def again(source: Path, out: Path, weights: Path | None, device: str, dtype: str | None) -> None:
    """Make the picture of a PNG that `generate` wrote again, and say whether every pixel agrees.

    `weights` and `dtype` replace those that it was made with.
    """
    stored = read_metadata(source)
    if missing := sorted(_NEEDED - set(stored)):
        raise ValueError(f"{source} holds no recipe of a single picture: {', '.join(missing)} are missing.")
    if stored["seed"] is None:
        raise ValueError(f"{source} was made from latents given by hand; there is no seed to make it again from.")
    if weights is None and stored["weights"] is not None:
        weights = Path(stored["weights"])
    check_writable(out)
    options = dict(stored["method"])
    method = methods.get(options.pop("name"), **options)
    solver = stored["sampler"]
    schedule = NoiseSchedule(**solver.get("schedule", {}))
    recipe = Recipe(
        prompt=stored["prompt"],
        guidance=stored["guidance"],
        sampler=DDIM(solver["steps"], solver["eta"], schedule)
        if solver["name"] == "ddim"
        else replace(get(solver["name"], solver["steps"]), schedule=schedule),
        negative_prompt=stored["negative_prompt"],
        # What is stored says all that is read out of a prompt, but for the phrases.
        parser=stored["parser"] if method.needs.phrases or stored["parser"] in parsers.installed() else parsers.RULES,
        groups=[Group(tuple(g["object"]), tuple(tuple(m) for m in g["modifiers"])) for g in stored["groups"]],
    )
    dtype = dtype or stored["dtype"]
    result = _run(open_pipeline(weights, device, dtype), recipe, method, [stored["seed"]])
    assert result.images is not None
    metadata = complete(result.metadata[0], weights, dtype)
    out.mkdir(parents=True, exist_ok=True)
    path = _free(out / f"{source.stem}-again.png", metadata)
    save_png(result.images[0], path, metadata)
    print(path)
    with Image.open(source) as original:
        before, now = (np.asarray(image.convert("RGB"), dtype=int) for image in (original, result.images[0]))
    if before.shape != now.shape:
        says = f"the file's picture is of another size, {original.width}x{original.height}"
    else:
        difference = np.abs(before - now).max()
        says = "every pixel is the same" if difference == 0 else f"pixels differ by up to {difference} of 255"
    if dtype == stored["dtype"] and metadata["fingerprint"] != stored.get("fingerprint"):
        says += "; the weights are not those that it was made with"
    if newer := sorted(set(method.describe()) - set(stored["method"])):
        says += f"; the file does not say {', '.join(newer)}, for which today's defaults were taken"
    print(says, file=sys.stderr)


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


def open_pipeline(weights: Path | None, device: str, dtype: str, memory: str | None = None) -> Pipeline:
    """A pipeline on a checkpoint, or on the miniature; ValueError for a device that is not there."""
    check_device(device)
    try:
        return Pipeline(load(weights, device=device, dtype=getattr(torch, dtype)), memory=memory)
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"The weights do not fit into the memory of {device!r}; try --dtype float16.") from error


def check_device(device: str) -> None:
    """Raise ValueError, in one line, for a device that is not there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # torch's own ways to say that there is no such device
        raise ValueError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error


def complete(metadata: dict[str, Any], weights: Path | None, dtype: str) -> dict[str, Any]:
    """What a pipeline says of a picture, and what it was loaded from: all that `again` needs."""
    return {**metadata, "weights": str(weights) if weights else None, "dtype": dtype}


def check_writable(out: Path) -> None:
    """Raise ValueError unless files could be made in `out`, which need not exist yet and is not made here."""
    existing = next(path for path in (out, *out.resolve().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f"Nothing can be written to {out} ({error.strerror}); choose another folder with --out."
        ) from error


def slug(prompt: str) -> str:
    """The name of a prompt's folder."""
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
    except (ValueError, OSError):
        return None


def _comparable(metadata: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in metadata.items() if key != "versions"}, sort_keys=True)
