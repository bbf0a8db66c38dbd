"""Boxes: their cells, the objects that they belong to, and their way through a run, a recipe and the command line."""

from __future__ import annotations

import argparse
import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from reference import run

from ebama.boxes import Box
from ebama.commands.arguments import box, boxes
from ebama.output.recipe import Recipe
from ebama.prompt import Group, PromptError, parse
from ebama.prompt.words import place
from ebama.weights import clip_tokenizer

DOGS = "a red dog and a blue dog on a bench"


@pytest.mark.parametrize(
    ("sides", "rows", "columns"),
    [
        ((0, 0, 1, 1), (0, 16), (0, 16)),
        ((16 / 512, 176 / 512, 400 / 512, 1), (6, 16), (0, 12)),  # 0.5, 5.5 and 12.5 go to the even number
        ((0.2, 0.3, 0.7, 0.9), (5, 14), (3, 11)),
    ],
)
def test_cells(sides: tuple[float, ...], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    assert Box(*sides).cells(16, 16) == (range(*rows), range(*columns))


@pytest.mark.parametrize(
    "sides",
    [
        [0, 0.25, 0.5, 0.75],
        np.array([0, 0.25, 0.5, 0.75], np.float32),
        torch.tensor([0, 0.25, 0.5, 0.75]),
        [torch.tensor(0), np.float32(0.25), torch.tensor(0.5), Fraction(3, 4)],
        iter((0, 0.25, 0.5, 0.75)),
    ],
    ids=lambda sides: type(sides).__name__,
)
def test_sides_of_any_library(sides: Any) -> None:
    assert Box.of(sides) == Box(0, 0.25, 0.5, 0.75)


def test_a_small_box_has_a_cell_of_a_coarser_map() -> None:
    rows, columns = Box(0.9, 0.9, 1, 1).cells(4, 4)
    assert (rows, columns) == (range(3, 4), range(3, 4))


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((0, 0.2, 0.5), "needs four numbers"),
        ("0,0,1,1", "needs four numbers"),
        (None, "needs four numbers"),
        ({0, 0.2, 0.5, 0.8}, "needs four numbers"),
        ({"left": 0, "top": 0, "right": 1, "bottom": 1}, "needs four numbers"),
        (np.array([[0, 0.2, 0.5, 0.8]]), "needs four numbers"),
        ((0, 0.2, 0.5, "x"), "four finite numbers"),
        ((0, 0.2, 0.5, math.nan), "four finite numbers"),
        ((0, 0.2, 0.5, True), "four finite numbers"),
        ((0, 0.2, 0.5, 10**400), "four finite numbers"),
        ((-0.1, 0.2, 0.5, 0.8), "does not lie in the picture"),
        ((0, 0.2, 0.5, 1.1), "does not lie in the picture"),
        ((0.5, 0.2, 0.5, 0.8), "does not lie in the picture"),
        ((0, 120, 256, 400), "does not lie in the picture"),
        ((0.51, 0.2, 0.52, 0.8), "is too small: expected one that holds a cell of a 16x16 map"),
    ],
)
def test_a_box_that_is_none(sides: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Box.of(sides)
    with pytest.raises(PromptError, match=rf"boxes\['dog'\]: the box .*{message}"):
        place(parse(DOGS, clip_tokenizer(), "rules"), {"dog": sides})


def placed(**given: Any) -> list[Box | None]:
    words = {word.replace("_", " ").replace("N", "#"): sides for word, sides in given.items()}
    return [group.box for group in place(parse(DOGS, clip_tokenizer(), "rules"), words).groups]


def test_words() -> None:
    """red dog, blue dog, bench."""
    first, second = (0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)
    assert placed(dog=first) == [Box(*first), None, None]
    assert placed(dogN1=first, dogN2=second) == [Box(*first), Box(*second), None]
    assert placed(DOGN2=first, Bench=second) == [None, Box(*first), Box(*second)]
    assert placed(blue_dog=first) == [None, Box(*first), None]
    assert placed() == [None] * 3


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("cat", "'cat' is not in the prompt 'a red dog.*; its words are a, red, dog, and, blue, on, bench"),
        ("dog#3", "'dog#3' is not in the prompt"),
        ("red", "'red' is no object of .*; its objects are dog, dog, bench"),
        (3, "boxes has 3: expected words"),
    ],
)
def test_a_word_that_is_none(word: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        place(parse(DOGS, clip_tokenizer(), "rules"), {word: (0, 0, 1, 1)})
    with pytest.raises(PromptError, match="'dog' and 'dog#1' are one object"):
        placed(dog=(0, 0, 1, 1), dogN1=(0, 0, 1, 1))


@pytest.mark.slow
def test_a_recipe_holds_them() -> None:
    given = {"dog#2": (0, 0.25, 0.5, 0.75)}
    result = run(DOGS, "ane", steps=1, boxes=given)
    stored = json.loads(json.dumps(result.metadata[0]))
    assert [group.get("box") for group in stored["groups"]] == [None, [0, 0.25, 0.5, 0.75], None]
    again = Recipe.from_metadata(stored)
    assert again.groups == result.recipes[0].groups
    assert run(method="ane", steps=1, **{k: v for k, v in again.arguments().items() if k != "sampler"}).metadata == [
        result.metadata[0]
    ]
    stored["groups"][1]["box"] = [0, 2, 0, 0]
    with pytest.raises(ValueError, match="does not lie in the picture"):
        Recipe.from_metadata(stored)


def test_one_mapping_for_each_prompt() -> None:
    prompts, own = ["a cat", "a dog"], [{"cat": (0, 0, 1, 1)}, {}]
    groups = [recipe.groups for recipe in run(prompts, "ane", steps=1, boxes=own).recipes]
    assert [group[0].box for group in groups] == [Box(0, 0, 1, 1), None]
    wrong: list[Any] = [{"cat": (0, 0, 1, 1)}, own[:1], "cat", [None, "cat"]]
    for given in wrong:
        with pytest.raises(ValueError, match="for 2 prompts; give one mapping"):
            run(prompts, "sd", steps=1, boxes=given)


def test_on_the_command_line() -> None:
    assert box("crown:0,0.2,0.5,0.8") == ("crown", (0, 0.2, 0.5, 0.8))
    assert boxes([box("crown#2:0,0,1,1"), box("a:b:0,0,1,1")]) == {"crown#2": (0, 0, 1, 1), "a:b": (0, 0, 1, 1)}
    assert boxes(None) is None
    for text in ("crown", "crown:0,1,2", "crown:0,0,1,x", ":0,0,1,1"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no box; expected WORD:LEFT,TOP,RIGHT,BOTTOM"):
            box(text)
    with pytest.raises(ValueError, match=r"names 'dog' twice; .* dog#2"):
        boxes([box("dog:0,0,1,1"), box("dog:0,0,1,1")])


def test_a_group_takes_the_sides_of_its_box() -> None:
    assert Group((3,), box=(0, 0.2, 0.5, 0.8)).box == Box(0, 0.2, 0.5, 0.8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not lie in the picture"):
        Group((3,), box=(0, 0.2, 0.5, 1.8))  # type: ignore[arg-type]
