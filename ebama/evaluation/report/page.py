"""report.html: one page that opens from disk, with the tables, charts and every picture of a run.

It fetches nothing, which its content security policy also forbids; only its own script, known by its hash, may run.
The script (page.js) reads the pictures' data as JSON and writes text as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from . import paper, thumbnails
from .charts import FEWEST, bars, differences, number, verdict
from .comparison import Row, numbers, numeric_scores, share_scores
from .statistics import Estimate

FAILURES = {"presence": "object missing", "binding": "colour wrong"}
"""What it means that a picture's score is 0, where the score's name alone would not say it."""
NO_PICTURE = "no picture"
NO_SCORES = "No judge had anything to say of these pictures."
BADGES = "✕◐△◇▽○"
ARROWS = {"above": "▲", "below": "▼", "open": ""}


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
    data, places = _data(folder, lines, baseline)
    sheets = thumbnails.plan(places)
    data |= {"side": sheets.side, "columns": sheets.columns}
    style, script = (_source(name) for name in ("page.css", "page.js"))
    return Template(_source("page.html")).substitute(
        title=escape(_title(settings)),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        summary=_summary(lines, settings, judges),
        scores="\n".join(_score(table, score, judges) for score in dict.fromkeys(row.score for row in table))
        or f"<p>{NO_SCORES}</p>",
        note=f"<p>{escape(paper.NOTE)}</p>" if any(row.paper is not None for row in table) else "",
        data=json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        sheets="\n".join(
            f'<script type="text/plain" id="sheet{index}">{base64.b64encode(sheet).decode()}</script>'
            for index, sheet in enumerate(sheets.encode())
        ),
    )


def failure(line: Mapping[str, Any], shares: Iterable[str]) -> str | None:
    """Why a picture counts as failed: the first of the scores `shares` that is 0, or that it could not be scored."""
    if "error" in line:
        return NO_PICTURE
    found = dict(numbers(line))
    return next((FAILURES.get(key, f"{key}: no") for key in shares if found.get(key) == 0), None)


def _data(
    folder: Path, lines: Sequence[Mapping[str, Any]], baseline: str
) -> tuple[dict[str, Any], list[list[Path | None]]]:
    """What the script reads, and for each prompt the files of its pictures, method by method and seed by seed.

    A picture is [failure or -1, file or null, its scores, its texts, error or null]; null where there is none.
    """
    methods, seeds = ({line[key]: None for line in lines} for key in ("method", "seed"))
    prompts = {(line["set"], line["prompt"]): None for line in lines}
    by_place = {(line["set"], line["prompt"], line["method"], line["seed"]): line for line in lines}
    scores, shares = numeric_scores(lines), share_scores(lines)
    ordered = [key for key in scores if key in shares]
    texts = list(
        dict.fromkeys(k for line in lines for k, v in (line.get("scores") or {}).items() if isinstance(v, str))
    )
    failures = [*(FAILURES.get(key, f"{key}: no") for key in ordered), NO_PICTURE]
    entries, places = [], []
    for name, prompt in prompts:
        pictures: list[Any] = []
        paths: list[Path | None] = []
        for line in (by_place.get((name, prompt, method, seed)) for method in methods for seed in seeds):
            file = line["file"] if line and line["file"] and (folder / line["file"]).is_file() else None
            paths.append(folder / file if file else None)
            if line is None:
                pictures.append(None)
                continue
            why, found, words = failure(line, ordered), dict(numbers(line)), line.get("scores") or {}
            pictures.append(
                [
                    -1 if why is None else failures.index(why),
                    file,
                    [found.get(key) for key in scores],
                    [words[key] if isinstance(words.get(key), str) else None for key in texts],
                    line.get("error"),
                ]
            )
        entries.append({"set": name, "text": prompt, "pictures": pictures})
        places.append(paths)
    data = {
        "methods": list(methods),
        "seeds": list(seeds),
        "sets": list(dict.fromkeys(name for name, _ in prompts)),
        "baseline": list(methods).index(baseline) if baseline in methods else -1,
        "scores": [{"name": key, "share": key in shares} for key in scores],
        "texts": texts,
        "failures": [{"name": name, "badge": _badge(index)} for index, name in enumerate(failures)],
        "prompts": entries,
    }
    return data, places


def _badge(index: int) -> str:
    return BADGES[index] if index < len(BADGES) else "✕"


def _title(settings: Mapping[str, Any]) -> str:
    about = [str(settings[key]) for key in ("benchmark", "model") if settings.get(key)]
    return f"Evaluation: {', '.join(about)}" if about else "Evaluation of pictures"


def _summary(lines: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], judges: Mapping[str, str]) -> str:
    prompts, methods, seeds = (len({line[key] for line in lines}) for key in ("prompt", "method", "seed"))
    bad = [line for line in lines if "error" in line]
    text = f"<p>{prompts} prompts × {methods} methods × {seeds} seeds: {len(lines)} pictures. "
    by_judge: dict[str, list[str]] = {}
    for key, judge in judges.items():
        by_judge.setdefault(str(judge), []).append(key)
    text += "".join(f"{escape(', '.join(keys))}: judged by {escape(judge)}. " for judge, keys in by_judge.items())
    if bad:
        first = escape(f"{bad[0]['method']}, “{bad[0]['prompt']}”: {bad[0]['error']}")
        text += f"{len(bad)} have no scores (the first: {first}). "
    text += "</p>"
    if settings:
        rows = "".join(
            f"<tr><th scope=row>{escape(key)}</th><td>{_setting(value)}</td></tr>" for key, value in settings.items()
        )
        text += f"<details><summary>Settings</summary><table class=settings>{rows}</table></details>"
    return text


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return "<br>".join(f"{escape(str(key))}: {_setting(each)}" for key, each in value.items())
    return escape(value if isinstance(value, str) else json.dumps(value))


def _score(table: Sequence[Row], score: str, judges: Mapping[str, str]) -> str:
    """A score's section: table, bars and differences."""
    rows = [row for row in table if row.score == score]
    unit = "% of the pictures" if rows[0].share else "mean"
    by = f" by {escape(str(judges[score]))}" if score in judges else ""
    compared = differences(rows)
    parts = [
        f"<section><h3>{escape(score)} <small>{unit}{by}</small></h3>",
        _table(rows),
        f"<figure>{bars(rows)}{'<figcaption>◇ the paper</figcaption>' if _has_paper(rows) else ''}</figure>",
    ]
    if compared:
        parts += [
            f"<figure>{compared}<figcaption>Differences at the same prompts and seeds: ",
            f"▲ the interval lies above zero, ▼ below, ○ it holds zero or has fewer than {FEWEST} prompts",
            "</figcaption></figure>",
        ]
    return "\n".join([*parts, "</section>"])


