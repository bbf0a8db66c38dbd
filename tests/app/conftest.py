"""The page's server on the tiny model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from reference import model

from ebama import Pipeline, Result

pytest.importorskip("fastapi", reason="needs the extra app")
from fastapi.testclient import TestClient

from ebama.app.api import create_app
from ebama.app.service import Service


class Braked(Pipeline):
    """Waits before its first report until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__(model())
        self.go = threading.Event()
        self.go.set()
        self.runs: list[str] = []

    def __call__(self, prompt: Any, *, on_call: Callable[[int, int], None] | None = None, **options: Any) -> Result:
        self.runs.append(prompt)

        def told(done: int, total: int) -> None:
            assert self.go.wait(120)
            assert on_call
            on_call(done, total)

        return super().__call__(prompt, on_call=told, **options)


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(Braked(), parser="rules")


@pytest.fixture
def pipeline(service: Service) -> Iterator[Braked]:
    assert isinstance(service.pipeline, Braked)
    service.pipeline.runs.clear()
    yield service.pipeline
    service.pipeline.go.set()


@pytest.fixture
def client(service: Service, pipeline: Braked) -> Iterator[TestClient]:
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        yield client
        pipeline.go.set()
