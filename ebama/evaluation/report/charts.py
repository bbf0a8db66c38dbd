"""Rows of a comparison -> inline SVG: bars with intervals, and differences to the baseline. Colours are the page's.

Every bar is named by its label and every verdict has a shape of its own, so that no reader needs the colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from matplotlib.ticker import MaxNLocator

from .comparison import Row
from .statistics import Estimate

FEWEST = 5
"""Prompts below which a bootstrap interval supports no verdict: resampling two or three hardly varies."""
LINE, PANEL, GAP, TOP, BOTTOM, LETTER = 24, 190, 62, 26, 44, 7.8
NAME = 34
"""Letters of a method's name that are shown; its whole name is the mark's title."""

Scale = Callable[[float], float]


def bars(rows: Sequence[Row]) -> str:
    """A panel for each set, a bar from zero with its interval for each method; `rows` are those of one score."""
    ends = [end for row in rows for end in (row.value.low, row.value.high, row.paper or 0.0)]
    limits = (0.0, 1.0) if rows[0].share else (min(0.0, *ends), max(0.0, *ends))

    def drawn(row: Row, y: float, x: Scale) -> Iterator[str]:
        found = row.value
        left, right = sorted((x(0), x(found.mean)))
        kind = "baseline" if row.method == row.baseline else "bar"
        yield f'<rect class="{kind}" x="{left:.1f}" y="{y - 7:.1f}" width="{right - left:.1f}" height="14"/>'
        yield _interval(found, y, x)
        if row.paper is not None:
            yield f'<path class="paper" d="M{x(row.paper):.1f},{y - 6:.1f}l5,6l-5,6l-5,-6z"/>'

    unit = "% of the pictures" if rows[0].share else "score"
    return _chart(rows, limits, f"{rows[0].score}, {unit}", drawn, lambda row: row.value)


def differences(rows: Sequence[Row]) -> str:
    """The same panels with differences to the baseline; empty if there are none."""
    shown = [row for row in rows if row.against_baseline]
    if not shown:
        return ""
    found = [row.against_baseline for row in shown if row.against_baseline]
    reach = max([max(abs(each.low), abs(each.high)) for each in found]) or (0.01 if rows[0].share else 0.001)

    def drawn(row: Row, y: float, x: Scale) -> Iterator[str]:
        assert row.against_baseline
        yield _interval(row.against_baseline, y, x)
        at, kind = x(row.against_baseline.mean), verdict(row.against_baseline)
        shapes = {
            "above": f"M{at - 6:.1f},{y + 5:.1f}h12l-6,-11z",
            "below": f"M{at - 6:.1f},{y - 5:.1f}h12l-6,11z",
            "open": f"M{at - 4.5:.1f},{y:.1f}a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",
        }
        yield f'<path class="{kind}" d="{shapes[kind]}"/>'

    unit = "percentage points" if rows[0].share else "score"
    label = f"{rows[0].score} minus {rows[0].baseline}'s, {unit}"
    return _chart(shown, (-reach, reach), label, drawn, lambda row: row.against_baseline)


def verdict(found: Estimate) -> str:
    """Whether the whole interval lies "above" or "below" zero; "open" if it holds zero, or with too few prompts."""
    if found.prompts < FEWEST:
        return "open"
    return "above" if found.low > 0 else "below" if found.high < 0 else "open"


def number(value: float, share: bool, sign: str = "") -> str:
    """A score as it is shown: a share in percent with one decimal, else three decimals."""
    return format(value * 100, f"{sign}.1f") if share else format(value, f"{sign}.3f")


def _interval(found: Estimate, y: float, x: Scale) -> str:
    low, high = x(found.low), x(found.high)
    return f'<path class="interval" d="M{low:.1f},{y - 4:.1f}v8m0,-4H{high:.1f}m0,-4v8"/>'


def _chart(
    rows: Sequence[Row],
    limits: tuple[float, float],
    label: str,
    drawn: Callable[[Row, float, Scale], Iterator[str]],
    estimate: Callable[[Row], Estimate | None],
) -> str:
    methods = list(dict.fromkeys(row.method for row in rows))
    sets = list(dict.fromkeys(row.set for row in rows))
    share = rows[0].share
    names = max(min(max(map(len, methods)), NAME) * LETTER + 14, 70)
    width = names + len(sets) * (PANEL + GAP)
    height = TOP + len(methods) * LINE + BOTTOM
    ticks = [tick for tick in MaxNLocator(4).tick_values(*limits) if limits[0] - 1e-9 <= tick <= limits[1] + 1e-9]
    parts = []
    for line, method in enumerate(methods):
        name = method if len(method) <= NAME else f"{method[: NAME - 1]}…"
        y = TOP + (line + 0.5) * LINE
        parts.append(f'<text class="end" x="{names - 8:.0f}" y="{y + 4:.1f}">{escape(name)}</text>')
    for column, set_ in enumerate(sets):
        left = names + column * (PANEL + GAP)

        def x(value: float, left: float = left) -> float:
            return left + (value - limits[0]) / ((limits[1] - limits[0]) or 1) * PANEL

        parts.append(f'<text class="heading" x="{left:.0f}" y="15">{escape(set_)}</text>')
        bottom = TOP + len(methods) * LINE
        for tick in ticks:
            kind = "zero" if abs(tick) < 1e-9 else "tick"
            parts.append(f'<path class="{kind}" d="M{x(tick):.1f},{TOP}V{bottom}"/>')
            text = f"{tick * 100:g}" if share else f"{tick:.2g}"
            parts.append(f'<text class="middle" x="{x(tick):.1f}" y="{bottom + 15}">{text}</text>')
        for row in rows:
            found = estimate(row)
            if row.set == set_ and found:
                y = TOP + (methods.index(row.method) + 0.5) * LINE
                sign = "+" if found is row.against_baseline else ""
                low, mean, high = (number(each, share, sign) for each in (found.low, found.mean, found.high))
                title = f"{row.method}, {row.set}: {mean} [{low}, {high}]"
                parts.append(f"<g><title>{escape(title)}</title>{''.join(drawn(row, y, x))}")
                parts.append(f'<text x="{left + PANEL + 8:.0f}" y="{y + 4:.1f}">{mean}</text></g>')
    parts.append(f'<text x="{names:.0f}" y="{height - 8}">{escape(label)}; lines: 95 % intervals</text>')
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}">{"".join(parts)}</svg>'
    )
