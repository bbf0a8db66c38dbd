"""scores.jsonl -> the table: every method's scores by set, with intervals and paired differences to `sd`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_text
from .statistics import Estimate, difference, estimate

BASELINE = "sd"
SHARES = ("presence", "binding")
"""Scores that are 0 or 1, shown in percent."""


@dataclass(frozen=True)
class Row:
    """A score of a method on a set, and its difference to the baseline's at the same prompts and seeds."""

    method: str
    set: str
    score: str
    value: Estimate
    against_baseline: Estimate | None


def write(folder: Path) -> str:
    """Write table.md, table.csv and table.json from scores.jsonl; returns the Markdown.

    Raises ValueError if scores.jsonl is missing or holds no score.
    """
    path = folder / "scores.jsonl"
    if not path.is_file():
        raise ValueError(f"There is no {path}; `evaluate --score-only {folder}` makes it.")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    table = list(_rows(lines))
    if not table:
        raise ValueError(f"{path} holds no score; no judge had anything to say of its prompts.")
    markdown = _markdown(table)
    write_text(folder / "table.md", markdown)
    write_text(folder / "table.json", json.dumps([asdict(row) for row in table], indent=1) + "\n")
    write_text(folder / "table.csv", _csv(table))
    return markdown


def _rows(lines: list[dict[str, Any]]) -> Iterator[Row]:
    methods = list(dict.fromkeys(line["method"] for line in lines))
    sets = list(dict.fromkeys(line["set"] for line in lines))
    scores = list(dict.fromkeys(key for line in lines for key in line.get("scores", {})))
    for method in methods:
        for name in ["all", *sets] if sets != ["all"] else sets:
            for score in scores:
                values = _values(lines, method, name, score)
                if not values:
                    continue
                baseline = _values(lines, BASELINE, name, score) if method != BASELINE else {}
                shared = values.keys() & baseline.keys()
                by_prompt: dict[str, list[float]] = {}
                for (prompt, _), value in values.items():
                    by_prompt.setdefault(prompt, []).append(value)
                against = difference(values, baseline) if shared else None
                yield Row(method, name, score, estimate(by_prompt), against)


def _values(lines: list[dict[str, Any]], method: str, name: str, score: str) -> dict[tuple[str, object], float]:
    """(prompt, seed) -> score, of the pictures that have it."""
    return {
        (line["prompt"], line["seed"]): line["scores"][score]
        for line in lines
        if line["method"] == method
        and name in ("all", line["set"])
        and isinstance(line.get("scores", {}).get(score), (int, float))
    }


def _markdown(table: list[Row]) -> str:
    sets = list(dict.fromkeys(row.set for row in table))
    blocks = []
    for score in dict.fromkeys(row.score for row in table):
        unit = ", %" if score in SHARES else ""
        block = [f"**{score}{unit}** [95 % interval]; difference to {BASELINE} at the same prompts and seeds", ""]
        block += ["| method | " + " | ".join(sets) + " | pictures |", "|---" * (len(sets) + 2) + "|"]
        for method in dict.fromkeys(row.method for row in table):
            mine = {row.set: row for row in table if row.method == method and row.score == score}
            if mine:
                cells = [_cell(mine[name]) if name in mine else "-" for name in sets]
                pictures = max(row.value.count for row in mine.values())
                block.append(f"| {method} | {' | '.join(cells)} | {pictures} |")
        blocks.append("\n".join(block))
    return "\n\n".join(blocks) + "\n"


def _cell(row: Row) -> str:
    scale, form = (100, ".1f") if row.score in SHARES else (1, ".3f")

    def shown(found: Estimate, sign: str = "") -> str:
        mean, low, high = (format(scale * x, sign + form) for x in (found.mean, found.low, found.high))
        return f"{mean} [{low}, {high}]"

    return shown(row.value) + (f"; {shown(row.against_baseline, '+')}" if row.against_baseline else "")


def _csv(table: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["method", "set", "score", "mean", "low", "high", "pictures", "difference", "difference_low", "difference_high"]
    )
    for row in table:
        value, against = row.value, row.against_baseline
        ends = [against.mean, against.low, against.high] if against else ["", "", ""]
        writer.writerow([row.method, row.set, row.score, value.mean, value.low, value.high, value.count, *ends])
    return text.getvalue()
