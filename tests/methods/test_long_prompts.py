"""A text encoder of 248 positions: every method works on words that CLIP's 77 positions would not hold."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from reference import FEW, TINY, random_model

from ebama import Pipeline, methods
from ebama.output.recipe import Recipe
from ebama.prompt import PromptError
from ebama.weights import StableDiffusion, clip_tokenizer

FAR = "a cat " + "that is very big " * 25 + "and a red car"
METHODS = [name for name in methods.names() if name != "p2p"]


@cache
def long_model() -> StableDiffusion:
    """All of the small model, but 248 positions."""
    sd = random_model(replace(TINY, text=replace(TINY.text, positions=248)), sharpness=1.5)
    return replace(sd, tokenizer=clip_tokenizer(248))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_words_beyond_77_positions_guide(name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not see")
        result = Pipeline(long_model())(
            FAR,
            method=methods.get(name, **FEW.get(name, {})),
            steps=1,
            sampler="ddim",
            output="latent",
            progress=False,
            parser="rules",
            trace=True,
            boxes={"car": (0, 0, 0.5, 0.7)} if methods.get(name).needs.boxes else None,
        )
    assert torch.isfinite(result.latents).all()
    assert result.trace is not None
    assert result.trace.probabilities.shape[-1] == 248
    last = result.trace.prompts[0].tokens[-1]
    assert last == len(FAR.split())
    if methods.get(name).needs.groups:
        assert result.trace.prompts[0].groups[-1].object == (last,)


@pytest.mark.slow
def test_an_edit_beyond_77_positions_takes_the_words_of_its_source() -> None:
    edit = FAR.replace("red car", "blue car")
    result = Pipeline(long_model())(
        [FAR, edit], method="p2p", steps=1, sampler="ddim", output="latent", progress=False, parser="rules"
    )
    assert torch.isfinite(result.latents).all()
    assert not torch.equal(result.latents[0], result.latents[1])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sd", "ebama", methods.get("ebca", upweight={200: 2.0})])
def test_a_recipe_of_words_beyond_77_positions_is_read_again(method: Any) -> None:
    pipeline, options = Pipeline(long_model()), {"output": "latent", "progress": False}
    first = pipeline(FAR, method=method, steps=1, sampler="ddim", parser="rules", **options)
    stored = Recipe.from_metadata(json.loads(json.dumps(first.recipes[0].to_metadata())))
    chosen = dict(stored.method)
    again = pipeline(method=methods.get(chosen.pop("name"), **chosen), **stored.arguments(), **options)
    assert torch.equal(again.latents, first.latents)
    assert again.recipes == first.recipes


def test_words_beyond_248_positions_are_not_seen() -> None:
    with pytest.warns(UserWarning, match="246 of this prompt's 247"), pytest.raises(PromptError, match="'car' lies"):
        Pipeline(long_model())("very " * 246 + "car", method="ebama", steps=1, progress=False, parser="rules")
