"""Figure 1's numbers against plain loops over the pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference import run

from ebama.prompt import Group
from ebama.samplers import DDIM
from ebama.trace import Trace, TraceOptions, curves

PROMPT = "a purple crown and a shiny blue axolotl"
GROUPS = [("crown", ["purple"]), ("axolotl", ["shiny", "blue"])]


@pytest.fixture(scope="module")
def trace() -> Trace:
    trace = run([PROMPT, "a cat"], "ebama", groups=[GROUPS, [("cat", [])]], sampler=DDIM(2), trace=True).trace
    assert trace is not None
    return trace


def positions(trace: Trace, word: str) -> list[int]:
    return next(list(found.positions) for found in trace.words() if found.text == word)


def peak(map_: np.ndarray) -> float:
    """Largest weighted mean of 3x3 pixels with weights exp(-distance^2), the border mirrored."""
    padded = np.pad(map_.astype(np.float64), 1, mode="reflect")
    weights = {(i, j): math.exp(-(i * i + j * j)) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    total = sum(weights.values())
    height, width = map_.shape
    return max(
        sum(w * padded[y + 1 + i, x + 1 + j] for (i, j), w in weights.items()) / total
        for y in range(height)
        for x in range(width)
    )


@pytest.mark.slow
def test_intensity_is_the_peak_of_smoothed_probabilities(trace: Trace) -> None:
    found = curves.intensity(trace)
    assert (found.quantity, found.labels, found.timesteps) == ("intensity", ("crown", "axolotl"), (501, 1))
    assert found.values.shape == (2, 2)
    for row, word in enumerate(found.labels):
        for call in range(2):
            pieces = trace.probabilities[0, call][..., positions(trace, word)].float().numpy()
            assert found.values[row, call] == pytest.approx(peak(pieces.mean(-1)), rel=1e-4)
    assert curves.intensity(trace, sample=1).labels == ("cat",)


def test_similarity_is_the_cosine_of_scores(trace: Trace) -> None:
    found = curves.similarity(trace)
    assert found.labels == ("purple crown", "shiny axolotl", "blue axolotl")
    for row, label in enumerate(found.labels):
        for call in range(2):
            scores = trace.scores[0, call].double().numpy()
            a, b = (scores[..., positions(trace, word)].mean(-1).ravel() for word in label.split())
            expected = sum(a * b) / math.sqrt(sum(a * a) * sum(b * b))
            assert found.values[row, call] == pytest.approx(expected, abs=1e-4)
    nothing = curves.similarity(trace, sample=1)
    assert nothing.labels == ()
    assert nothing.values.shape == (0, 2)


def test_groups_can_be_given_where_the_run_had_none() -> None:
    trace = run("a red cat and a blue cat", "sd", sampler=DDIM(2), trace=True).trace
    assert trace is not None
    assert curves.intensity(trace).values.shape == (0, 2)
    groups = [Group((3,), ((2,),)), Group((7,), ((6,),))]
    assert curves.intensity(trace, groups).labels == ("cat (1)", "cat (2)")
    assert curves.similarity(trace, groups).labels == ("red cat", "blue cat")


def test_what_was_not_kept_cannot_be_drawn() -> None:
    trace = run(PROMPT, "sd", groups=GROUPS, sampler=DDIM(2), trace=TraceOptions(scores=False)).trace
    assert trace is not None
    assert curves.intensity(trace).labels == ("crown", "axolotl")
    with pytest.raises(ValueError, match="kept no scores"):
        curves.similarity(trace)
