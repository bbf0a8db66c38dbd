"""Threads over one pipeline, and over several models, give what one thread gives."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from ebama import Pipeline
from ebama.prompt import Parsed, parse, parsers
from ebama.weights import clip_tokenizer, load
from ebama.weights.tokenizer import token_rows

# Short and long ones in turn: what one of them pads and cuts must not show in another.
PROMPTS = [
    "a red apple and a blue car",
    "a cat and a dog " + "that is very, very big " * 20,
    "a red bowl",
    "a cat 🐱🐱",
]


def read(prompt: str) -> Parsed:
    return parse(prompt, clip_tokenizer(), parsers.installed()[0], groups=None if "very" not in prompt else ())


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Threads take turns a thousand times as often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the text encoder sees")
@pytest.mark.usefixtures("many_switches")
def test_prompts_are_read_and_tokenized_in_threads_as_in_one() -> None:
    prompts = PROMPTS * 25

    def both(prompt: str) -> tuple[tuple[int, ...], list[list[int]]]:
        parsed = parse(prompt, clip_tokenizer(), "rules", groups=())
        return parsed.tokens, token_rows(clip_tokenizer(), [prompt], 77)

    expected = [both(prompt) for prompt in PROMPTS] * 25
    readings = [read(prompt) for prompt in PROMPTS] * 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(both, prompts)) == expected
        assert list(pool.map(read, PROMPTS * 4)) == readings


@pytest.mark.slow
def test_a_pipeline_switches_nothing_in_the_tokenizer() -> None:
    """Even if somebody else has: padding and truncation are its state, which models and threads share."""
    tokenizer = copy.deepcopy(clip_tokenizer())
    tokenizer.backend_tokenizer.enable_truncation(5, stride=1)
    state = tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding
    shared = clip_tokenizer().backend_tokenizer
    before = shared.truncation, shared.padding
    sd = load()
    switched = dataclasses.replace(sd, tokenizer=tokenizer)
    torch.testing.assert_close(switched.encode_text(PROMPTS), sd.encode_text(PROMPTS), rtol=0, atol=0)
    for model in (sd, switched):
        Pipeline(model)(PROMPTS[0], steps=1, sampler="ddim", output="latent", progress=False, negative_prompt="a dog")
    assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == state
    assert (shared.truncation, shared.padding) == before


def latents(pipeline: Pipeline, prompt: str) -> Tensor:
    method = "ebama" if "very" not in prompt else "sd"
    options: dict[str, Any] = {"steps": 2, "sampler": "ddim", "size": (32, 32), "parser": "rules", "progress": False}
    return pipeline(prompt, method=method, output="latent", **options).latents


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the text encoder sees", "ignore:The embedded miniature")
@pytest.mark.parametrize("models", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_threads_make_the_pictures_of_one(models: int) -> None:
    pipelines = [Pipeline(load()) for _ in range(models)]
    work = [(pipelines[k % models], prompt) for k, prompt in enumerate(PROMPTS)]
    expected = [latents(*pair) for pair in work]
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda pair: latents(*pair), work))
    for picture, alone in zip(drawn, expected, strict=True):
        torch.testing.assert_close(picture, alone, rtol=1e-5, atol=1e-6)
