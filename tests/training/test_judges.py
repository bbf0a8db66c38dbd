"""What the judge learns from, how it reads, and how natural pictures look to it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ebama.evaluation.benchmarks import BenchmarkPrompt
from ebama.evaluation.judges import agreement
from ebama.evaluation.judges.naturalness import NaturalnessScorer, background_texture, mean_distance
from ebama.evaluation.judges.scorer import JudgeScorer, asked_for
from ebama.weights.miniature.judge import BROKEN, NOTHING, PAINTS, PLACES, Judge, load_judge
from ebama.weights.miniature.reading import Reading, Sighting
from ebama.weights.miniature.world import NOUNS

FIXTURE = Path(__file__).parents[1] / "data" / "miniature_scenes.png"
CAT, CAR = NOUNS.index("cat"), NOUNS.index("car")


class Fixed(Judge):
    """Says what it is told to: classes by place."""

    def __init__(self, places: dict[tuple[int, int], int]) -> None:
        super().__init__()
        self.classes = torch.full((1, NOTHING + 1, PLACES, PLACES), -9.0)
        self.classes[:, NOTHING] = 9.0
        for (row, column), what in places.items():
            self.classes[0, :, row, column] = -9.0
            self.classes[0, what, row, column] = 9.0
        self.colours = torch.zeros(1, len(PAINTS), PLACES, PLACES)
        self.colours[:, PAINTS.index("red")] = 9.0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The same of every picture."""
        return self.classes, self.colours


class TestReading:
    @pytest.mark.parametrize(
        ("places", "nouns"),
        [
            ({}, []),
            ({(2, 2): CAT, (5, 6): CAR}, ["cat", "car"]),
            ({(2, 2): CAT, (3, 3): CAR}, ["cat"]),  # a place holds one thing
            ({(2, 2): CAT, (2, 4): CAT}, ["cat"]),  # neighbours see it, too
            ({(2, 2): CAT, (2, 4): CAR}, ["cat", "car"]),
            ({(2, 1): CAT, (2, 6): CAT}, ["cat", "cat"]),
            ({(2, 2): BROKEN, (6, 3): CAR}, [None, "car"]),
        ],
    )
    def test_things_stand_in_different_places(
        self, places: dict[tuple[int, int], int], nouns: list[str | None]
    ) -> None:
        (reading,) = Fixed(places).read(torch.zeros(1, 3, 64, 64))
        assert [thing.noun for thing in reading.things] == nouns
        assert reading.present == set(nouns) - {None}
        assert reading.colours == ({"car": "red"} if "car" in nouns else {})

    def test_extras_are_copies_others_and_broken_things(self) -> None:
        things = tuple(Sighting(noun, None, (0, 0), 1.0) for noun in ("bear", "bear", "cat", None))
        reading = Reading(frozenset({"bear", "cat"}), {}, things)
        assert reading.extras([("bear", None)]) == 3
        assert reading.extras([("bear", None), ("cat", None)]) == 2
        assert reading.extras([("dog", None)]) == 4


def test_what_nobody_asked_for_is_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebama.evaluation.judges.scorer.load_judge", lambda: Fixed({(1, 1): CAT, (5, 5): CAR}))
    prompts = [BenchmarkPrompt("a", text) for text in ("a cat and a red car", "a cat and a blue car", "a cat", "a owl")]
    scores = [list(JudgeScorer()([Image.new("RGB", (64, 64))], [prompt])[0].values()) for prompt in prompts]
    assert scores == [[1, 1, 0], [1, 0, 0], [1, 1, 1], [None] * 3]


class TestNaturalness:
    def test_distance_is_that_to_the_nearest_true_thing(self) -> None:
        true = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
        assert mean_distance(torch.tensor([[10.0, 3.0], [0.0, 5.0]]), true) == 4
        assert math.isnan(mean_distance(torch.zeros(0, 2), true))

    def test_texture_is_that_of_the_background(self) -> None:
        picture = Image.new("RGB", (64, 64), (200, 190, 210))
        ImageDraw.Draw(picture).rectangle((20, 20, 40, 40), (200, 0, 0), (0, 0, 90))
        plain = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
        grain = 5 / 255 * torch.randn(plain.shape, generator=torch.Generator().manual_seed(0))
        drift = torch.linspace(0, 0.05, 64).expand(64, 64)
        assert background_texture(plain).item() == pytest.approx(0, abs=1e-3)
        assert background_texture(plain + drift).item() < 0.2
        assert background_texture(plain + grain).item() == pytest.approx(5 * (24 / 25) ** 0.5, rel=0.05)
        checks = torch.zeros(1, 3, 64, 64)
        checks[..., ::9, :] = checks[..., ::9] = 1.0
        assert background_texture(checks).isnan()

    @pytest.mark.slow
    def test_a_broken_thing_is_farther_than_a_true_one(self) -> None:
        """Of two stored scenes, one with its pixels' rows in another order where things stand."""
        tiles = np.array(Image.open(FIXTURE)).reshape(4, 64, 8, 64, 3).swapaxes(1, 2).reshape(32, 64, 64, 3)
        broken = tiles.copy()
        broken[:, ::2], broken[:, 1::2] = tiles[:, 1::2, ::-1], tiles[:, ::2]
        scorer, prompt = NaturalnessScorer(), [BenchmarkPrompt("a", "a cat")] * 32
        true, strange = (
            np.mean(
                [
                    float(score["distance"])
                    for score in scorer([*map(Image.fromarray, these)], prompt)
                    if score["distance"]
                ]
            )
            for these in (tiles, broken)
        )
        assert strange > 1.2 * true
        assert scorer([Image.new("RGB", (64, 64), (200, 205, 200))], prompt)[0] == {
            "distance": None,
            "texture": pytest.approx(0, abs=1e-3),
        }


