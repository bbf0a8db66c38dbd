"""Seeded edits of JSON: what a file of unknown origin may say instead."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 7, 75, 76, 1000, 1001, 10**4, 10**9, 2**31, 2**63, 2**70, 10**400),
    *(0.5, 2.5, 1e308, -1e308, 1e-300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "x" * 5000, "a car", "\0", "a\ud800b", "a\nb", "../../etc/passwd", "/dev/zero", "<script>", "猫🐱"),
    *("true", "ebama", "ddim", "rules", "json.tool", "os.system", "auto"),
    *([], {}, [[]], [None], [1, 2], ["a"], {"a": 1}, {"name": "ebama"}, {"name": 3}),
    *([[0, 1]] * 200, json.loads("[" * 8 + "]" * 8), json.loads("[" * 200 + "]" * 200)),
]


def edited(value: Any, rng: random.Random) -> Any:
    """A copy of a value of JSON with one to three edits in it, at any depth."""
    result = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(_places(result))
        if not places:
            break
        parent, key = rng.choice(places)
        match rng.choice(["replace", "replace", "replace", "wrap", "drop", "add"]):
            case "replace":
                parent[key] = copy.deepcopy(rng.choice(VALUES))
            case "wrap":
                parent[key] = rng.choice([[parent[key]], {"a": parent[key]}])
            case "drop":
                del parent[key]
            case "add" if isinstance(parent, dict):
                parent[rng.choice(["schedule", "eta", "steps", "error", "scores", "x", ""])] = rng.choice(VALUES)
            case "add":
                parent.append(rng.choice(VALUES))
    return result


def garbled(text: str, rng: random.Random) -> str:
    """A text with some letters cut out, doubled, or replaced by others that JSON knows."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        start = rng.randrange(len(text) + 1)
        end = min(start + rng.choice([0, 1, 1, 5, 50]), len(text))
        text = (
            text[:start]
            + rng.choice(["", text[start:end] * 2, "[" * 3000, '"', "\\", "9" * 5000, "}", "\n"])
            + text[end:]
        )
    return text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])
