"""What the words of a prompt are: as the parser reads them, and as somebody says instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra app")
from fastapi.testclient import TestClient
from test_serve import SMALL, refusal, submit, until

from ebama.app.request import MAX_WORDS, GenerateRequest
from ebama.app.service import Service
from ebama.prompt import PromptError

CROWNS = "a red Crown and a green crown"


def read(client: TestClient, prompt: str, groups: Any = None) -> dict[str, Any]:
    answer = client.post("/api/words", json={"prompt": prompt, "groups": groups})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def roles(answer: dict[str, Any]) -> list[tuple[str, str, int | None]]:
    return [(word["name"], word["role"], word["group"]) for word in answer["words"] if word["role"]]


def test_words_are_read_as_the_parser_reads_them_and_told_apart(client: TestClient) -> None:
    answer = read(client, f"  {CROWNS} ")
    assert answer["prompt"] == CROWNS
    assert answer["groups"] == [["Crown#1", ["red"]], ["crown#2", ["green"]]]
    assert [word["name"] for word in answer["words"]] == ["a#1", "red", "Crown#1", "and", "a#2", "green", "crown#2"]
    assert answer["problem"] == ""


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([["crown#2", ["red"]]], [("red", "modifier", 0), ("crown#2", "object", 0)]),
        ([["crown#1", []], ["crown#2", []]], [("Crown#1", "object", 0), ("crown#2", "object", 1)]),
        ([["red", ["a#2"]]], [("red", "object", 0), ("a#2", "modifier", 0)]),
        ([["a red crown", ["green"]]], [*[("a red Crown", "object", 0)] * 3, ("green", "modifier", 0)]),
        ([], []),
    ],
    ids=str,
)
def test_words_are_what_somebody_says(client: TestClient, groups: Any, expected: Any) -> None:
    answer = read(client, CROWNS, groups)
    assert roles(answer) == expected
    assert roles(read(client, CROWNS, answer["groups"])) == expected


def test_a_prompt_without_an_object_says_so_and_takes_one(client: TestClient) -> None:
    answer = read(client, "quickly and slowly")
    assert answer["problem"].startswith("no noun found in 'quickly and slowly'")
    assert roles(answer) == []
    assert roles(read(client, "quickly and slowly", [["slowly", []]])) == [("slowly", "object", 0)]


@pytest.mark.parametrize("address", ["/api/words", "/api/jobs"])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"groups": [["frog", []]]}, "'frog' is not in the prompt"),
        ({"groups": [["crown#3", []]]}, "'crown#3' is not in the prompt"),
        ({"groups": [["crown#1", []], ["crown#1", []]]}, "asked for more often"),
        ({"groups": [["crown#1", ["crown#1"]]]}, "asked for more often"),
        ({"groups": [["red", []]] * (MAX_WORDS + 1)}, f"76 words; expected at most {MAX_WORDS}"),
        ({"groups": [["red", ["green"] * MAX_WORDS]]}, f"76 words; expected at most {MAX_WORDS}"),
        ({"groups": [["red"]]}, "groups.0"),
        ({"groups": [["red", "green"]]}, "groups.0"),
        ({"groups": [["red", [1]]]}, "groups.0"),
        ({"groups": "red"}, "groups: Input should be a valid tuple"),
        ({"group": []}, "group: Unexpected keyword argument"),
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "a \ud800"}, "half a character"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_words_that_cannot_be_are_one_line(client: TestClient, address: str, changes: Any, says: str) -> None:
    content = json.dumps({"prompt": CROWNS} | changes)
    line = refusal(client.post(address, content=content, headers={"Content-Type": "application/json"}), 400)
    assert says in line
    assert len(line) < 400


@pytest.mark.slow
def test_runs_go_by_what_somebody_says(client: TestClient) -> None:
    groups = [["crown#2", ["red"]]]
    job = until(client, submit(client, prompt=CROWNS, methods=["ebama"], seeds="0", groups=groups), "done")
    assert roles(job) == [("red", "modifier", 0), ("crown#2", "object", 0)]
    assert job["request"]["groups"] == groups
    lines = client.get(f"/api/jobs/{job['id']}/pictures/0").json()["lines"]
    assert [line["label"] for line in lines["similarity"]] == ["red crown"]
    picture = client.get(f"/api/jobs/{job['id']}/pictures/0/png").content
    again = client.post("/api/pictures", content=picture).json()["request"]
    same = ("prompt", "groups", "methods", "seeds", "steps", "guidance", "sampler", "negative_prompt", "boxes", "image")
    assert {name: again[name] for name in same} == {name: job["request"][name] for name in same}


def test_without_an_object_only_methods_that_need_none_run(service: Service) -> None:
    ignored: dict[str, Any] = {"prompt": SMALL["prompt"], "groups": ()}
    assert service.prepare(GenerateRequest(**ignored, methods=("sd",))).parsed.groups == ()
    with pytest.raises(PromptError, match="click one to make it an object"):
        service.prepare(GenerateRequest(**ignored, methods=("sd", "ebama")))
