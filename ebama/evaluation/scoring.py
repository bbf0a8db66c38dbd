"""Scores of a folder of pictures METHOD/PROMPT/SEED.png, whoever made them -> scores.jsonl, a line a picture."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..files import write_text
from .benchmarks import BenchmarkPrompt
from .run import rows
from .scorer import Scorer

UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for a file that it cannot read as a picture."""


def score(folder: Path, scorers: Sequence[Scorer], batch_size: int = 64) -> list[dict[str, Any]]:
    """Score every picture of a folder; write scores.jsonl, and judges.json (score -> who judged); returns the lines.

    The pictures are those that images*.jsonl list, or without such a file all METHOD/PROMPT/SEED.png there are, whose
    prompts are then the folders' names. A line holds method, set, prompt, seed, file and "scores"; a picture that
    cannot be read, or was refused when it should be made, has "error" instead, and one warning counts them.

    Raises ValueError if there is nothing to score.
    """
    pictures = rows(folder) or _pictures(folder)
    if not pictures:
        raise ValueError(f"{folder} holds no pictures; expected METHOD/PROMPT/SEED.png in it.")
    lines: list[dict[str, Any]] = []
    for first in tqdm(range(0, len(pictures), batch_size), desc="scores", unit="batch"):
        lines += _score_batch(folder, pictures[first : first + batch_size], scorers)
    if bad := [line for line in lines if "error" in line]:
        names = ", ".join(line["file"] or f"{line['method']} {line['prompt']!r}" for line in bad[:3])
        more = ", ..." if len(bad) > 3 else ""
        warnings.warn(f"{len(bad)} of {len(lines)} pictures have no scores ({names}{more}).", stacklevel=2)
    judges = {key: scorer.name for scorer in scorers for key in scorer.keys}
    write_text(folder / "judges.json", json.dumps(judges, ensure_ascii=False, indent=1) + "\n")
    write_text(folder / "scores.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return lines


def prompts(folder: Path) -> list[str]:
    """The prompts of the pictures that `score` scores, each once."""
    return list(dict.fromkeys(row["prompt"] for row in rows(folder) or _pictures(folder)))


def _score_batch(folder: Path, pictures: Sequence[dict[str, Any]], scorers: Sequence[Scorer]) -> list[dict[str, Any]]:
    lines = [{key: row[key] for key in ("method", "set", "prompt", "seed", "file")} for row in pictures]
    images: list[Image.Image] = []
    readable: list[dict[str, Any]] = []
    for line, row in zip(lines, pictures, strict=True):
        if "error" in row:
            line["error"] = row["error"]
            continue
        try:
            with Image.open(folder / row["file"]) as image:
                images.append(image.convert("RGB"))
        except UNREADABLE as error:
            line["error"] = f"cannot be read: {error}"
            continue
        readable.append(line)
        line["scores"] = {}
    prompts = [BenchmarkPrompt(line["set"], line["prompt"]) for line in readable]
    for scorer in scorers if images else ():
        for line, scores in zip(readable, scorer(images, prompts), strict=True):
            line["scores"].update(scores)
    return lines


def _pictures(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("*/*/*.png")):
        method, prompt = path.parts[-3:-1]
        seed = int(path.stem) if path.stem.isdecimal() else path.stem
        about = {"method": method, "set": "all", "prompt": prompt, "seed": seed}
        found.append({**about, "file": path.relative_to(folder).as_posix()})
    return found
