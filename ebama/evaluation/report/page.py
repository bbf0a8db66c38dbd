"""report.html: one page that opens from disk, with the tables, charts and every picture of a run.

It fetches nothing, which its content security policy also forbids; only its own script, known by its hash, may run.
Jinja writes texts into the template as text; the script (page.js) reads the pictures' data as JSON and does the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from . import paper, thumbnails
from .charts import bars, differences
from .comparison import LESS_IS_BETTER, Row, by_method, by_score, numbers, numeric_scores, share_scores
from .statistics import FEWEST

FAILURES = {"presence": "object missing", "binding": "colour wrong", "placement": "outside its box"}
"""The meaning of a score of 0, where the score's name alone does not say it."""
OPINIONS = {"second presence", "second binding", "judges agree"}
"""Scores of which a 0 is no failure: what a second judge says, and whether it says the same."""
NO_PICTURE = "no picture"
NO_SCORES = "No judge had anything to say of these pictures."
BADGES = "✕◐△◇▽○"


def page(
    folder: Path,
    lines: Sequence[Mapping[str, Any]],
    table: Sequence[Row],
    settings: Mapping[str, Any],
    judges: Mapping[str, str],
    baseline: str,
) -> str:
    """The page of a run: `lines` of its scores.jsonl, `table` made of them by `baseline`, `settings` of run.json and
    `judges`."""
    data = _data(folder, lines, baseline)
    files = [[picture and picture["file"] for picture in prompt["pictures"]] for prompt in data["prompts"]]
    sheets = thumbnails.plan([[folder / file if file else None for file in names] for names in files])
    data |= {"side": sheets.side, "columns": sheets.columns, "shape": _shape(settings.get("size"))}
    by_judge: dict[str, list[str]] = {}
    for score, judge in judges.items():
        by_judge.setdefault(str(judge), []).append(score)
    about = [str(settings[key]) for key in ("benchmark", "model") if settings.get(key)]
    return _template().render(
        title=f"Evaluation: {', '.join(about)}" if about else "Evaluation of pictures",
        style=_source("page.css"),
        script=_source("page.js"),
        sha256=_sha256,
        prompts=len({line["prompt"] for line in lines}),
        pictures=len(lines),
        judges=by_judge,
        unscored=[line for line in lines if "error" in line],
        settings=settings,
        to_json=json.dumps,
        note=paper.NOTE if any(row.paper is not None for row in table) else "",
        scores=by_score(table),
        judge_of=judges,
        by_method=by_method,
        bars=bars,
        differences=differences,
        fewest=FEWEST,
        no_scores=NO_SCORES,
        data=data,
        json=json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        sheets=(base64.b64encode(sheet).decode() for sheet in sheets.encode()),
    )


def failure(line: Mapping[str, Any], shares: Iterable[str]) -> str | None:
    """Why a picture counts as failed: the first of the scores `shares` that is 0, or that it could not be scored."""
    if "error" in line:
        return NO_PICTURE
    scores = dict(numbers(line))
    return next((FAILURES.get(key, f"{key}: no") for key in shares if scores.get(key) == 0), None)


def _data(folder: Path, lines: Sequence[Mapping[str, Any]], baseline: str) -> dict[str, Any]:
    """The data of the script.

    A prompt's pictures come method by method and seed by seed, null where there is none; a picture has a "failure" (an
    index) or an "error" only where there is one. A prompt's "boxes" are those of images.jsonl, {} where there are none.
    """
    methods, seeds = (list(dict.fromkeys(line[key] for line in lines)) for key in ("method", "seed"))
    by_place = {(line["set"], line["prompt"], line["method"], line["seed"]): line for line in lines}
    scores, shares = numeric_scores(lines), share_scores(lines)
    ordered = [key for key in scores if key in shares - OPINIONS]
    texts = {key: None for line in lines for key, value in (line.get("scores") or {}).items() if isinstance(value, str)}
    reasons = {failure(line, ordered) for line in lines}
    named = [*(FAILURES.get(key, f"{key}: no") for key in ordered), NO_PICTURE]
    badges = {name: BADGES[i] if i < len(BADGES) else BADGES[0] for i, name in enumerate(named) if name in reasons}

    def picture(line: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if line is None:
            return None
        values, said, reason = dict(numbers(line)), line.get("scores") or {}, failure(line, ordered)
        return {
            "file": line["file"] if line["file"] and (folder / line["file"]).is_file() else None,
            "scores": [values.get(key) for key in scores],
            "texts": [said[key] if isinstance(said.get(key), str) else None for key in texts],
            **({} if reason is None else {"failure": list(badges).index(reason)}),
            **({"error": line["error"]} if "error" in line else {}),
        }

    boxes = {(line["set"], line["prompt"]): line["boxes"] for line in lines if line.get("boxes")}
    prompts = []
    for name, prompt in dict.fromkeys((line["set"], line["prompt"]) for line in lines):
        pictures = [picture(by_place.get((name, prompt, method, seed))) for method in methods for seed in seeds]
        prompts.append({"set": name, "text": prompt, "boxes": boxes.get((name, prompt), {}), "pictures": pictures})
    return {
        "methods": methods,
        "seeds": seeds,
        "sets": list(dict.fromkeys(prompt["set"] for prompt in prompts)),
        "baseline": methods.index(baseline) if baseline in methods else -1,
        "scores": [{"name": key, "share": key in shares, "lessIsBetter": key in LESS_IS_BETTER} for key in scores],
        "texts": list(texts),
        "failures": [{"name": name, "badge": badge} for name, badge in badges.items()],
        "prompts": prompts,
    }


def _shape(size: Any) -> tuple[float, float]:
    """How much of a square's sides a picture of size [height, width] takes across and down; all, if it is not known."""
    is_size = isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    height, width = size if is_size else (1, 1)
    return width / max(height, width), height / max(height, width)


@cache
def _template() -> Template:
    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    return Environment(undefined=StrictUndefined, **options).from_string(_source("page.html"))


def _source(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _sha256(source: str) -> str:
    """For the content security policy; browsers hash what stands between the tags."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
