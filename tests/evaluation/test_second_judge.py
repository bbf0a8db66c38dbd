"""The second judge: what the captioner's sentences say, and whether the first judge says the same."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ebama.evaluation.benchmarks import BenchmarkPrompt
from ebama.evaluation.judges.scorer import JudgeScorer
from ebama.evaluation.judges.second import SecondJudgeScorer, stated
from ebama.training.drawing.scenes import TRAINING, Composer


@pytest.mark.parametrize(
    ("caption", "colours"),
    [
        ("a cat and a red car on a light background", {"cat": None, "car": "red"}),
        ("a purple crown and a blue suitcase on a light background", {"crown": "purple", "suitcase": "blue"}),
        ("a chair on a light background", {"chair": None}),
        ("a cat", {"cat": None}),
        ("a red cat on a light background", {}),  # no sentence about the world
        ("a and red on a light background", {}),
        ("", {}),
    ],
)
def test_what_a_caption_says_is_there(caption: str, colours: dict[str, str | None]) -> None:
    reading = stated(caption)
    assert reading.present == colours.keys()
    assert reading.colours == {noun: colour for noun, colour in colours.items() if colour}


@pytest.mark.slow
def test_true_pictures_please_it_and_others_prompts_do_not() -> None:
    rng, composer, judge = np.random.default_rng(12), Composer(TRAINING), SecondJudgeScorer()
    images, prompts = [], []
    while len(images) < 60:
        scene = composer.compose(rng)
        if scene.noise == "clean" and len(scene.drawn) == 2:
            images.append(Image.fromarray(scene.image))
            prompts.append(BenchmarkPrompt("a", scene.caption))
    unknown = BenchmarkPrompt("a", "a zebra and a cat")
    scores = judge(images, prompts)
    assert sum(found["second binding"] == 1 for found in scores) >= 54
    others = judge(images, [*prompts[1:], unknown])
    assert sum(found["second presence"] == 1 for found in others[:-1]) <= 3
    assert others[-1] == dict.fromkeys(judge.keys)
    firsts = JudgeScorer()(images, prompts)
    for first, found in zip(firsts, scores, strict=True):
        assert found["judges agree"] == (found["second binding"] == first["binding"])
        assert found["second presence"] or not found["second binding"]
