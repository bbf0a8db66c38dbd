"""Benchmark x methods x seeds -> pictures, resumable at any moment and shared by any number of processes.

The work is a fixed list of batches, so that whoever makes a batch, and after how many interruptions, makes the same
pictures bit for bit. A folder holds

    run.json                 the settings; a folder is never continued with others
    METHOD/PROMPT/SEED.png   the pictures, each with its recipe
    images-I-of-N.jsonl      what process I of N has finished, a line a picture, written after the batch's pictures
    images.jsonl             all of them in the order of the list, once nothing is missing
    seconds-I-of-N.jsonl     what each batch took
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ebama.samplers import get as get_sampler

from .. import __version__
from ..methods import Method
from ..output.claims import alone, write_first
from ..output.files import to_json, write_text
from ..output.naming import file_name
from ..output.png import is_whole, save_png
from ..output.reading import parse_object, read_object
from ..pipeline import Pipeline, check
from ..prompt.parsers import analyse
from . import jsonl
from .benchmarks import BenchmarkPrompt
from .rows import check_picture

Key = tuple[str, str, int]
"""Method, prompt and seed of a picture."""


@dataclass(frozen=True)
class Batch:
    """One call of the pipeline: every seed of every prompt."""

    method: str
    prompts: Sequence[BenchmarkPrompt]
    seeds: Sequence[int]

    def pictures(self) -> list[Key]:
        """The keys of its pictures."""
        return [(self.method, prompt.text, seed) for prompt in self.prompts for seed in self.seeds]


@dataclass(frozen=True)
class Run:
    """The pictures to make; `methods` are complete for the pipeline's model, under the names of their folders.

    Raises ValueError for settings that no picture could be made with: later it would look like a refusal of each one.
    """

    prompts: Sequence[BenchmarkPrompt]
    methods: Mapping[str, Method]
    seeds: Sequence[int]
    benchmark: str = ""
    steps: int = 50
    sampler: str = "pndm"
    guidance: float = 7.5
    batch_size: int = 8
    parser: str = "auto"
    weights: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if coupled := [name for name, method in self.methods.items() if method.edits_prompts]:
            raise ValueError(f"{', '.join(coupled)} edits one prompt's picture by another's: no benchmark is for it.")
        if not (self.prompts and self.methods and self.seeds) or self.batch_size < 1:
            raise ValueError("An evaluation needs at least one prompt, one method, one seed, and a batch size of 1.")
        check([prompt.text for prompt in self.prompts], self.seeds, self.guidance, "pil", self.batch_size)
        get_sampler(self.sampler, self.steps)
        # "auto" becomes what there is, so that the folder is not continued where there is another parser.
        object.__setattr__(self, "parser", analyse(self.prompts[0].text, self.parser)[1])

    def settings(self, model: str, fingerprint: str) -> dict[str, Any]:
        """The contents of run.json: everything that the pictures depend on."""
        listing = "\n".join(f"{prompt.set}\t{prompt.text}\t{prompt.groups}" for prompt in self.prompts)
        return {
            "benchmark": self.benchmark,
            "prompts": len(self.prompts),
            "prompts_sha256": hashlib.sha256(listing.encode()).hexdigest(),
            "methods": {name: method.describe() for name, method in self.methods.items()},
            "seeds": list(self.seeds),
            "steps": self.steps,
            "sampler": self.sampler,
            "guidance": self.guidance,
            "batch_size": self.batch_size,
            "parser": self.parser,
            "model": model,
            "fingerprint": fingerprint,
            "weights": self.weights,
            "dtype": self.dtype,
            "version": __version__,
        }

    def batches(self) -> list[Batch]:
        """All the work, no batch of more than `batch_size` samples. The seeds of a prompt stay together if they fit."""
        prompts, seeds, size = self.prompts, self.seeds, self.batch_size
        together = max(size // len(seeds), 1)
        return [
            Batch(name, prompts[first : first + together], seeds[start : start + size])
            for first in range(0, len(prompts), together)
            for start in range(0, len(seeds), size)
            for name in self.methods
        ]

    def share(self, shard: int, shards: int) -> list[Batch]:
        """The batches of one of `shards` processes. It gets other methods for each next set of prompts, since some
        methods take three times as long as others."""
        count = len(self.methods)
        return [batch for i, batch in enumerate(self.batches()) if (i // count + i % count) % shards == shard]

    def pictures(self) -> list[Key]:
        """Every picture in the order of images.jsonl."""
        return [key for name in self.methods for key in Batch(name, self.prompts, self.seeds).pictures()]


def start(run: Run, out: Path, model: str, fingerprint: str) -> None:
    """Write run.json, or make sure that the one there says the same, of the same weights too.

    Raises ValueError if the folder was begun with other settings, naming them.
    """
    settings, path = run.settings(model, fingerprint), out / "run.json"
    out.mkdir(parents=True, exist_ok=True)
    if write_first(path, to_json(settings, indent=1) + "\n"):
        return
    before, now = read_object(path), parse_object(to_json(settings))
    if differing := [key for key in now if before.get(key) != now[key]]:
        values = "; ".join(f"{key} was {before.get(key)!r}, now {now[key]!r}" for key in differing)
        raise ValueError(f"{out} was begun with other settings ({values}); choose another folder with --out.")


def make(run: Run, pipeline: Pipeline, out: Path, shard: int = 0, shards: int = 1) -> None:
    """Make what `out` lacks of this process's share of the batches; shows progress and time left.

    Another process that makes the same share is waited for.
    """
    log, timings = (out / f"{name}-{shard}-of-{shards}.jsonl" for name in ("images", "seconds"))
    timings.touch()
    with alone(timings, f"makes part {shard} of {shards} of {out}"):
        for path in (log, timings):
            jsonl.drop_half_line(path)
        done = _made(out, rows(out))
        batches = [batch for batch in run.share(shard, shards) if not done.issuperset(batch.pictures())]
        count = sum(len(batch.pictures()) for batch in batches)
        with tqdm(total=count, desc=f"pictures {shard + 1}/{shards}", unit="picture", position=shard) as bar:
            for batch in batches:
                began = time.perf_counter()
                lines = _make_batch(run, pipeline, out, batch)
                seconds = time.perf_counter() - began
                jsonl.append(log, lines)
                jsonl.append(timings, [{"method": batch.method, "pictures": len(lines), "seconds": seconds}])
                bar.update(len(lines))


def finish(run: Run, out: Path) -> bool:
    """Put the lines of all processes together in images.jsonl; False, and nothing done, if a picture is missing."""
    by_key, keys = {_key(row): row for row in rows(out)}, run.pictures()
    if not _made(out, by_key.values()).issuperset(keys):
        return False
    write_text(out / "images.jsonl", jsonl.text(by_key[key] for key in keys))
    for path in out.glob("images-*-of-*.jsonl"):
        path.unlink(missing_ok=True)  # another process may end at the same time
    return True


def rows(out: Path) -> list[dict[str, Any]]:
    """The lines of the folder's lists of pictures, each picture once, without a last line that an interruption cut.

    Raises ValueError, naming file and line, for what is no such list.
    """
    # images.jsonl is read last: another process may put the others together in it, and delete them, meanwhile.
    paths = (*sorted(out.glob("images-*-of-*.jsonl")), out / "images.jsonl")
    *parts, whole = (jsonl.read(path, check_picture) for path in paths)
    return list({_key(row): row for row in itertools.chain(whole, *parts)}.values())


def _made(out: Path, listed: Iterable[dict[str, Any]]) -> set[Key]:
    """The pictures that were refused, or whose files are there and whole."""
    return {_key(row) for row in listed if row["file"] is None or is_whole(out / row["file"])}


def _make_batch(run: Run, pipeline: Pipeline, out: Path, batch: Batch) -> list[dict[str, Any]]:
    """The pictures of a batch and their lines. Where a prompt is refused, or a latent blows up, each is tried alone."""
    name, prompts, seeds = batch.method, batch.prompts, batch.seeds
    groups: list[Any] = [
        None if p.groups is None else [(noun, list(words)) for noun, words in p.groups] for p in prompts
    ]
    try:
        result = pipeline(
            [prompt.text for prompt in prompts],
            seeds=seeds,
            method=run.methods[name],
            steps=run.steps,
            sampler=run.sampler,
            guidance=run.guidance,
            groups=groups if any(prompt.groups is not None for prompt in prompts) else None,
            batch_size=len(prompts) * len(seeds),
            parser=run.parser,
            progress=False,
        )
    except (ValueError, FloatingPointError) as error:
        parts = [Batch(name, [prompt], seeds) for prompt in prompts]
        if len(prompts) == 1 and isinstance(error, FloatingPointError):
            parts = [Batch(name, prompts, [seed]) for seed in seeds]
        if len(parts) > 1:
            return [row for part in parts for row in _make_batch(run, pipeline, out, part)]
        about = {"method": name, "set": prompts[0].set, "prompt": prompts[0].text}
        return [{**about, "seed": seed, "file": None, "error": str(error)} for seed in seeds]
    assert result.images is not None
    lines = []
    samples = itertools.product(prompts, seeds)
    for (prompt, seed), image, recipe in zip(samples, result.images, result.recipes, strict=True):
        file = Path(file_name(name), file_name(prompt.text), f"{seed}.png")
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        save_png(image, out / file, recipe.loaded_from(run.weights, run.dtype).to_metadata())
        facts = {"method": name, "set": prompt.set, "prompt": prompt.text, "seed": seed, "file": file.as_posix()}
        lines.append({**facts, "metadata": recipe.to_metadata()})
    return lines


def _key(row: dict[str, Any]) -> Key:
    return row["method"], row["prompt"], row["seed"]