def _has_paper(rows: Sequence[Row]) -> bool:
    return any(row.paper is not None for row in rows)


def _table(rows: Sequence[Row]) -> str:
    sets = list(dict.fromkeys(row.set for row in rows))
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in sets)
    body = []
    for method in dict.fromkeys(row.method for row in rows):
        mine = {row.set: row for row in rows if row.method == method}
        cells = "".join(f"<td>{''.join(_cell(mine[name])) if name in mine else '-'}</td>" for name in sets)
        count = max(row.value.count for row in mine.values())
        body.append(f"<tr><th scope=row>{escape(method)}</th>{cells}<td>{count}</td></tr>")
    caption = f"Mean [95 % interval]; below it the difference to {rows[0].baseline}"
    return (
        f'<div class=wide tabindex=0 role=region aria-label="{escape(rows[0].score)}, table"><table class=scores>'
        f"<caption>{escape(caption)}{', and the paper’s figure' if _has_paper(rows) else ''}</caption>"
        f"<thead><tr><th scope=col>method</th>{head}<th scope=col>pictures</th></tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(row: Row) -> Iterator[str]:
    def shown(found: Estimate, sign: str = "") -> str:
        mean, low, high = (number(each, row.share, sign) for each in (found.mean, found.low, found.high))
        return f"<b>{mean}</b> [{low}, {high}]"

    yield shown(row.value)
    if row.against_baseline:
        kind = verdict(row.against_baseline)
        yield f'<div class="{kind}">{ARROWS[kind]} {shown(row.against_baseline, "+")}</div>'
    if row.paper is not None:
        yield f"<div class=paper>paper {row.paper:.3f}</div>"


def _source(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """For the content security policy; browsers hash what stands between the tags."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
