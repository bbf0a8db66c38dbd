"""Adjectives that stand after their noun: in brackets, after a colon or a comma, said of one and of another."""

from __future__ import annotations

import time

import pytest

from ebama.prompt import Parsed, parse, parsers
from ebama.prompt.alignment import LONGEST
from ebama.prompt.signs import with_parted_words
from ebama.prompt.trailing import take_out
from ebama.weights import clip_tokenizer

TOKENIZER = clip_tokenizer()
SMALL = [name for name in parsers.installed() if name == "rules" or name.startswith("en_core_web_sm")]
Words = list[tuple[str, list[str]]]
BALL_AND_CUBE: Words = [("ball", ["red"]), ("cube", ["blue"])]

READ_BY_ALL: dict[str, Words] = {
    # in brackets
    "a cat (black)": [("cat", ["black"])],
    "a red car and a cat (black)": [("car", ["red"]), ("cat", ["black"])],
    "a cat (black) and a dog [white]": [("cat", ["black"]), ("dog", ["white"])],
    "a ball (red) next to a cube {blue}": BALL_AND_CUBE,
    "a box (small, red and shiny) and a (tiny) dog": [("box", ["small", "red", "shiny"]), ("dog", ["tiny"])],
    "a cat ((black)) and a dog (white:1.3)": [("cat", ["black"]), ("dog", ["white"])],
    "a cat (very big) sits on a mat": [("cat", ["very", "big"]), ("mat", [])],
    "a red car (shiny) and a blue bowl": [("car", ["red", "shiny"]), ("bowl", ["blue"])],
    "a t-shirt (red) and an orange (ripe)": [("t-shirt", ["red"]), ("orange", ["ripe"])],
    "a bowl of soup (hot)": [("bowl", []), ("soup", ["hot"])],
    "a poster (with a red car)": [("poster", []), ("car", ["red"])],
    # after a colon, and signs like it
    "ball: red, cube: blue": BALL_AND_CUBE,
    "ball:red,cube:blue": BALL_AND_CUBE,
    "a ball: red; a cube: blue.": BALL_AND_CUBE,
    "ball = red, cube = blue": BALL_AND_CUBE,
    "ball - red, cube - blue": BALL_AND_CUBE,
    "a ball – red, a cube — blue": BALL_AND_CUBE,
    "cat: black, dog: white and fluffy": [("cat", ["black"]), ("dog", ["white", "fluffy"])],
    "cat: black and white dog": [("cat", ["black"]), ("dog", ["white"])],
    "watch: red, saw: blue, duck: golden": [("watch", ["red"]), ("saw", ["blue"]), ("duck", ["golden"])],
    "left: red ball, right: blue cube": BALL_AND_CUBE,
    "a portrait: old man": [("portrait", []), ("man", ["old"])],
    # after a comma, if they are colours
    "a cat, black, on a red sofa": [("cat", ["black"]), ("sofa", ["red"])],
    "two cats, black and white": [("cats", ["black", "white"])],
    "a car, red, blue sky": [("car", ["red"]), ("sky", ["blue"])],
    "a lemon, an orange, a banana": [("lemon", []), ("orange", []), ("banana", [])],
    # of one and of another: whose adjectives they are, no token says
    "two dogs, one black and one white": [("dogs", [])],
    "two dogs, one black, one white": [("dogs", [])],
    "two dogs: one is black and the other is white": [("dogs", [])],
    "two dogs (one black, another white) on a red sofa": [("dogs", []), ("sofa", ["red"])],
    "two dogs - one brown, the other white - in a garden": [("dogs", []), ("garden", [])],
    "three cats: one red, one blue and one green and a dog": [("cats", []), ("dog", [])],
    "two cars, one silver and one red": [("cars", [])],
    "two dogs, a black one and a white one": [("dogs", [])],
    "a red ball and a blue one": [("ball", ["red"])],
    "three dogs, two are red and one is black": [("dogs", [])],
    "one black dog and one white cat": [("dog", ["black"]), ("cat", ["white"])],
    "two fruits, one orange and one apple": [("fruits", []), ("orange", []), ("apple", [])],
    # written to a number
    "1girl": [("1girl", [])],
    "2boys and 1girl, red hair": [("2boys", []), ("1girl", []), ("hair", ["red"])],
    "3dogs and a 1girl (tall)": [("3dogs", []), ("1girl", ["tall"])],
    "a 10kg dumbbell, a 3d cat and a 4k tv": [("dumbbell", ["10kg"]), ("cat", ["3d"]), ("tv", ["4k"])],
    # several words with hyphens
    "a red-and-white striped ball": [("ball", ["red-and-white", "striped"])],
    "red-and-white striped ball": [("ball", ["red-and-white", "striped"])],
    "a black-and-white cat and a red-and-blue checkered bowl": [
        ("cat", ["black-and-white"]),
        ("bowl", ["red-and-blue", "checkered"]),
    ],
}


def named(parsed: Parsed) -> Words:
    return [(parsed.text(*g.object), [parsed.text(*m) for m in g.modifiers]) for g in parsed.groups]


@pytest.mark.parametrize("parser", SMALL)
@pytest.mark.parametrize("prompt", READ_BY_ALL)
def test_adjectives_after_their_noun(parser: str, prompt: str) -> None:
    assert named(parse(prompt, TOKENIZER, parser)) == READ_BY_ALL[prompt]


@pytest.mark.parametrize(
    "prompt", ["a (red) car", "a red [car]", "a cat (sitting)", "a cat (furry) dog", "(red), a cat", "a cat: red ball"]
)
def test_brackets_and_colons_of_another_kind_stay(prompt: str) -> None:
    assert take_out(prompt) == (prompt, [])


def test_a_long_prompt_takes_no_long_time() -> None:
    for part in ("a cat (red) ", "red ", "cat, red, ", "(", "one red, "):
        start = time.process_time()
        take_out((part * LONGEST)[: LONGEST // 5])
        assert time.process_time() - start < 2


def test_a_number_is_parted_from_its_word() -> None:
    text, indices = with_parted_words("1girl, 10kg and 22dogs")
    assert text == "1 girl, 10kg and 22 dogs"
    assert [indices[text.index(word)] for word in ("girl", "and", "dogs")] == [1, 12, 18]
