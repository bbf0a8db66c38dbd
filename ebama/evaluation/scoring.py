"""Scores of a folder of pictures METHOD/PROMPT/SEED.png, whoever made them -> scores.jsonl, a line a picture."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..output.files import read_object, write_text
from . import jsonl
from .benchmarks import BenchmarkPrompt
from .judges.scorer import Scorer
from .run import folder_of, rows

UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that it cannot read as a picture."""


def score(
    folder: Path,
    scorers: Sequence[Scorer],
    batch_size: int = 64,
    benchmark: Sequence[BenchmarkPrompt] = (),
) -> list[dict[str, Any]]:
    """Score every picture of a folder; write scores.jsonl, and judges.json (score -> who judged); returns the lines.

    The pictures are those that images*.jsonl list, or without such a file all METHOD/PROMPT/SEED.png there are, whose
    prompts are then the folders' names, and their sets those that `benchmark` says. A line holds method, set, prompt,
    seed, file, "sha256" (the first 16 hex digits of the file's) and "scores"; a picture that cannot be read, or was
    refused when it should be made, has "error" instead, and one warning counts them.

    Scores that the folder has by other names stay, where picture and prompt are the same. Killed and started again with
    the same scorers it goes on: each batch is in scores-unfinished.jsonl as soon as it is done.

    Raises ValueError if there is nothing to score, or if scores.jsonl is damaged.
    """
    pictures = _listed(folder, benchmark)
    if not pictures:
        raise ValueError(f"{folder} holds no pictures; expected METHOD/PROMPT/SEED.png in it.")
    judges = {key: scorer.name for scorer in scorers for key in scorer.keys}
    earlier = _earlier(folder)
    unfinished = folder / "scores-unfinished.jsonl"
    done = {key: line for key, line in _resume(unfinished, judges).items() if _unchanged(folder, line)}
    for first in tqdm(range(0, len(pictures), batch_size), desc="scores", unit="batch"):
        batch = pictures[first : first + batch_size]
        if not done.keys() >= {_key(row) for row in batch}:
            made = _score_batch(folder, batch, scorers)
            jsonl.append(unfinished, made)
            done |= {_key(line): line for line in made}
    lines = [done[_key(row)] for row in pictures]
    if bad := [line for line in lines if "error" in line]:
        names = ", ".join(line["file"] or f"{line['method']} {line['prompt']!r}" for line in bad[:3])
        more = ", ..." if len(bad) > 3 else ""
        warnings.warn(f"{len(bad)} of {len(lines)} pictures have no scores ({names}{more}).", stacklevel=2)
    judges = _keep_others(folder, earlier, lines, judges)
    write_text(folder / "judges.json", json.dumps(judges, ensure_ascii=False, indent=1) + "\n")
    write_text(folder / "scores.jsonl", jsonl.text(lines))
    unfinished.unlink()
    return lines


def prompts(folder: Path, benchmark: Sequence[BenchmarkPrompt] = ()) -> list[str]:
    """The prompts of the pictures that `score` scores, each once."""
    return list(dict.fromkeys(row["prompt"] for row in _listed(folder, benchmark)))


def _listed(folder: Path, benchmark: Sequence[BenchmarkPrompt]) -> list[dict[str, Any]]:
    return rows(folder) or _found(folder, {folder_of(prompt.text): prompt for prompt in benchmark})


def _found(folder: Path, benchmark: Mapping[str, BenchmarkPrompt]) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("*/*/*.png"), key=lambda path: (path.parts[:-1], len(path.stem), path.stem))
    known = any(path.parent.name in benchmark for path in paths)
    found = []
    for path in paths:
        method, name = path.parts[-3:-1]
        prompt = benchmark.get(name, BenchmarkPrompt("other" if known else "all", name))
        seed = int(path.stem) if path.stem.isdecimal() else path.stem
        about = {"method": method, "set": prompt.set, "prompt": prompt.text, "seed": seed}
        found.append({**about, "file": path.relative_to(folder).as_posix()})
    return found


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["method"], row["set"], row["prompt"], row["seed"], row["file"]


def _resume(unfinished: Path, judges: Mapping[str, str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What an interrupted run by these judges has scored; else the file is begun, with the judges in its first line."""
    if unfinished.is_file():
        jsonl.drop_half_line(unfinished)
        first, *lines = jsonl.read(unfinished) or [{}]
        if first == {"judges": judges}:
            return {_key(line): line for line in lines}
    write_text(unfinished, jsonl.text([{"judges": judges}]))
    return {}


def _unchanged(folder: Path, line: Mapping[str, Any]) -> bool:
    """Whether the picture of a line is still the one that was scored."""
    try:
        return line["file"] is None or _sha256((folder / line["file"]).read_bytes()) == line.get("sha256")
    except OSError:
        return False


def _earlier(folder: Path) -> list[dict[str, Any]]:
    """The lines of scores.jsonl, if there are any."""
    try:
        return jsonl.read(folder / "scores.jsonl")
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ValueError(f"{error} Mend the file, or delete it to have every score made anew.") from error


def _keep_others(
    folder: Path, earlier: Sequence[Mapping[str, Any]], lines: Sequence[dict[str, Any]], judges: Mapping[str, str]
) -> dict[str, str]:
    """Add to the lines what earlier ones say of the same pictures and the new ones do not; returns all judges."""
    before = {(line.get("file"), line.get("prompt")): line for line in earlier}
    kept: dict[str, str] = {}
    names = read_object(folder / "judges.json")
    for line in lines:
        same = before.get((line["file"], line["prompt"]), {})
        if "scores" in line and same.get("sha256") == line["sha256"]:
            found = {key: value for key, value in same.get("scores", {}).items() if key not in judges}
            line["scores"] = {**found, **line["scores"]}
            kept |= {key: names.get(key, "an unknown judge") for key in found}
    return kept | dict(judges)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _score_batch(folder: Path, pictures: Sequence[dict[str, Any]], scorers: Sequence[Scorer]) -> list[dict[str, Any]]:
    lines = [{key: row[key] for key in ("method", "set", "prompt", "seed", "file")} for row in pictures]
    images: list[Image.Image] = []
    readable: list[dict[str, Any]] = []
    for line, row in zip(lines, pictures, strict=True):
        if "error" in row:
            line["error"] = row["error"]
            continue
        try:
            content = (folder / row["file"]).read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                images.append(image.convert("RGB"))
        except UNREADABLE as error:
            line["error"] = f"cannot be read: {error}"
            continue
        readable.append(line)
        line |= {"sha256": _sha256(content), "scores": {}}
    prompts = [BenchmarkPrompt(line["set"], line["prompt"]) for line in readable]
    for scorer in scorers if images else ():
        for line, scores in zip(readable, scorer(images, prompts), strict=True):
            line["scores"].update(scores)
    return lines
