"""The page's server: what it takes, in which sequence, what it gives back, and whom it answers."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reference import model

from ebama import Pipeline
from ebama.cli import main
from ebama.commands import model as commands_model
from ebama.output import seeds
from ebama.output.png import read_metadata
from ebama.prompt.words import describe_words
from ebama.trace import TraceOptions, curves
from ebama.trace.view import VIEWER
from ebama.weights.miniature.world import VOCABULARY

pytest.importorskip("fastapi", reason="needs the extra app")
from fastapi.testclient import TestClient

from ebama.app import jobs
from ebama.app.api import PAGE, create_app
from ebama.app.jobs import Job, Queue
from ebama.app.middleware import Ending
from ebama.app.request import MAX_PROMPT, MAX_SEEDS, GenerateRequest
from ebama.app.service import Service

ROOT = Path(__file__).parents[2]
PROMPT = "a purple crown and a blue suitcase"
SMALL: dict[str, Any] = {"prompt": PROMPT, "methods": ["sd", "ebama"], "seeds": "3,1", "steps": 2}


def submit(client: TestClient, **request: Any) -> str:
    answer = client.post("/api/jobs", json=SMALL | request)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def status(client: TestClient, job: str) -> dict[str, Any]:
    answer = client.get(f"/api/jobs/{job}")
    assert answer.status_code == 200
    return dict(answer.json())


def until(client: TestClient, job: str, *states: str) -> dict[str, Any]:
    end = time.monotonic() + 120
    while (found := status(client, job))["state"] not in states:
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def refusal(answer: Any, code: int) -> str:
    assert answer.status_code == code, answer.text
    (line,) = answer.json()["error"].splitlines()
    assert len(line) > 10
    return str(line)


# --- bounds ---


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n "}, "prompt is empty"),
        ({"prompt": "quickly and slowly"}, "no noun"),
        ({"prompt": "a cat " * MAX_PROMPT}, f"at most {MAX_PROMPT}"),
        ({"prompt": 3}, "prompt: Input should be a valid string, got '3'"),
        ({"prompt": "a \ud800 cat"}, "half a character"),
        ({"negative_prompt": "\udfff"}, "half a character"),
        ({"negative_prompt": "x" * (MAX_PROMPT + 1)}, "negative prompt has 1001"),
        ({"methods": []}, "expected 1 to 6"),
        ({"methods": ["sd"] * 7}, "expected 1 to 6"),
        ({"methods": ["nothing"]}, "no method 'nothing'"),
        ({"methods": ["ebama+nothing=1"]}, "no option nothing"),
        ({"methods": ["ebama+step_size=-1"]}, "step_size is -1"),
        ({"methods": ["p2p"]}, "single prompt"),
        ({"methods": ["sd", "boxdiff"]}, "boxdiff places objects in boxes; draw one"),
        ({"prompt": "a cat", "boxes": {"dog": [0, 0, 1, 1]}}, "'dog' is not in the prompt"),
        ({"prompt": "a cat", "boxes": {"cat": [0, 0, 1, 2]}}, "does not lie in the picture"),
        ({"prompt": "a cat", "boxes": {"cat": [0, 0, 1]}}, "boxes"),
        ({"prompt": "a cat", "boxes": {f"cat#{k}": [0, 0, 1, 1] for k in range(9)}}, "9 boxes are drawn"),
        ({"methods": ["ane+max_refinements=1000"]}, "passes"),
        ({"methods": ["ane+max_refinements=1000000"]}, "max_refinements is 1000000"),
        ({"seeds": ""}, "names no seeds"),
        ({"seeds": "-1"}, "names no seeds"),
        ({"seeds": "1:2:3"}, "names no seeds"),
        ({"seeds": "4:4"}, "names 0 seeds"),
        ({"seeds": "0:99999999999999999"}, f"expected 1 to {MAX_SEEDS}"),
        ({"seeds": "9" * 19}, "names no seeds"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 101}, "expected 1 to 100"),
        ({"steps": "many"}, "steps: "),
        ({"steps": True}, "steps: Input should be a valid integer"),
        ({"guidance": True}, "guidance: Input should be a valid number"),
        ({"size": [True, 16]}, "size.0: Input should be a valid integer"),
        ({"boxes": {"crown": [False, 0, 1, 1]}}, "boxes.crown.0: Input should be a valid number"),
        ({"image": {"id": "x", "strength": True}}, "image.strength: Input should be a valid number"),
        ({"guidance": -1}, "expected 0 to 30"),
        ({"guidance": 1e9}, "expected 0 to 30"),
        ({"sampler": "euler"}, "euler"),
        ({"guidance_scale": 7.5}, "guidance_scale: Unexpected keyword argument"),
        ({"": None}, "Unexpected keyword argument"),
        ({"methods": ["ebama+step_size=1+step_size=2"]}, "expected each option once"),
        ({"methods": [",".join(["sd"] * 17)]}, "expected at most 16"),
        ({"boxes": {"crown": [0, 0, "x", 1]}}, "boxes.crown.2: Input should be a valid number"),
        ({"boxes": {"crown": [0, 0, 1e999, 1]}}, "four finite numbers"),
        ({"boxes": {"crown": {"left": 0}}}, "boxes.crown: Input should be a valid tuple"),
        ({"boxes": {"crown": [1, 1, 0, 0]}}, "does not lie in the picture"),
        ({"size": [30, 32]}, "expected a height and a width that are multiples of 4 pixels"),
        ({"size": [0, 16]}, "multiples of 4 pixels"),
        ({"size": [16, 68]}, "expected at most 64 pixels a side"),
        ({"size": [16]}, "size"),
        ({"size": ["", "16"]}, "size.0: Input should be a valid integer"),
    ],
    ids=str,
)
def test_a_request_out_of_bounds_is_refused_in_one_line(client: TestClient, changes: dict[str, Any], says: str) -> None:
    content = json.dumps(SMALL | changes)
    line = refusal(client.post("/api/jobs", content=content, headers={"Content-Type": "application/json"}), 400)
    assert says in line
    assert "no JSON object" not in line
    assert len(line) < 400


@pytest.mark.parametrize(
    "content",
    [
        *(
            "",
            "{",
            "[]",
            '"a cat"',
            '{"seeds": "0"}',
            '{"prompt": "a cat", "guidance": NaN}',
            "[" * 9000,
            '{"a":' * 2000,
        ),
        *(
            "\0",
            '{"prompt": "a cat"}x',
            '{"prompt": "a cat", "steps": 1' + "0" * 9000 + "}",
            f'{{"x": "{"y" * 9000}"}}',
        ),
        *(
            f'{{"prompt": "a cat", "sampler": "{"y" * 9000}"}}',
            f'{{"prompt": "a cat", "boxes": {{"{"y" * 9000}": []}}}}',
        ),
    ],
    ids=lambda content: content[:20],
)
def test_a_body_that_is_no_request_is_refused_in_one_line(client: TestClient, content: str) -> None:
    headers = {"Content-Type": "application/json"}
    assert len(refusal(client.post("/api/jobs", content=content, headers=headers), 400)) <= 1000


def test_seeds_are_ranges_and_lists_each_once() -> None:
    assert seeds.parse("0:4") == [0, 1, 2, 3]
    assert seeds.parse(" 7, 1:3 ,7") == [7, 1, 2]
    assert GenerateRequest("a cat", seeds="5", methods=("sd",)).seed_numbers == (5,)


def test_programs_send_lists_and_nulls_where_the_page_sends_texts(client: TestClient) -> None:
    sent = {**SMALL, "seeds": [3, 1], "methods": "sd", "negative_prompt": None}
    job = until(client, client.post("/api/jobs", json=sent).json()["id"], "done")
    assert [(picture["method"], picture["seed"]) for picture in job["pictures"]] == [("sd", 3), ("sd", 1)]
    assert "names no seeds" in refusal(client.post("/api/jobs", json={**SMALL, "seeds": [True]}), 400)


def test_a_prompt_without_a_noun_runs_with_methods_that_need_none(client: TestClient) -> None:
    job = until(client, submit(client, prompt="quickly and slowly", methods=["sd"], seeds="0"), "done")
    assert [word["group"] for word in job["words"]] == [None, None, None]
    assert client.get(f"/api/jobs/{job['id']}/pictures/0").json()["lines"] == {"intensity": [], "similarity": []}


def test_pictures_of_another_size(client: TestClient) -> None:
    facts = client.get("/api/model").json()
    assert (facts["side"], facts["multiple"], facts["limits"]["side"]) == (32, 4, 64)
    path = (
        f"/api/jobs/{until(client, submit(client, methods=['sd'], seeds='0', size=[16, 64]), 'done')['id']}/pictures/0"
    )
    assert Image.open(io.BytesIO(client.get(f"{path}/png").content)).size == (64, 16)  # Pillow says width first
    maps = client.get(path).json()["maps"]
    assert (maps["height"], maps["width"]) == (8, 32)


@pytest.mark.slow
def test_boxes_come_back_with_the_words(client: TestClient) -> None:
    boxes = {"cat": [0, 0.25, 0.5, 0.75]}
    asked = {"prompt": "a red cat and a dog", "methods": ["layout-guidance"], "seeds": "0", "boxes": boxes}
    job = until(client, submit(client, **asked), "done")
    assert [word.get("box") for word in job["words"]] == [None, None, [0, 0.25, 0.5, 0.75], None, None, None]


def test_a_prompt_without_a_word_has_a_picture_and_no_maps(client: TestClient) -> None:
    job = until(client, submit(client, prompt="\U0001f600", methods=["sd"], seeds="0"), "done")
    assert job["words"] == []
    assert client.get(f"/api/jobs/{job['id']}/pictures/0").json()["maps"]["words"] == 0
    assert client.get(f"/api/jobs/{job['id']}/pictures/0/maps").content == b""


@pytest.mark.parametrize(
    "method", ["ane+thresholds=0.5", "conform+temperature=x", "divide-and-bind+max_refinements=2", "ane+name=x"]
)
def test_options_of_a_wrong_kind_are_refused_in_one_line(client: TestClient, method: str) -> None:
    refusal(client.post("/api/jobs", json=SMALL | {"methods": [method]}), 400)


@pytest.mark.filterwarnings("ignore:the text encoder sees")
def test_notes_say_what_the_model_does_not_see(service: Service) -> None:
    assert service.prepare(GenerateRequest(PROMPT)).notes == ()
    (note,) = service.prepare(GenerateRequest("a cat and " + "very " * 80 + "red frog", methods=("sd",))).notes
    assert note.endswith("red frog.")
    small = replace(model(), vocabulary=VOCABULARY)
    (note,) = Service(Pipeline(small), parser="rules").prepare(GenerateRequest("a blue dragon and a cat")).notes
    assert note == "The embedded miniature does not know: dragon."


# --- pictures ---


@pytest.mark.slow
def test_pictures_are_those_of_generate(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = until(client, submit(client), "done")
    found = [(picture["method"], picture["seed"]) for picture in job["pictures"]]
    assert found == [("sd", 3), ("sd", 1), ("ebama", 3), ("ebama", 1)]

    monkeypatch.setattr(commands_model, "load", lambda *_, **__: model())
    options = ["--method", "sd", "--compare", "ebama", "--seeds", "3,1", "--steps", "2", "--parser", "rules"]
    assert main(["generate", PROMPT, *options, "--out", str(tmp_path)]) == 0
    for index, (method, seed) in enumerate(found):
        answer = client.get(f"/api/jobs/{job['id']}/pictures/{index}/png")
        assert answer.headers["content-type"] == "image/png"
        mine = tmp_path / "mine.png"
        mine.write_bytes(answer.content)
        theirs = tmp_path / "a-purple-crown-and-a-blue-suitcase" / f"{method}-seed{seed:04d}.png"
        pixels = (np.asarray(Image.open(path), dtype=int) for path in (mine, theirs))
        np.testing.assert_allclose(*pixels, atol=1)  # attention that is recorded rounds otherwise
        recipe_of = read_metadata(theirs)
        if method == "sd":  # measured by the objects that ebama reads, so that both show the same curves
            recipe_of |= {"groups": read_metadata(mine)["groups"]}
        assert read_metadata(mine) == recipe_of
    assert job["pictures"][2]["name"] == "a-purple-crown-and-a-blue-suitcase-ebama-seed0003.png"


@pytest.mark.parametrize(("most", "layers"), [(0, 1), (2 * 2 * 3 * 16 * 16 * 2, 2), (10**9, 3)])
def test_layers_and_heads_of_a_picture_are_bounded(
    most: int, layers: int, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebama.app.picture.MAX_MAPS", most)
    monkeypatch.setattr("ebama.app.service.TraceOptions", lambda **_: TraceOptions(head="all"))
    job = until(client, submit(client, prompt="a cat", methods=["sd"], seeds="3"), "done")
    facts = client.get(f"/api/jobs/{job['id']}/pictures/0").json()
    heads = [layer["head"] for layer in facts["layers"]]
    assert heads == ["mean over heads", "head 0", "head 1"][:layers]


@pytest.mark.slow
def test_maps_and_curves_are_the_traces(client: TestClient) -> None:
    job = until(client, submit(client, methods=["ebama"], seeds="3"), "done")
    facts = client.get(f"/api/jobs/{job['id']}/pictures/0").json()
    trace = Pipeline(model())(PROMPT, seeds=[3], steps=2, parser="rules", trace=True, progress=False).trace
    assert trace is not None
    size = facts["maps"]
    assert (size["words"], size["calls"]) == (7, 3)
    maps = np.frombuffer(client.get(f"/api/jobs/{job['id']}/pictures/0/maps").content, "<f4")
    maps = maps.reshape(size["words"], size["calls"], size["height"], size["width"])
    assert [word["text"] for word in job["words"]] == PROMPT.split()
    for word, own in zip(PROMPT.split(), maps, strict=True):
        if word != "a":  # it stands there twice
            np.testing.assert_allclose(own, trace.maps(word).numpy(), atol=1e-4)
    options = TraceOptions(by_site=True, head="all")
    every = Pipeline(model())(PROMPT, seeds=[3], steps=2, parser="rules", trace=options, progress=False).trace
    assert every is not None
    sources = sorted(every.sources, key=lambda source: source.head is not None)
    assert [(one["layer"], one["head"]) for one in facts["layers"]] == [(s.layers, s.heads) for s in sources]
    last = client.get(f"/api/jobs/{job['id']}/pictures/0/maps?layer={len(sources) - 1}")
    last_maps = np.frombuffer(last.content, "<f4").reshape(maps.shape)
    np.testing.assert_allclose(last_maps[2], every.of_sources(sources[-1]).maps("crown").numpy(), atol=1e-4)
    assert client.get(f"/api/jobs/{job['id']}/pictures/0/maps?layer={len(sources)}").status_code == 404
    assert facts["timesteps"] == list(trace.timesteps)
    for expected in (curves.intensity(trace), curves.similarity(trace)):
        lines = facts["lines"][expected.quantity]
        assert [line["label"] for line in lines] == list(expected.labels)
        np.testing.assert_allclose([line["values"] for line in lines], expected.values, atol=2e-5)
        assert [line["group"] for line in lines] == [0, 1]


def test_words_have_their_group_and_role(service: Service) -> None:
    found = describe_words(service.prepare(GenerateRequest("a big, red car and a frog")).parsed)
    assert [(word["text"], word["group"], word["role"]) for word in found] == [
        ("a", None, ""),
        ("big", 0, "modifier"),
        ("red", 0, "modifier"),
        ("car", 0, "object"),
        ("and", None, ""),
        ("a", None, ""),
        ("frog", 1, "object"),
    ]


# --- the queue ---


@pytest.mark.slow
def test_one_job_at_a_time_and_the_position_of_the_others(client: TestClient, pipeline: Any) -> None:
    pipeline.go.clear()
    request = {"methods": ["sd"], "seeds": "0"}
    first, second, third = (submit(client, prompt=f"a {noun}", **request) for noun in ("cat", "frog", "bear"))
    until(client, first, "running")
    assert [status(client, job)["ahead"] for job in (first, second, third)] == [0, 1, 2]
    assert client.delete(f"/api/jobs/{second}").json()["state"] == "cancelled"
    assert status(client, third)["ahead"] == 1
    pipeline.go.set()
    until(client, third, "done")
    assert status(client, first)["state"] == "done"
    assert pipeline.runs == ["a cat", "a bear"]
    assert client.delete(f"/api/jobs/{first}").json()["state"] == "done"


@pytest.mark.slow
def test_a_running_job_stops_before_its_next_call_and_keeps_what_it_has(client: TestClient, pipeline: Any) -> None:
    pipeline.go.clear()
    job = submit(client, methods=["sd", "cd"], seeds="0")
    until(client, job, "running")
    client.delete(f"/api/jobs/{job}")
    pipeline.go.set()
    found = until(client, job, "cancelled")
    assert (found["part"], found["pictures"], found["error"]) == (1, [], "")

    whole = until(client, submit(client, methods=["sd"], seeds="0"), "done")
    assert (whole["done"], whole["total"], len(whole["pictures"])) == (3, 3, 1)


def test_a_full_queue_refuses_a_job(client: TestClient, pipeline: Any) -> None:
    pipeline.go.clear()
    request = {"methods": ["sd"], "seeds": "0"}
    until(client, submit(client, **request), "running")
    waiting = [submit(client, **request) for _ in range(jobs.MAX_WAITING)]
    assert "try again" in refusal(client.post("/api/jobs", json=SMALL), 429)
    for job in waiting:
        client.delete(f"/api/jobs/{job}")
    submit(client, **request)


@pytest.mark.slow
def test_a_run_that_fails_says_so_in_one_line_and_the_next_job_runs(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    job = until(client, submit(client, methods=["sd", "ebama+step_size=1e30"], seeds="0"), "failed")
    assert re.fullmatch(r"The latent became infinite or NaN .*", job["error"])
    assert [picture["method"] for picture in job["pictures"]] == ["sd"]
    assert until(client, submit(client, methods=["sd"], seeds="0"), "done")


def test_an_unexpected_error_does_not_end_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    def work(job: Job) -> None:
        job.results.append(1 / job.payload if job.payload else [][0])

    queue = Queue(work)
    broken, fine = Job(0), Job(2)
    queue.submit(broken)
    queue.submit(fine)
    end = time.monotonic() + 120
    while fine.state != "done":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert broken.state == "failed"
    assert "IndexError" in broken.error
    assert "Traceback" in caplog.text
    queue.close()


def test_old_jobs_are_dropped_and_closing_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_ENDED", 2)
    begun, go = threading.Event(), threading.Event()

    def work(job: Job) -> None:
        if job.payload == "long":
            begun.set()
            assert go.wait(120)
            job.progress(1, 2)

    queue = Queue(work)
    done = [Job(number) for number in range(4)]
    last, waiting = Job("long"), Job("waits")
    for job in (*done, last, waiting):
        queue.submit(job)
    assert begun.wait(120)
    assert [job.state for job in done] == ["done"] * 4
    for job in done[:2]:
        with pytest.raises(jobs.NoSuchJobError, match="no job"):
            queue.find(job.id)
    assert queue.find(done[3].id) is done[3]
    threading.Timer(0.05, go.set).start()
    queue.close()
    assert (last.state, waiting.state) == ("cancelled", "cancelled")


def test_the_job_that_ended_last_is_kept() -> None:
    begun, go = threading.Event(), threading.Event()

    def work(job: Job) -> None:
        begun.set()
        assert go.wait(120)

    queue = Queue(work)
    long = Job("long")
    queue.submit(long)
    assert begun.wait(120)
    for number in range(jobs.MAX_ENDED + 1):  # another tab asks, and changes its mind
        other = Job(number)
        queue.submit(other)
        queue.cancel(other)
    go.set()
    end = time.monotonic() + 120
    while long.state != "done":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert queue.find(long.id) is long
    queue.close()


# --- who may ask ---


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.", "", "[::1"]
)
def test_requests_under_another_host_name_are_refused(client: TestClient, host: str) -> None:
    for answer in (
        client.get("/", headers={"Host": host}),
        client.post("/api/jobs", json=SMALL, headers={"Host": host}),
    ):
        assert "does not answer to the name" in refusal(answer, 421)


@pytest.mark.parametrize("host", ["localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]:8000", "192.168.1.9"])
def test_addresses_and_localhost_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


def test_another_name_is_answered_if_it_was_given(service: Service) -> None:
    with TestClient(create_app(service, names=frozenset({"Box"})), base_url="http://box:8000") as client:
        assert client.get("/api/model").status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999"])
def test_changes_from_another_origin_are_refused(client: TestClient, origin: str) -> None:
    headers = {"Origin": origin}
    assert "another site" in refusal(client.post("/api/jobs", json=SMALL, headers=headers), 403)
    assert "another site" in refusal(client.delete("/api/jobs/x", headers=headers), 403)
    own = client.post("/api/jobs", json=SMALL | {"steps": 0}, headers={"Origin": "http://127.0.0.1"})
    assert "steps is 0" in refusal(own, 400)


def test_long_bodies_are_refused_unread(client: TestClient) -> None:
    assert "at most" in refusal(client.post("/api/jobs", json=SMALL | {"more": "x" * 20_000}), 413)
    assert "how long" in refusal(client.post("/api/jobs", content=iter([b"{}"])), 411)
    both = {"Content-Length": "2", "Transfer-Encoding": "chunked"}  # servers go by the second
    assert "how long" in refusal(client.post("/api/jobs", content=b"{}", headers=both), 411)


@pytest.mark.parametrize("path", ["/api/pictures", "/api/jobs", "/api/words"])
def test_a_visitor_who_leaves_in_mid_sentence_is_no_error(service: Service, path: str) -> None:
    begun = [{"type": "http.request", "body": b"{", "more_body": True}]
    answers: list[Any] = []

    async def receive() -> Any:
        return begun.pop() if begun else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answers.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"500"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "server": None}
    asyncio.run(create_app(service)(scope, receive, send))
    assert all(answer.get("status", 400) == 400 for answer in answers)


@pytest.mark.slow
def test_unknown_jobs_pictures_and_pages_are_not_found(client: TestClient) -> None:
    assert "no job 'none'" in refusal(client.get("/api/jobs/none"), 404)
    job = until(client, submit(client, methods=["sd"], seeds="0"), "done")["id"]
    for index in ("1", "-1"):
        for what in ("", "/maps", "/png"):
            assert "not among them" in refusal(client.get(f"/api/jobs/{job}/pictures/{index}{what}"), 404)
    refusal(client.get(f"/api/jobs/{job}/pictures/first"), 400)
    assert client.get("/page/%2e%2e/api.py").status_code == 404
    assert client.get("/docs").status_code == 404


def test_answers_forbid_what_the_page_does_not_need(client: TestClient) -> None:
    for path in ("/", "/api/model", "/page/page.js", "/viewer/viewer.js", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_the_page_names_no_other_host() -> None:
    files = sorted([*PAGE.iterdir(), *VIEWER.iterdir()])
    assert {file.suffix for file in files} == {".html", ".css", ".js", ".svg"}
    for file in files:
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"//[a-z0-9.-]+\.[a-z]{2,}|@import|url\(", text), file


def test_the_model_is_described(client: TestClient) -> None:
    facts = client.get("/api/model").json()
    assert (facts["model"], facts["side"], facts["vocabulary"]) == ("tiny", 32, {})
    names = [method["name"] for method in facts["methods"]]
    assert "ebama" in names
    assert "p2p" not in names
    assert len(facts["colours"]) == 256
    small = Service(Pipeline(replace(model(), vocabulary=VOCABULARY)), parser="rules")
    with TestClient(create_app(small), base_url="http://127.0.0.1") as other:
        known = other.get("/api/model").json()["vocabulary"]
    assert (known["name"], known["nouns"][0], known["colours"][0]) == ("embedded miniature", "cat", "red")


# --- the command ---


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stops as soon as it runs."""
    uvicorn = pytest.importorskip("uvicorn")

    def run(self: Any, sockets: Any) -> None:
        self.handle_exit(signal.SIGINT, None)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(commands_model, "load", lambda *_, **__: model())


