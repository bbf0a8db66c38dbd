"""Making the pictures of an evaluation, resumable at any moment and shared by any number of processes.

A folder holds

    run.json                 the settings; a folder is never continued with others
    METHOD/PROMPT/SEED.png   the pictures, each with its recipe
    images-I-of-N.jsonl      what process I of N has finished, a line a picture, written after the batch's pictures
    images.jsonl             all of them in the order of the list, once nothing is missing
    seconds-I-of-N.jsonl     what each batch took
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..output.claims import alone, write_first
from ..output.files import to_json, write_text
from ..output.naming import file_name
from ..output.png import is_whole, save_png
from ..output.reading import parse_object, read_object
from ..pipeline import Pipeline
from ..runtime.progress import Bar
from . import jsonl
from .benchmarks import BenchmarkPrompt
from .benchmarks.prompt import describe_boxes
from .distributed import own_place
from .rows import check_picture
from .work import Batch, Key, Run


def start(run: Run, out: Path, model: str, fingerprint: str) -> None:
    """Write run.json, or make sure that the one there says the same, of the same weights too.

    Raises ValueError if the folder was begun with other settings, naming them, or with unknown ones.
    """
    settings, path = run.settings(model, fingerprint), out / "run.json"
    out.mkdir(parents=True, exist_ok=True)
    if not path.exists() and rows(out) and not path.exists():  # another process may begin meanwhile
        raise ValueError(
            f"{out} lists pictures, but has no run.json that says how they were made; put it back, or choose another "
            "folder with --out."
        )
    if write_first(path, to_json(settings, indent=1) + "\n"):
        return
    before, now = read_object(path), parse_object(to_json(settings))
    if before.get("prompts_sha256") == now["prompts_sha256"]:
        del now["benchmark"]  # by what path the same list is named
    if before.get("fingerprint") == fingerprint:
        del now["weights"]  # likewise
    if differing := [key for key in now if before.get(key) != now[key]]:
        values = "; ".join(f"{key} was {before.get(key)!r}, now {now[key]!r}" for key in differing)
        raise ValueError(f"{out} was begun with other settings ({values}); choose another folder with --out.")


def check_boxes(run: Run, pipeline: Pipeline) -> None:
    """Raise ValueError for a box that no object of its prompt could have: later it would look like a refused prompt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the pictures' runs say them
        for prompt in run.prompts:
            if prompt.boxes:
                pipeline.read(prompt.text, "sd", groups=_words(prompt), boxes=dict(prompt.boxes), parser=run.parser)


def make(run: Run, pipeline: Pipeline, out: Path, shard: int = 0, shards: int = 1) -> None:
    """Make what `out` lacks of this process's share of the batches; shows progress and time left.

    Another process that makes the same share is waited for. Raises ValueError if what was made is gone in the end.
    """
    log, timings = (out / f"{name}-{shard}-of-{shards}.jsonl" for name in ("images", "seconds"))
    timings.touch()
    begun = (out / "run.json").is_file()
    with alone(timings, f"makes part {shard} of {shards} of {out}"):
        for path in (log, timings):
            jsonl.drop_half_line(path)
        done = _made(out, rows(out))
        batches = [batch for batch in run.share(shard, shards) if not done.issuperset(batch.pictures())]
        count = sum(len(batch.pictures()) for batch in batches)
        with Bar(total=count, desc=f"pictures {shard + 1}/{shards}", unit="picture", position=own_place()) as bar:
            for batch in batches:
                began = time.perf_counter()
                lines = _make_batch(run, pipeline, out, batch)
                seconds = time.perf_counter() - began
                if begun and not (out / "run.json").is_file():
                    raise ValueError(
                        f"{out} was removed while pictures for it were made, or lost its run.json; delete what is left "
                        "of it, and give the same command again."
                    )
                jsonl.append(log, lines)
                jsonl.append(timings, [{"method": batch.method, "pictures": len(lines), "seconds": seconds}])
                bar.update(len(lines))
        there = {_key(row) for row in rows(out) if row["file"] is None or (out / row["file"]).is_file()}
        if lost := {key for batch in batches for key in batch.pictures()} - there:
            raise ValueError(
                f"{out} lacks {len(lost)} pictures that were just made: it was changed meanwhile, or cannot be listed. "
                "Give the same command again."
            )


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
    groups: list[Any] = [_words(prompt) for prompt in prompts]
    try:
        result = pipeline(
            [prompt.text for prompt in prompts],
            seeds=seeds,
            method=run.methods[name],
            steps=run.steps,
            sampler=run.sampler,
            guidance=run.guidance,
            size=run.size,
            groups=groups if any(prompt.groups is not None for prompt in prompts) else None,
            boxes=[dict(prompt.boxes) for prompt in prompts] if run.boxed else None,
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
        boxes = describe_boxes(prompts[0].boxes)
        return [{**about, "seed": seed, "file": None, **boxes, "error": str(error)} for seed in seeds]
    assert result.images is not None
    lines = []
    samples = itertools.product(prompts, seeds)
    for (prompt, seed), image, recipe in zip(samples, result.images, result.recipes, strict=True):
        file = Path(file_name(name), file_name(prompt.text), f"{seed}.png")
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        save_png(image, out / file, recipe.loaded_from(run.weights, run.dtype).to_metadata())
        facts = {"method": name, "set": prompt.set, "prompt": prompt.text, "seed": seed, "file": file.as_posix()}
        lines.append({**facts, **describe_boxes(prompt.boxes), "metadata": recipe.to_metadata()})
    return lines


def _words(prompt: BenchmarkPrompt) -> list[tuple[str, list[str]]] | None:
    return None if prompt.groups is None else [(noun, list(words)) for noun, words in prompt.groups]


def _key(row: dict[str, Any]) -> Key:
    return row["method"], row["prompt"], row["seed"]
