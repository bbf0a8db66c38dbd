"""Requests to end: a signal that is swallowed on its way ends the work all the same, and nothing waits at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest
from tqdm import tqdm

from ebama import Pipeline
from ebama.runtime.progress import Bar
from ebama.runtime.stops import Stopped, check_stops, held_stops, raised_stops
from ebama.weights import load

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(load())


class Swallows:
    """Whose destructor is running when the signal comes: what is raised there goes no further."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), self.number)
            threading.Event().wait(1)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_swallowed_signal_ends_the_run_before_its_next_call(number: int, pipeline: Pipeline) -> None:
    done: list[int] = []

    def tell(call: int, calls: int) -> None:
        done.append(call)
        if call == 2:
            Swallows(number)

    with raised_stops() as stops, pytest.raises(Stopped) as caught:
        pipeline("a red car", method="sd", steps=6, parser="rules", output="latent", progress=False, on_call=tell)
    assert done == [1, 2]
    assert caught.value is stops[-1]
    assert caught.value.code == 128 + number
    check_stops()  # of a context that ended nothing is left


def test_bars_have_no_thread_and_ask_between_steps() -> None:
    before, steps = threading.active_count(), []

    def count() -> None:
        for step in Bar(range(4)):
            steps.append(step)
            if step == 1:
                Swallows(signal.SIGTERM)

    with raised_stops(), pytest.raises(Stopped):
        count()
    assert steps == [0, 1]
    assert threading.active_count() == before
    assert tqdm.monitor_interval  # other people's bars stay as they are


def test_stops_that_are_held_are_raised_once_they_may() -> None:
    done = []

    def hold() -> None:
        with held_stops():
            os.kill(os.getpid(), signal.SIGTERM)
            check_stops()
            done.append("held")
        done.append("lost")

    with raised_stops(), pytest.raises(Stopped):
        hold()
    assert done == ["held"]