@pytest.mark.usefixtures("stopped")
def test_serve_is_for_this_computer_unless_told_otherwise(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", "--parser", "rules"]) == 0
    shown = capfd.readouterr()
    assert re.match(r"http://127\.0\.0\.1:\d+ ", shown.out)
    assert shown.err == ""
    assert main(["serve", "--port", "0", "--parser", "rules", "--host", "0.0.0.0"]) == 0
    shown = capfd.readouterr()
    assert shown.err == (
        "warning: --host 0.0.0.0: everyone who reaches this computer can use the page; there is no password.\n"
    )


@pytest.mark.usefixtures("stopped")
def test_serve_says_in_one_line_what_it_cannot_do(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str) -> str:
        try:
            code: object = main(["serve", "--parser", "rules", *arguments])
        except SystemExit as stop:
            code = stop.code
        assert code == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        return line

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Nothing can listen at 127.0.0.1" in refused("--port", str(taken.getsockname()[1]))
    assert "no.such.name.invalid" in refused("--port", "0", "--host", "no.such.name.invalid")
    for nowhere in ("", " "):
        assert refused("--port", "0", "--host", nowhere).startswith(
            f"error: --host is {nowhere!r}; expected an address"
        )
    assert "65535" in refused("--port", "65536")
    assert "'none'" in refused("--port", "0", "--parser", "none")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install" in refused("--port", "0")


def test_a_picture_is_a_png_with_a_file_name(client: TestClient) -> None:
    job = until(client, submit(client, methods=["sd"], seeds="0"), "done")
    answer = client.get(f"/api/jobs/{job['id']}/pictures/0/png")
    assert "suitcase-sd-seed0000.png" in answer.headers["content-disposition"]
    assert Image.open(io.BytesIO(answer.content)).size == (32, 32)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize(
    ("name", "times", "runs"), [("SIGINT", 3, True), ("SIGTERM", 1, True), ("SIGHUP", 1, True), ("SIGHUP", 1, False)]
)
def test_the_server_ends_when_it_is_told_whatever_runs(name: str, times: int, runs: bool) -> None:
    command = [sys.executable, "train_free.py", "serve", "--port", "0", "--parser", "rules"]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        if runs:
            wanted = {"prompt": "a red cat", "methods": ["sd"], "seeds": "0:8", "steps": 100}
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{address}/api/jobs", json.dumps(wanted).encode(), headers)
            urllib.request.urlopen(request).close()
        for _ in range(times):
            server.send_signal(getattr(signal, name))
            time.sleep(0.05)
        out, err = server.communicate(timeout=30)
    assert "Traceback" not in err
    assert (server.returncode, out.strip()) == (0, "stopped")


def test_who_is_still_sending_when_the_server_stops_is_answered() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def stop() -> None:
        request = asyncio.ensure_future(Ending(waiting)({"type": "http"}, None, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        request.cancel()
        await request

    asyncio.run(stop())
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"]) == {"error": "The server stops."}


def test_who_asks_whether_the_page_is_there_is_told(client: TestClient) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_request_that_is_no_json_is_told_what_to_send(client: TestClient) -> None:
    json = {"Content-Type": "application/json"}
    for content, headers in (
        ('{"prompt": "a red car"}', {}),
        ("{'prompt': 'a red car'}", json),
        ('{"prompt": "a café"}'.encode("latin-1"), json),
        ("", json),
    ):
        answer = client.post("/api/words", content=content, headers=headers)
        assert answer.status_code == 400
        assert "; expected one in UTF-8, sent with the header Content-Type" in answer.json()["error"]
