"""Lines of scores.jsonl -> every method's scores by set, with intervals and paired differences to a baseline."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .paper import published
from .statistics import Estimate, difference, estimate

BASELINE = "sd"
"""The baseline of comparisons unless another method is named."""
LESS_IS_BETTER = frozenset({"extras", "distance", "texture"})
"""Scores that count what is wrong with a picture."""


@dataclass(frozen=True)
class Row:
    """A score of a method on a set, and its difference to the baseline's at the same prompts and seeds.

    Attributes:
        share: whether every picture's score is 0 or 1, so that the mean is a share of the pictures.
        baseline: the method that it is compared with.
        paper: the published figure, where the run is one that it can be compared with.
    """

    method: str
    set: str
    score: str
    share: bool
    value: Estimate
    baseline: str
    against_baseline: Estimate | None
    paper: float | None

    @property
    def outcome(self) -> str:
        """Whether the difference to the baseline is a "gain" or a "loss"; "open" if it is neither for certain."""
        verdict = self.against_baseline.verdict if self.against_baseline else "open"
        good, bad = ("below", "above") if self.score in LESS_IS_BETTER else ("above", "below")
        return {good: "gain", bad: "loss"}.get(verdict, "open")


def compare(
    lines: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
    judges: Mapping[str, str] | None = None,
    baseline: str = BASELINE,
) -> list[Row]:
    """A row for each method, set (the whole is "all") and score there is; `settings` and `judges` are those of
    run.json and judges.json, to find the published figures by.

    Raises ValueError for a baseline, other than the usual one, of which there are no pictures.
    """
    methods = list(dict.fromkeys(line["method"] for line in lines))
    if baseline not in (BASELINE, *methods):
        raise ValueError(f"There are no pictures of {baseline!r} to compare with; there are {', '.join(methods)}.")
    scores, shares = numeric_scores(lines), share_scores(lines)
    values: dict[tuple[str, str, str], dict[tuple[str, object], float]] = {}
    for line in lines:
        for (score, value), name in itertools.product(numbers(line), {"all": None, line["set"]: None}):
            values.setdefault((line["method"], name, score), {})[line["prompt"], line["seed"]] = value
    rows = []
    sets = dict.fromkeys(["all", *(line["set"] for line in lines)])
    for method, name, score in itertools.product(methods, sets, scores):
        if ours := values.get((method, name, score)):
            theirs = values.get((baseline, name, score), {}) if method != baseline else {}
            against = difference(ours, theirs) if ours.keys() & theirs.keys() else None
            paper = published(method, name, score, settings or {}, judges or {})
            rows.append(Row(method, name, score, score in shares, estimate(ours), baseline, against, paper))
    return rows


def by_score(table: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each score."""
    return {score: [row for row in table if row.score == score] for score in dict.fromkeys(row.score for row in table)}


def by_method(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """The rows of one score as a table: {method: {set: row}}."""
    table: dict[str, dict[str, Row]] = {}
    for row in rows:
        table.setdefault(row.method, {})[row.set] = row
    return table


def numeric_scores(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the scores that are numbers, as they occur."""
    return list(dict.fromkeys(key for line in lines for key, _ in numbers(line)))


def share_scores(lines: Sequence[Mapping[str, Any]]) -> set[str]:
    """Those of them that are 0 or 1 throughout."""
    return set(numeric_scores(lines)) - {key for line in lines for key, value in numbers(line) if value not in (0, 1)}


def numbers(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The scores of a picture that are finite numbers: neither None, nor texts, nor NaN."""
    for key, value in (line.get("scores") or {}).items():
        if isinstance(value, (int, float)) and math.isfinite(value):
            yield key, float(value)
