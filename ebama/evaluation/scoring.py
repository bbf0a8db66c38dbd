"""Scores of a folder of pictures METHOD/PROMPT/SEED.png, whoever made them -> scores.jsonl, a line a picture."""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..output.claims import alone
from ..output.files import to_json, write_text, written_whole
from ..output.naming import file_name
from ..output.png import as_rgb, decoded
from ..output.reading import read_bytes
from ..runtime.progress import Bar
from . import jsonl
from .benchmarks import BenchmarkPrompt
from .benchmarks.prompt import describe_boxes, read_boxes
from .judges.scorer import Scorer
from .rows import FIELDS, check_score, read_judges
from .run import rows

_OTHER_PICTURES = {".avif", ".heic", ".heif", ".jxl"}  # some of which Pillow may not know


def score(
    folder: Path, scorers: Sequence[Scorer], batch_size: int = 64, benchmark: Sequence[BenchmarkPrompt] = ()
) -> list[dict[str, Any]]:
    """Score every picture of a folder; write scores.jsonl, and judges.json (score -> who judged); returns the lines.

    The pictures are those that images*.jsonl list, or without such a file all METHOD/PROMPT/SEED.png there are, whose
    prompts are then the folders' names, and their sets those that `benchmark` says. A line holds method, set, prompt,
    seed, file, "sha256" (the first 16 hex digits of the file's) and "scores"; a picture that cannot be read, or was
    refused when it should be made, has "error" instead, with the scores that it had as "kept", and one warning counts
    them.

    Scores that the folder has by other names stay, where picture and prompt are the same. Killed and started again with
    the same scorers it goes on: each batch is in scores-unfinished.jsonl as soon as it is done.

    Another process that scores the same folder is waited for.

    Raises ValueError if there is nothing to score, or if one of the folder's lists is damaged.
    """
    if not folder.is_dir() or not (pictures := _pictures(folder, benchmark)):
        raise ValueError(f"{folder} holds no pictures; expected METHOD/PROMPT/SEED.png in it.")
    with alone(folder, f"scores {folder}"):
        lines = _score_all(folder, pictures, scorers, batch_size)
    if bad := [line for line in lines if "error" in line]:
        names = ", ".join(line["file"] or f"{line['method']} {line['prompt']!r}" for line in bad[:3])
        more = ", ..." if len(bad) > 3 else ""
        warnings.warn(f"{len(bad)} of {len(lines)} pictures have no scores ({names}{more}).", stacklevel=2)
    return lines


def _score_all(
    folder: Path, pictures: Sequence[dict[str, Any]], scorers: Sequence[Scorer], batch_size: int
) -> list[dict[str, Any]]:
    judges = {key: scorer.name for scorer in scorers for key in scorer.keys}
    earlier, before = _earlier(folder), read_judges(folder)
    unfinished = folder / "scores-unfinished.jsonl"
    done = {_key(line): line for line in _resume(unfinished, judges) if _is_unchanged(folder, line)}
    for first in Bar(range(0, len(pictures), batch_size), desc="scores", unit="batch"):
        batch = pictures[first : first + batch_size]
        if not done.keys() >= {_key(row) for row in batch}:
            scored = _score_batch(folder, batch, scorers)
            jsonl.append(unfinished, scored)
            done |= {_key(line): line for line in scored}
    lines = [done[_key(row)] for row in pictures]
    judges = _add_earlier(lines, earlier, judges, before)
    with written_whole(folder / "judges.json") as names, written_whole(folder / "scores.jsonl") as scores:
        names.write_text(to_json(judges, indent=1) + "\n", encoding="utf-8")  # both or neither, on a full disk too
        scores.write_text(jsonl.text(lines), encoding="utf-8")
    unfinished.unlink()
    return lines


def prompts(folder: Path, benchmark: Sequence[BenchmarkPrompt] = ()) -> list[BenchmarkPrompt]:
    """The prompts of the pictures that `score` scores, each once."""
    return list(dict.fromkeys(_prompt(row) for row in _pictures(folder, benchmark)))


def _prompt(row: Mapping[str, Any]) -> BenchmarkPrompt:
    text = row["prompt"].encode("utf-8", "replace").decode()  # no tokenizer takes letters of another encoding's names
    return BenchmarkPrompt(row["set"], text, boxes=read_boxes(row.get("boxes")))


