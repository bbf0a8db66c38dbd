"""A trace as one file, or as a folder with a file for each call of each batch, which is read when it is asked for."""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ebama.models import Site
from ebama.models.attention import Kind
from ebama.weights.files.tensors import write_tensors

from ...checks import is_number
from ...output.files import written_whole
from ...output.reading import parse_object
from ...output.recipe import read_group
from ...prompt import Parsed
from ..tensors import QUANTITIES
from ..trace import Trace
from .source import Source
from .stored import Batch, Stored
from .texts import OtherTexts

KEY = "ebama"
_CALLS = "[!.]*.safetensors"  # without what macOS and programs that copy put beside
PICTURE = "image/"
"""What the names of pictures in a file begin with; their numbers follow."""


def write(trace: Trace, path: Path, **more: Any) -> None:
    """Write a safetensors file, whole or not at all; `more` are facts beside the trace's."""
    facts = {
        "timesteps": trace.timesteps,
        "prompts": [asdict(prompt) for prompt in trace.prompts],
        "sources": [asdict(source) for source in trace.sources],
        "keys": trace.keys,
        **more,
    }
    pictures = {f"{PICTURE}{k}": torch.from_numpy(np.array(image)) for k, image in enumerate(trace.images)}
    with written_whole(path) as partial:
        write_tensors(partial, {**trace.kept, **pictures}, {KEY: json.dumps(facts)})


def load(path: Path, texts: OtherTexts | None = None) -> Trace:
    """Read what `write` wrote, a file or a folder of them; ValueError if it is something else."""
    facts = os.stat(path)  # which raises OSError for a file that is not there
    if stat.S_ISDIR(facts.st_mode):
        return _load_folder(path, texts)
    if not stat.S_ISREG(facts.st_mode):
        raise _no_trace(path)
    try:
        with safe_open(path, framework="pt") as file:
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        images = [kept.pop(f"{PICTURE}{k}").numpy() for k in range(sum(name.startswith(PICTURE) for name in kept))]
        return _trace(_facts(path), kept, images, texts)
    except (SafetensorError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise _no_trace(path) from error


def call_file(folder: Path, samples: Sequence[int], call: int) -> Path:
    """Where a batch's call is written, by the numbers of its samples in the run."""
    return folder / f"sample-{samples[0]:05d}-call-{call:05d}.safetensors"


def check_empty(folder: Path) -> None:
    """Make a folder for the files of calls; ValueError if there are some in it, or it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"folder is {folder}, which cannot be made ({error.strerror}); choose another.") from error
    if any(folder.glob(_CALLS)):
        raise ValueError(f"folder is {folder}, which holds a trace already; choose another or empty it.")


def _load_folder(folder: Path, texts: OtherTexts | None) -> Trace:
    calls: dict[tuple[int, ...], dict[int, tuple[Path, int]]] = {}
    found = {path: _facts_of_call(path) for path in sorted(folder.glob(_CALLS))}
    try:
        if not found:
            raise ValueError("no files")
        for path, facts in found.items():
            calls.setdefault(tuple(facts["samples"]), {})[facts["call"]] = path, facts["timesteps"][0]
        times = {call: t for made in calls.values() for call, (_, t) in made.items()}
        batches = [
            Batch(samples, tuple(made[call][0] if call in made else None for call in sorted(times)))
            for samples, made in sorted(calls.items())
        ]
        stored = Stored(folder, batches)
        parts = [_trace(_facts(next(path for path in batch.files if path)), {}, [], texts) for batch in batches]
        whole = Trace.joined(parts, stored.order)
        return replace(whole, kept=stored, timesteps=tuple(times[call] for call in sorted(times)))
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise _no_trace(folder) from error


def _facts_of_call(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise OSError("it is no file")
        return _facts(path)
    except (OSError, SafetensorError) as error:
        why = f"{path} is no trace ({error}); copy it again, or delete it to go without this call of the network."
        raise ValueError(why) from error
    except (KeyError, TypeError, ValueError) as error:
        raise _no_trace(path) from error


def _facts(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return parse_object(file.metadata()[KEY])


def _trace(
    facts: Mapping[str, Any], kept: Mapping[str, Tensor], images: Sequence[Any], texts: OtherTexts | None
) -> Trace:
    first, *more = sources = [_source(source) for source in facts.get("sources") or [facts]]
    prompts = tuple(_parsed(prompt) for prompt in facts["prompts"])
    timesteps = tuple(facts["timesteps"])
    if not prompts or not timesteps or not all(source.sites for source in sources):
        raise ValueError("of no prompt, of no call, or of no layer")
    if not all(map(is_number, timesteps)) or not all(image.size for image in images):
        raise ValueError("timesteps of wrong types, or pictures of no pixels")
    if any(tensor.shape[:2] != (len(prompts), len(timesteps)) for tensor in kept.values()):
        raise ValueError("not of every prompt at every call")
    for source, name in itertools.product(sources, QUANTITIES):
        maps = kept.get(source.kept_name(name))
        if maps is not None and maps.shape[2:4] != source.resolution:
            raise ValueError("maps of another resolution than their layers'")
    return Trace(
        kept,
        timesteps,
        prompts,
        first.sites,
        first.head,
        tuple(Image.fromarray(image) for image in images),
        number=first.number,
        more=tuple(more),
        keys=tuple(map(tuple, facts.get("keys", ()))),
        texts=texts,
    )


def _source(values: Mapping[str, Any]) -> Source:
    sites = tuple(Site(**{**site, "resolution": tuple(site["resolution"])}) for site in values["sites"])
    source = Source(sites, values["head"], values.get("number", 0))
    for site in sites:
        height, width = site.resolution
        numbers = (height, width, site.heads, source.number, 0 if source.head is None else source.head)
        are_right = all(type(number) is int for number in numbers) and min(height, width, site.heads) > 0
        if not (are_right and isinstance(site.name, str) and site.kind in get_args(Kind)):
            raise ValueError("layers of wrong types")
    return source


def _parsed(values: Mapping[str, Any]) -> Parsed:
    """A prompt from JSON, whose tuples are lists."""
    parsed = Parsed(
        groups=tuple(map(read_group, values["groups"])),
        tokens=tuple(values["tokens"]),
        phrases=tuple((first, end, text) for first, end, text in values["phrases"]),
        parser_name=values["parser_name"],
        prompt=values["prompt"],
        spans=tuple((start, end) for start, end in values["spans"]),
    )
    numbers = [*parsed.tokens, *itertools.chain(*parsed.spans, *(phrase[:2] for phrase in parsed.phrases))]
    texts = [parsed.parser_name, parsed.prompt, *(text for *_, text in parsed.phrases)]
    are_right = all(type(number) is int for number in numbers) and all(isinstance(text, str) for text in texts)
    if not are_right or len(parsed.spans) != len(parsed.tokens):
        raise ValueError("prompts of wrong types")
    return parsed


def _no_trace(path: Path) -> ValueError:
    return ValueError(f"{path} is no trace; expected a file that `Trace.save` wrote, or the folder of a run.")
