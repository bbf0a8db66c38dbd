"""What the lines of a run's lists say; a folder may come from anywhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any

from ..checks import short
from ..output.reading import read_object
from .benchmarks.prompt import read_boxes

_NUMBER = re.compile(r"\s*[-+]?\d*[.,]?\d+(?:[eE][-+]?\d+)?\s*")  # also as spreadsheets of many countries write it
FIELDS: dict[str, type | UnionType] = {
    "method": str,
    "set": str,
    "prompt": str,
    "seed": int | str,
    "file": str | None,
}
"""The keys that identify an image in every list."""


def check_picture(row: dict[str, Any]) -> None:
    """Raise ValueError unless a line of images.jsonl is one."""
    try:
        _check_fields(row)
    except ValueError as error:
        raise ValueError(f"is no picture: {error}") from error


def _check_fields(row: dict[str, Any]) -> None:
    if missing := FIELDS.keys() - row.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}.")
    for key, kind in FIELDS.items():
        _expect(key, row[key], isinstance(row[key], kind) and not isinstance(row[key], bool))
    _expect("file", row["file"], row["file"] is None or _is_inside(row["file"]))
    read_boxes(row.get("boxes"))
    _expect("error", row.get("error"), isinstance(row.get("error", ""), str))


def check_score(row: dict[str, Any]) -> None:
    """Raise ValueError unless a line of scores.jsonl is one; "file" and "scores" may be missing."""
    expected = '{"method": ..., "set": ..., "prompt": ..., "seed": ..., "file": ..., "scores": {NAME: NUMBER, ...}}'
    try:
        _check_fields({"file": None, **row})
        scores = row.get("scores", {})
        kept = row.get("kept", {})
        for name, given in (("scores", scores), ("kept", kept.get("scores", {}) if isinstance(kept, dict) else None)):
            _expect(name, given, isinstance(given, dict) and all(map(_is_score, given.values())))
    except ValueError as error:
        raise ValueError(f"is no score: {str(error).rstrip('.')}; expected {expected}.") from error


def check_scores(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError if a score is a text of some pictures and a number of others: means would leave some out."""
    texts: dict[str, bool] = {}
    written = ""
    for row in rows:
        for name, score in row["scores"].items():
            is_text = isinstance(score, str)
            if score is not None and texts.setdefault(name, is_text) != is_text:
                raise ValueError(
                    f"{path} is damaged: the score {name!r} of {row['file']} is {short(score)}, a "
                    f"{'text' if is_text else 'number'} unlike others. Mend the file, or delete it and score again."
                )
            if is_text and _NUMBER.fullmatch(score):
                written = written or f"{name!r} is a number written as a text, {short(score)} of {row['file']}"
    if written:
        raise ValueError(f"{path} is damaged: the score {written}. Mend the file, or delete it and score again.")


def read_judges(folder: Path) -> dict[str, str]:
    """Who gave the scores of a folder, by their names: judges.json, empty if there is none."""
    judges = read_object(folder / "judges.json")
    if odd := [score for score, judge in judges.items() if not isinstance(judge, str)]:
        raise ValueError(
            f"{folder / 'judges.json'} is damaged: {odd[0]!r} has no judge's name. Mend or delete the file."
        )
    return judges


def _expect(name: str, value: object, fits: bool) -> None:
    if not fits:
        raise ValueError(f"its {name} is {short(value)}.")


def _is_inside(file: str) -> bool:
    """Whether a path stays within the folder that it is relative to."""
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in file


def _is_score(value: object) -> bool:
    """A text, nothing, or a number that fits into a float; NaN counts as nothing later."""
    return isinstance(value, str | float | None) or (isinstance(value, int) and abs(value) <= sys.float_info.max)