class TestLabels:
    def test_say_of_every_object_what_a_person_saw(self) -> None:
        labels = agreement.read_labels()
        assert len(labels) == 300
        for label in labels:
            named = asked_for(label["prompt"])
            assert len(label["objects"]) == len(label["colours"]) == len(named) == 2
            assert set(label["objects"]) <= {"whole", "broken", "absent"}
            for state, colour, (_, asked) in zip(label["objects"], label["colours"], named, strict=True):
                assert (colour is None) == (asked is None or state == "absent")
        assert len({(label["method"], label["sampler"]) for label in labels}) == 6

    def test_agreement_counts_both_mistakes(self) -> None:
        label = {"prompt": "a cat and a red car", "objects": ["whole", "whole"], "colours": [None, True]}
        labels = [label, label, label | {"colours": [None, False]}, label | {"objects": ["whole", "broken"]}]
        assert [agreement.said(line) for line in labels] == [(True, True)] * 2 + [(True, False), (False, False)]
        shares = agreement.agreement(labels, [(True, True), (True, False), (True, True), (False, False)])
        assert {key: value.mean for key, value in shares.items()} == {
            "presence": 1,
            "binding": 0.5,
            "deceived": 0.5,
            "too strict": 0.5,
        }

    def test_another_picture_is_told_from_the_same(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).normal(128, 40, (8, 8, 3)).clip(0, 255)
        image = Image.fromarray(values.astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        label = {"outline": agreement.outline(image)}
        assert agreement.is_same(label, image.point([min(255, i + 1) for i in range(256)] * 3))
        assert not agreement.is_same(label, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


class TestGalleries:
    @pytest.fixture(autouse=True)
    def _rasteriser(self) -> None:
        pytest.importorskip("resvg_py")

    @pytest.mark.slow
    def test_galleries_hold_whole_and_broken_things(self) -> None:
        from ebama.training.drawing.galleries import Painter
        from ebama.training.drawing.truth import truth
        from ebama.training.train_judge import GALLERIES

        painter, rng = Painter(GALLERIES), np.random.default_rng(3)
        galleries = [painter.paint(rng) for _ in range(60)]
        things = [thing for gallery in galleries for thing in gallery.things]
        assert {thing.noun is None for thing in things} == {True, False}
        assert all(thing.noun or thing.colour is None for thing in things)
        classes, paints = truth(galleries)
        assert int(((classes >= 0) & (classes < NOTHING)).sum()) >= 0.97 * len(things)  # hardly any share a middle
        assert int((paints >= 0).sum()) >= 0.97 * sum(thing.colour is not None for thing in things)

    def test_every_maker_changes_what_is_drawn(self) -> None:
        from ebama.training.drawing.broken import MAKERS

        a, b = (np.zeros((height, 24, 4), np.float32) for height in (20, 16))
        a[2:18, 4:20], b[:, 8:12] = (255, 80, 0, 1), (0, 0, 255, 1)
        a[6:9, 6:9], b[3:5] = (0, 0, 0, 1), (0, 200, 0, 1)
        for name, maker in MAKERS.items():
            picture = maker(np.random.default_rng(1), a, b)
            assert picture.shape[2] == 4, name
            assert 0.1 < picture[..., 3].max() <= 1 + 1e-5, name
            assert picture.shape != a.shape or not np.allclose(picture, a), name

    @pytest.mark.slow
    def test_the_judge_tells_whole_from_broken(self) -> None:
        from ebama.training import train_judge

        judge = load_judge()
        painter = train_judge.Painter(train_judge.GALLERIES)
        galleries, _ = train_judge.draw(painter, 987, 0, 150)
        readings = judge.read(train_judge.pictures(galleries))
        counts = [train_judge.count(g.things, r) for g, r in zip(galleries, readings, strict=True)]
        whole, seen, hits, coloured, right, broken, refused, _ = np.sum(counts, axis=0)
        assert min(hits / whole, hits / seen, right / coloured, refused / broken) >= 0.85
