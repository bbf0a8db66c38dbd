"""scores.jsonl -> the table (Markdown, CSV, JSON) and the page (report.html) of a run."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...output.claims import alone
from ...output.files import write_text
from ...output.reading import read_object
from .. import jsonl
from ..rows import check_score, check_scores, read_judges
from . import page, paper
from .comparison import BASELINE, Row, by_method, by_score, compare

FILES = ("table.md", "table.json", "table.csv", "report.html")
NO_SCORES = page.NO_SCORES + "\n"


def write(folder: Path, baseline: str = BASELINE) -> str:
    """Write table.md, table.csv, table.json and report.html from scores.jsonl and the pictures; returns the Markdown.

    Differences are to the method `baseline`. Raises ValueError if there are no pictures of it, if scores.jsonl is
    missing or damaged, or if there are neither scores nor pictures.
    """
    path = folder / "scores.jsonl"
    if not path.is_file():
        raise ValueError(f"There is no {path}; `evaluate --score-only {folder}` makes it.")
    with alone(folder, f"makes the tables of {folder}"):
        return _write(folder, path, baseline)


def _write(folder: Path, path: Path, baseline: str) -> str:
    lines = [{"file": None, "scores": {}, **line} for line in jsonl.read(path, check_score, whole=True)]
    check_scores(path, lines)
    about, judges = settings(folder), read_judges(folder)
    table = compare(lines, about, judges, baseline)
    if not table and not any(line["file"] and (folder / line["file"]).is_file() for line in lines):
        refused = next((line["error"] for line in lines if line.get("error")), "")
        why = f" The first was refused: {refused}" if refused else ""
        raise ValueError(f"{path} holds no score, and {folder} no picture that it names.{why}")
    markdown = _markdown(table) or NO_SCORES
    made = page.page(folder, lines, table, about, judges, baseline)  # before anything is replaced: it may fail
    texts = markdown, json.dumps([asdict(row) for row in table], indent=1) + "\n", _csv(table), made
    for name, text in zip(FILES, texts, strict=True):
        write_text(folder / name, text)
    return markdown


def settings(folder: Path) -> dict[str, Any]:
    """The settings in run.json; empty if there is none, as in folders of other programs, or if it is damaged."""
    try:
        return read_object(folder / "run.json")
    except ValueError as error:
        warnings.warn(f"{error} The report is made without it.", stacklevel=2)
        return {}


def _markdown(table: Sequence[Row]) -> str:
    sets = list(dict.fromkeys(row.set for row in table))
    blocks = []
    for score, rows in by_score(table).items():
        against = f"difference to {rows[0].baseline} at the same prompts and seeds"
        block = [f"**{_in_cell(score)}{', %' if rows[0].share else ''}** [95 % interval]; {_in_cell(against)}", ""]
        block += ["| method | " + " | ".join(map(_in_cell, sets)) + " | pictures |", "|---" * (len(sets) + 2) + "|"]
        for method, by_set in by_method(rows).items():
            cells = [_cell(by_set[name]) if name in by_set else "-" for name in sets]
            block.append(
                f"| {_in_cell(method)} | {' | '.join(cells)} | {max(row.value.count for row in by_set.values())} |"
            )
        blocks.append("\n".join(block))
    if any(row.paper is not None for row in table):
        blocks.append(paper.NOTE)
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _in_cell(name: str) -> str:
    """A name in a table of Markdown: folders of other programs may have any."""
    return " ".join(name.split()).replace("|", "\\|")


def _cell(row: Row) -> str:
    parts = ["{} [{}, {}]".format(*row.value.shown(row.share))]
    if row.against_baseline:
        parts.append("{} [{}, {}]".format(*row.against_baseline.shown(row.share, "+")))
    if row.paper is not None:
        parts.append(f"paper {row.paper:.3f}")
    return "; ".join(parts)


def _csv(table: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["method", "set", "score", "mean", "low", "high", "pictures"]
    writer.writerow([*head, "difference", "difference_low", "difference_high", "paper"])
    for row in table:
        value, against = row.value, row.against_baseline
        ends = [against.mean, against.low, against.high] if against else ["", "", ""]
        paper_ = "" if row.paper is None else row.paper
        writer.writerow([row.method, row.set, row.score, value.mean, value.low, value.high, value.count, *ends, paper_])
    return text.getvalue()