def _pictures(folder: Path, benchmark: Sequence[BenchmarkPrompt]) -> list[dict[str, Any]]:
    """The rows of the folder's lists, or without them a row for each METHOD/PROMPT/SEED.png, in order of numbers."""
    if listed := rows(folder):
        files = {row["file"] for row in listed}
        if unlisted := [path for path in _files(folder) if path.relative_to(folder).as_posix() not in files]:
            warnings.warn(
                f"{len(unlisted)} pictures are in no list of {folder} and get no scores ({unlisted[0]} ...); the "
                "command that made them lists them again.",
                stacklevel=4,
            )
        return listed
    paths = sorted(_files(folder), key=lambda path: (path.parts[:-1], len(path.stem), path.stem))
    named = {file_name(prompt.text): prompt for prompt in benchmark}
    alike = Counter(map(_as_text, named))
    named |= {text: prompt for name, prompt in named.items() if alike[text := _as_text(name)] == 1}
    by_folder = {path.parent.name: named.get(path.parent.name, named.get(_as_text(path.parent.name))) for path in paths}
    if benchmark and (own := [name for name, prompt in by_folder.items() if prompt is None]):
        warnings.warn(
            f"{len(own)} of {len(by_folder)} folders of {folder} are no prompts of the benchmark, but their own "
            f"({own[0]!r} ...).",
            stacklevel=4,
        )
    rest = "other" if any(by_folder.values()) else "all"
    pictures, taken = [], set()
    for path in paths:
        method, name = path.parts[-3:-1]
        prompt = by_folder[name] or BenchmarkPrompt(rest, name)
        seeds = (int(path.stem) if path.stem.isdecimal() else path.stem, path.stem, f"{name}/{path.name}")
        seed = next(seed for seed in seeds if (method, prompt, seed) not in taken)
        taken.add((method, prompt, seed))
        about = {"method": method, "set": prompt.set, "prompt": prompt.text, "seed": seed}
        pictures.append({**about, "file": path.relative_to(folder).as_posix(), **describe_boxes(prompt.boxes)})
    return pictures


def _as_text(name: str) -> str:
    """A folder's name with what other programs write for spaces, and macOS for letters with marks."""
    return unicodedata.normalize("NFC", name.replace("_", " "))


def _files(folder: Path) -> list[Path]:
    """Every METHOD/PROMPT/SEED.png; not what systems hide under names that begin with a dot, as `._0.png` of macOS."""
    shown = [path for path in folder.glob("*/*/*") if not any(part[0] == "." for part in path.parts[-3:])]
    kinds = (Image.registered_extensions().keys() | _OTHER_PICTURES) - {".png"}
    others = sorted(path for path in shown if path.suffix.lower() in kinds)
    if others:
        warnings.warn(f"{len(others)} files are passed over, as they are no .png ({others[0]} ...).", stacklevel=2)
    return [path for path in shown if path.suffix.lower() == ".png"]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in FIELDS)


def _resume(unfinished: Path, judges: Mapping[str, str]) -> list[dict[str, Any]]:
    """The lines that an interrupted run by these judges scored; else a new file with the judges in its first line."""
    if unfinished.is_file():
        jsonl.drop_half_line(unfinished)
        lines = jsonl.read(unfinished, lambda row: None if "judges" in row else check_score(row))
        if lines[:1] == [{"judges": judges}]:
            scored = [line for line in lines if line != lines[0]]
            if not any("judges" in line for line in scored):
                return [{"file": None, **line} for line in scored]
    write_text(unfinished, jsonl.text([{"judges": judges}]))
    return []


def _is_unchanged(folder: Path, line: Mapping[str, Any]) -> bool:
    """Whether the picture of a line is still the one that was scored."""
    try:
        return line["file"] is None or _sha256(read_bytes(folder / line["file"])) == line.get("sha256")
    except (OSError, ValueError):
        return False


def _earlier(folder: Path) -> list[dict[str, Any]]:
    """The lines of scores.jsonl, if there are any."""
    try:
        return jsonl.read(folder / "scores.jsonl", check_score, whole=True)
    except ValueError as error:
        raise ValueError(f"{error} Mend the file, or delete it to have every score made anew.") from error


def _add_earlier(
    lines: Sequence[dict[str, Any]],
    earlier: Sequence[Mapping[str, Any]],
    judges: Mapping[str, str],
    earlier_judges: Mapping[str, str],
) -> dict[str, str]:
    """Add to the lines the scores by other names that earlier ones have of the same pictures; returns all judges."""
    before = {(line.get("file"), line.get("prompt")): line for line in earlier}
    others: dict[str, str] = {}
    for line in lines:
        same = before.get((line["file"], line["prompt"]), {})
        same = same if "scores" in same else same.get("kept", {})
        scores = same.get("scores", {})
        if "scores" not in line:  # until the picture can be read again
            line |= {"kept": {key: same[key] for key in ("sha256", "scores") if key in same}} if same else {}
        elif same.get("sha256") == line["sha256"]:
            scores = {key: value for key, value in scores.items() if key not in judges}
            line["scores"] = {**scores, **line["scores"]}
        else:
            continue
        others |= {key: earlier_judges.get(key, "an unknown judge") for key in scores}
    return {**others, **judges}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _score_batch(folder: Path, pictures: Sequence[dict[str, Any]], scorers: Sequence[Scorer]) -> list[dict[str, Any]]:
    lines = [{key: row[key] for key in (*FIELDS, "boxes") if key in row} for row in pictures]
    images: list[Image.Image] = []
    readable: list[dict[str, Any]] = []
    for line, row in zip(lines, pictures, strict=True):
        if "error" in row or row["file"] is None:
            line["error"] = row.get("error", "there is no picture")
            continue
        try:
            content = read_bytes(folder / row["file"])
            images.append(as_rgb(decoded(content)))
        except (OSError, ValueError) as error:
            line["error"] = f"cannot be read: {error}"
            continue
        readable.append(line)
        line |= {"sha256": _sha256(content), "scores": {}}
    for scorer in scorers if images else ():
        for line, scores in zip(readable, scorer(images, list(map(_prompt, readable))), strict=True):
            line["scores"].update(scores)
    return lines
