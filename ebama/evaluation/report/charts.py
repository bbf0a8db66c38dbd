"""Rows of one score -> charts as inline SVG: bars with intervals, and differences to the baseline.

matplotlib draws them with stand-in colours that become CSS variables of the page, for its light and its dark look.
Every bar is named by its label and every verdict has a shape of its own, so that no reader needs the colours.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ...trace.figures import usual_style
from .comparison import Row
from .statistics import Estimate

COLOURS = ("text", "faint", "line", "back", "bar", "base", "gain", "loss")
STAND_INS = {name: f"#{number:06x}" for number, name in enumerate(COLOURS)}
MARKERS = {"above": "^", "below": "v", "open": "o"}
LINE, PANEL, GAP, TOP, BOTTOM, LETTER = 24, 190, 62, 26, 44, 7.8
"""Pixels, of which matplotlib thinks as points."""
NAME = 34
"""Letters of a method's name that are shown; the marks' titles hold the whole name."""
NOT_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@usual_style()
def bars(rows: Sequence[Row]) -> str:
    """A panel for each set, a bar from zero with its interval for each method; `rows` are those of one score."""
    share = rows[0].share
    ends = [end for row in rows for end in (row.value.low, row.value.high, row.paper or 0.0)]
    limits = (0.0, 1.0) if share else (min(0.0, *ends), max(0.0, *ends))
    chart = _Chart(rows, limits, f"{rows[0].score}, {'% of the pictures' if share else 'score'}")
    for row in rows:
        panel, y, title = chart.add(row, row.value)
        kind, colour = ("baseline", "base") if row.method == row.baseline else ("bar", "bar")
        panel.barh(y, row.value.mean, 0.6, color=STAND_INS[colour], gid=f"{kind}|{title}", clip_on=False, zorder=2)
        if row.paper is not None:
            chart.mark(row, row.paper, "D", "loss", f"paper|{title}; the paper: {row.paper:.3f}")
    return chart.svg()


@usual_style()
def differences(rows: Sequence[Row]) -> str:
    """The same panels with differences to the baseline; empty if there are none."""
    compared = [(row, row.against_baseline) for row in rows if row.against_baseline]
    if not compared:
        return ""
    share = rows[0].share
    reach = max(max(abs(against.low), abs(against.high)) for _, against in compared) or (0.01 if share else 0.001)
    label = f"{rows[0].score} minus {rows[0].baseline}'s, {'percentage points' if share else 'score'}"
    chart = _Chart([row for row, _ in compared], (-reach, reach), label)
    for row, against in compared:
        _, _, title = chart.add(row, against, "+")
        colour = "text" if row.outcome == "open" else row.outcome
        chart.mark(row, against.mean, MARKERS[against.verdict], colour, f"{against.verdict}|{title}")
    return chart.svg()


class _Chart:
    """Panels side by side, one for each set, all with a line for each method."""

    def __init__(self, rows: Sequence[Row], limits: tuple[float, float], label: str) -> None:
        self.methods = list(dict.fromkeys(row.method for row in rows))
        self.label = _plain(f"{label}; lines: 95 % intervals")
        self.edge = limits[1] + (limits[1] - limits[0]) * 8 / PANEL
        sets = list(dict.fromkeys(row.set for row in rows))
        names = [name if len(name) <= NAME else f"{name[: NAME - 1]}…" for name in map(_plain, self.methods)]
        left = max(max(map(len, names)) * LETTER + 14, 70)
        width, height = left + len(sets) * (PANEL + GAP), TOP + len(names) * LINE + BOTTOM
        self.figure = Figure(figsize=(width / 72, height / 72))
        self.panels = {}
        for column, name in enumerate(sets):
            x = left + column * (PANEL + GAP)
            place = (x / width, BOTTOM / height, PANEL / width, len(names) * LINE / height)
            panel = self.figure.add_axes(place, frameon=False)
            panel.set(xlim=limits if limits[0] < limits[1] else (0, 1), ylim=(len(names) - 0.5, -0.5))
            panel.set_title(_plain(name), loc="left", pad=9, fontsize=13, parse_math=False, gid="heading|")
            panel.xaxis.set_major_locator(MaxNLocator(4))
            scale, digits = (100, "g") if rows[0].share else (1, ".2g")
            panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _, s=scale, d=digits: format(x * s, d)))
            panel.grid(axis="x", color=STAND_INS["line"], linewidth=1, clip_on=False)
            panel.tick_params(axis="x", length=0, labelsize=13, labelcolor=STAND_INS["faint"])
            panel.plot([0, 0], panel.get_ylim(), "k", linewidth=1, clip_on=False, gid="zero|")
            panel.yaxis.set_visible(not column)
            self.panels[name] = panel
        first = self.panels[sets[0]]
        first.tick_params(axis="y", length=0, labelsize=13, pad=8)
        first.set_yticks(range(len(names)), names, parse_math=False)
        self.figure.text(left / width, 8 / height, self.label, fontsize=13, parse_math=False)

    def add(self, row: Row, estimate: Estimate, sign: str = "") -> tuple[Axes, int, str]:
        """Draw a row's interval and value; its panel, its line and the title of its marks."""
        panel, y = self.panels[row.set], self.methods.index(row.method)
        mean, low, high = estimate.shown(row.share, sign)
        title = _plain(f"{row.method}, {row.set}: {mean} [{low}, {high}]")
        ends = (estimate.low, estimate.high)
        panel.plot(ends, (y, y), "k-|", lw=1.5, ms=8, mew=1.5, clip_on=False, gid=f"interval|{title}", zorder=3)
        panel.text(self.edge, y, mean, fontsize=13, va="center_baseline", gid=f"value|{title}")
        return panel, y, title

    def mark(self, row: Row, x: float, marker: str, colour: str, gid: str) -> None:
        """Draw a sign on a row: hollow if it is a circle or a diamond."""
        face = STAND_INS["back" if marker in "oD" else colour]
        size = 8 if marker == "D" else 9 if marker == "o" else 11
        place = (self.methods.index(row.method),)
        self.panels[row.set].plot(
            (x,), place, marker, mfc=face, mec=STAND_INS[colour], mew=1.5, ms=size, clip_on=False, gid=gid, zorder=4
        )

    def svg(self) -> str:
        """The chart as an element of a page. Styles are attributes, as the page's policy forbids inline styles."""
        file = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.label}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a letter that only the browser's font has
            self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        inks = {stand_in: f"var(--{name})" for name, stand_in in STAND_INS.items()}
        root = ElementTree.fromstring(file.getvalue())
        for element in [*root.iter()]:
            element.tag = element.tag.rpartition("}")[2]
            for child in [*element]:
                if child.tag.endswith(("}metadata", "}style")):
                    element.remove(child)
            for rule in filter(None, element.attrib.pop("style", "").split(";")):
                name, value = (part.strip() for part in rule.split(":", 1))
                if not name.startswith("font"):
                    element.set(name, inks.get(value, value))
            if link := element.attrib.pop("{http://www.w3.org/1999/xlink}href", ""):
                element.set("xlink:href", link)
            if element.tag == "g":
                kind, ours, title = element.attrib.pop("id", "").partition("|")
                if ours:
                    element.set("class", kind)
                if title:
                    element.insert(0, ElementTree.Element("title"))
                    element[0].text = title
        width, height = root.attrib["viewBox"].split()[2:]
        root.attrib |= {
            "width": width,
            "height": height,
            "fill": "var(--text)",
            "role": "img",
            "aria-label": self.label,
        }
        return ElementTree.tostring(root, encoding="unicode")


def _plain(text: str) -> str:
    """A text without the characters that no XML file may hold."""
    return NOT_XML.sub("\ufffd", text)
