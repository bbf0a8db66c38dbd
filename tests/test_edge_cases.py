"""Prompts on which published implementations crash, lose words or silently do something else; see docs/methods.md."""

from __future__ import annotations

import warnings

import pytest
import torch
from reference import relative, run

from ebama import methods
from ebama.methods import Choice
from ebama.prompt import PromptError, parse
from ebama.weights import clip_tokenizer

SINGLE = [name for name in methods.names() if name != "p2p"]
MOVERS = [name for name in SINGLE if methods.get(name).method.needs.groups]
REST = [name for name in SINGLE if name not in MOVERS]
LONG = "a red car and " + "very " * 80 + "old dog"


def quick(name: str) -> Choice:
    options = {
        "ane": {"thresholds": ((0, 0.5),), "max_refinements": 2},
        "conform": {"refined_calls": (0,), "max_refinements": 2},
        "divide-and-bind": {"thresholds": ((0, 0.2),), "max_refinements": (2, 2)},
    }
    return methods.get(name, **options.get(name, {}))


def test_every_method_but_p2p_is_covered() -> None:
    assert len(MOVERS) == 6
    assert len(REST) == 4


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize(
    "prompt",
    [
        "a cat and a dog",  # no modifier
        "a spiky surfboard and a skewered tomato",  # words of several pieces
        "a red dog and a red dog",  # everything twice
        "red dog",  # one group and nothing else
        "dog",  # one word
        "a dog that is red and a cat",
    ],
)
def test_every_method_draws_every_prompt(name: str, prompt: str) -> None:
    found = run(prompt, quick(name), steps=2)
    assert torch.isfinite(found.latents).all()
    assert not found.losses.isinf().any()


@pytest.mark.parametrize("name", SINGLE)
def test_capitals_change_nothing(name: str) -> None:
    lower, upper = (run(prompt, quick(name), steps=2) for prompt in ("a red car and a cat", "A Red Car and a CAT"))
    assert relative(upper.latents, lower.latents) <= 1e-6
    assert [group["object"] for group in upper.metadata[0]["groups"]] == ([(3,), (6,)] if name in MOVERS else [])


@pytest.mark.parametrize("name", MOVERS)
def test_without_a_noun_a_method_that_needs_one_says_what_to_do(name: str) -> None:
    with pytest.raises(PromptError, match="name the objects and their modifiers yourself"):
        run("quickly and quietly", quick(name))
    by_hand = run("quickly and quietly", quick(name), steps=2, groups=[("quietly", [])])
    assert torch.isfinite(by_hand.latents).all()


@pytest.mark.parametrize("name", REST)
def test_without_a_noun_the_others_draw(name: str) -> None:
    found = run("quickly and quietly", quick(name), steps=2)
    if name in ("cd", "strd"):  # no noun phrase: plain Stable Diffusion
        assert torch.equal(found.latents, run("quickly and quietly", "sd", steps=2).latents)
    assert torch.isfinite(found.latents).all()


@pytest.mark.parametrize("name", SINGLE)
def test_of_a_prompt_that_is_too_long_nothing_is_lost_silently(name: str) -> None:
    if name in MOVERS:
        with pytest.warns(UserWarning, match="it does not see"), pytest.raises(PromptError, match="dog"):
            run(LONG, quick(name))
        with pytest.warns(UserWarning, match="it does not see"):
            found = run(LONG, quick(name), steps=2, groups=[("car", ["red"])])
    else:
        with pytest.warns(UserWarning, match="it does not see"):
            found = run(LONG, quick(name), steps=2)
    assert torch.isfinite(found.latents).all()


def test_a_word_that_recurs_is_two_objects_in_sentence_order() -> None:
    parsed = parse("a big red dog and a blue dog", clip_tokenizer(), "rules")
    assert [(group.object, group.modifiers) for group in parsed.groups] == [((4,), ((2,), (3,))), ((8,), ((7,),))]


def test_nothing_here_warns_unasked() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in SINGLE:
            run("a spiky surfboard and a red dog", quick(name), steps=1)
