"""Boxes of objects in figures."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import rc_context, rcParams
from matplotlib.patches import Rectangle
from PIL import Image
from reference import run

from ebama.evaluation.report import charts
from ebama.evaluation.report.comparison import Row
from ebama.evaluation.report.statistics import Estimate
from ebama.trace import figures
from ebama.trace.map_rows import MapRow, map_rows

CROWN, BOX = "a purple crown and a blue suitcase", (0.0, 0.25, 0.5, 0.75)


def rectangles(axis: object) -> list[tuple[float, ...]]:
    patches = [patch for patch in axis.patches if isinstance(patch, Rectangle)]  # type: ignore[attr-defined]
    return [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in patches]


@pytest.mark.slow
def test_maps_of_an_object_and_its_modifiers_show_its_box() -> None:
    trace = run(CROWN, "ane", steps=1, trace=True, boxes={"crown": BOX}).trace
    assert trace is not None
    assert [(row.label, row.box) for row in map_rows(trace)] == [
        *(("purple", BOX), ("crown", BOX), ("blue", None), ("suitcase", None))
    ]
    assert [row.box for row in map_rows(trace, ["suitcase", "crown", "and"])] == [None, BOX, None]
    rows = map_rows(trace, ["crown", "suitcase"])
    figure = figures.map_grid("title", [Image.new("RGB", (8, 8))], ["call 0"], rows, "probability")
    drawn = [rectangles(axis) for axis in figure.axes if axis.images]
    assert pytest.approx(drawn[1][0]) == [0.0, 0.25, 0.5, 0.5]
    assert drawn[0] == drawn[2] == []


def test_a_comparison_shows_them_in_every_picture() -> None:
    picture = Image.new("RGB", (8, 8))
    figure = figures.comparison([[[picture] * 2] * 3], [CROWN], ["sd", "ane", "boxdiff"], [0, 1], [BOX, (0.5, 0, 1, 1)])
    drawn = [rectangles(axis) for block in figure.subfigs for axis in block.axes]
    assert len(drawn) == 6
    assert all(len(boxes) == 2 and boxes[1] == (0.5, 0, 0.5, 1) for boxes in drawn)


def test_methods_that_run_together_have_a_line_each() -> None:
    names = ["sd", "initno+guided_steps=0,ebama", "cd+weights=[7.5, -3.0]", "ane+thresholds=[[0,0.5],[1,0.8]],ebama"]
    figure = figures.comparison([[[Image.new("RGB", (8, 8))]] * 4], [CROWN], names, [0])
    labels = [axis.get_ylabel().split("\n") for block in figure.subfigs for axis in block.axes]
    assert labels == [
        ["sd"],
        ["initno", "+guided_steps=0,", "ebama"],
        ["cd", "+weights=[7.5, -3.0]"],
        ["ane", "+thresholds=[[0,0.5],[1,0.8]],", "ebama"],
    ]


@pytest.mark.slow
def test_figures_do_not_follow_settings_of_matplotlib() -> None:
    settings = {"text.usetex": True, "text.parse_math": False, "image.origin": "lower", "axes.titlelocation": "left"}
    settings |= {"savefig.dpi": 30, "savefig.bbox": "tight", "savefig.facecolor": "black", "path.sketch": (1, 100, 2)}
    picture = Image.linear_gradient("L").resize((8, 8)).convert("RGB")
    row = MapRow("a_word", np.arange(4.0).reshape(1, 2, 2), 0, 3)

    def drawn() -> list[bytes]:
        sheet = figures.comparison([[[picture]]], ["a $5 bill_"], ["sd"], [0])
        grid = figures.map_grid("a $5 bill_", [picture], ["call 0"], [row], "score")
        frames = figures.map_frames("a $5 bill_", [picture], ["call 0"], [row], "score")
        return [picture.tobytes() for picture in (figures.rendered(sheet), figures.rendered(grid), *frames)]

    scores = [Row("sd", "a_set", "presence", True, Estimate(0.5, 0.4, 0.6, 9, 3), "sd", None, None)]
    usual, chart = drawn(), charts.bars(scores)
    with rc_context(settings):  # type: ignore[arg-type]
        assert drawn() == usual
        assert charts.bars(scores) == chart
        assert {name: rcParams[name] for name in settings} == settings
    # The fonts that somebody chose may have the letters of a prompt.
    with rc_context({"font.family": "monospace"}):
        monospaced = drawn()
    assert all(a != b for a, b in zip(monospaced, usual, strict=True))
    with rc_context({"font.family": "serif", "font.serif": ["DejaVu Sans Mono"]}):
        assert drawn() == monospaced
