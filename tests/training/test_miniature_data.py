"""The miniature's world: words, sprites, scenes and the judge."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from ebama.weights.miniature import judge, world
from ebama.weights.miniature.judge import WEIGHTS, Reading, load_judge, satisfied
from ebama.weights.miniature.world import ANIMALS, COLOURS, NOUNS, OBJECTS, WORDS, WORN, caption

FIXTURE = Path(__file__).parents[1] / "data" / "miniature_scenes.png"


def test_world_has_the_benchmarks_words() -> None:
    assert (len(ANIMALS), len(OBJECTS), len(set(NOUNS)), len(COLOURS)) == (12, 12, 24, 11)
    assert caption([("elephant", None), ("bench", "orange")]) == "a elephant and a orange bench"
    assert caption([("bench", "orange"), ("elephant", None)]) == "a orange bench and a elephant"
    assert caption([("cat", None), ("glasses", None)]) == "a cat with a glasses"
    assert caption([("cat", None), ("glasses", "red")]) == "a cat and a red glasses"
    assert caption([("car", "red")]) == "a red car"
    assert caption([("cat", None), ("dog", None), ("car", "red")]) == "a cat and a dog and a red car"


@pytest.mark.parametrize("module", [world, judge])
def test_words_and_judge_need_no_rasteriser(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sprites", "scenes"):
        monkeypatch.setitem(sys.modules, f"ebama.weights.miniature.{name}", None)
    fresh = importlib.util.spec_from_file_location("ebama.weights.miniature.fresh", str(module.__file__))
    assert fresh is not None
    assert fresh.loader is not None
    copy = importlib.util.module_from_spec(fresh)
    monkeypatch.setitem(sys.modules, fresh.name, copy)
    fresh.loader.exec_module(copy)  # raises if it imports what needs the rasteriser


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab of one sRGB triple in 0..255, by the textbook."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (float(v) / 255 for v in rgb)]
    r, g, b = linear
    xyz = (
        (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047,
        0.2126729 * r + 0.7151522 * g + 0.0721750 * b,
        (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883,
    )
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


class TestSprites:
    @pytest.fixture(autouse=True)
    def _rasteriser(self) -> None:
        pytest.importorskip("resvg_py")

    @pytest.mark.slow
    def test_every_noun_and_colour_exists(self) -> None:
        from ebama.training.drawing.sprites import load_sprites

        sprites = load_sprites(("noto",))
        wanted = {(noun, None) for noun in NOUNS} | {(noun, colour) for noun in OBJECTS for colour in COLOURS}
        assert set(sprites) == wanted
        for (sprite,) in sprites.values():
            assert sprite.dtype == np.float32
            assert sprite.shape[2] == 4
            assert 128 <= max(sprite.shape[:2]) <= 192
            assert sprite.min() >= 0
            assert sprite.max() <= 1
            alpha = sprite[..., 3]
            assert all(edge.max() > 0.1 for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))  # cropped tight

    @pytest.mark.slow
    @pytest.mark.parametrize("sprite_set", ["noto", "fluent", "noto-v1"])
    def test_what_was_recoloured_is_nearest_to_its_colour(self, sprite_set: str) -> None:
        """The pixels that change most from one colour to another are the body; their mean colour tells the name."""
        from ebama.training.drawing.sprites import load_sprites

        sprites = load_sprites((sprite_set,))
        nearest = {}
        for noun in (noun for noun in OBJECTS if (noun, None) in sprites):
            stack = np.stack([sprites[noun, colour][0] for colour in COLOURS])
            change = stack[..., :3].max(axis=0) - stack[..., :3].min(axis=0)
            body = (change.max(axis=-1) > 0.6) & (stack[0, ..., 3] > 0.9)
            assert body.mean() > 0.04, noun
            for colour, sprite in zip(COLOURS, stack, strict=True):
                mean = lab(sprite[body][:, :3].mean(axis=0) * 255)
                distances = {name: np.linalg.norm(mean - lab(np.array(rgb))) for name, rgb in COLOURS.items()}
                nearest[noun, colour] = min(distances, key=distances.__getitem__)
        assert nearest == {(noun, colour): colour for noun, colour in nearest}

    def test_unknown_set_is_named(self) -> None:
        from ebama.training.drawing.sprites import load_sprites

        with pytest.raises(ValueError, match="unknown sprite set 'twemoji': choose from noto"):
            load_sprites(("twemoji",))


class TestScenes:
    @pytest.fixture(autouse=True)
    def _rasteriser(self) -> None:
        pytest.importorskip("resvg_py")

    @pytest.mark.slow
    def test_a_seed_gives_the_same_scenes_again(self) -> None:
        from ebama.training.drawing.scenes import HARDER, scenes

        first, again, other = (list(islice(scenes(HARDER, seed), 20)) for seed in (3, 3, 4))
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            assert (a.caption, a.drawn) == (b.caption, b.drawn)
        assert [a.caption for a in first] != [c.caption for c in other]

    @pytest.mark.slow
    @pytest.mark.parametrize("side", [64, 192])
    def test_a_seed_gives_the_same_scenes_at_any_side(self, side: int) -> None:
        from ebama.training.drawing.scenes import HARDER, scenes

        unit = side // 64
        for small, large in islice(zip(scenes(HARDER, 3, 64), scenes(HARDER, 3, side), strict=True), 10):
            assert large.caption == small.caption
            assert [thing.box for thing in large.drawn] == [tuple(unit * at for at in d.box) for d in small.drawn]
            shrunk = large.image.reshape(64, unit, 64, unit, 3).mean(axis=(1, 3))
            assert np.abs(shrunk - small.image).mean() < 3

    @pytest.mark.slow
    def test_captions_boxes_and_mistakes(self) -> None:
        from ebama.training.drawing.scenes import SIDE, TRAINING, UNITS, scenes

        total, unit = 1500, SIDE // UNITS
        counts: Counter[int] = Counter()
        kinds: Counter[int] = Counter()
        mistakes: Counter[str] = Counter()
        for scene in islice(scenes(TRAINING, 0), total):
            assert scene.image.shape == (SIDE, SIDE, 3)
            assert scene.image.dtype == np.uint8
            assert scene.caption == caption(scene.named)
            assert set(scene.caption.split()) <= WORDS
            named, drawn = set(scene.named), {(d.noun, d.colour) for d in scene.drawn}
            count = len(scene.named)
            assert len({noun for noun, _ in named}) == count
            counts[count] += 1
            coloured = sum(colour is not None for _, colour in named)
            if count == 2:
                kinds[sum(noun in OBJECTS for noun, _ in named)] += 1
                mistakes[scene.noise] += 1
                mistakes["two colours"] += coloured == 2
            if " and " in scene.caption:  # objects of "and" always have a colour
                assert all((noun in ANIMALS) == (colour is None) for noun, colour in named)
            elif " with " in scene.caption:
                assert scene.named[1][0] in WORN
            if scene.noise == "clean":
                assert named == drawn
            elif scene.noise == "neglect":
                assert len(drawn) == 1
                assert drawn < named
            else:
                assert {noun for noun, _ in named} == {noun for noun, _ in drawn}
                assert len(named & drawn) <= 1
            packed = scene.image @ np.array([65536, 256, 1])
            values, repeats = np.unique(packed, return_counts=True)
            changed = packed != values[repeats.argmax()]
            background = scene.image[~changed][0]
            assert background.min() >= 185
            assert background.max() <= 225
            for d in scene.drawn:
                left, top, right, bottom = d.box
                assert 0 <= left < right <= SIDE
                assert 0 <= top < bottom <= SIDE
                assert left % (4 * unit) == top % (4 * unit) == 0
                low, high = {1: (28, 40), 2: (24, 32), 3: (20, 24)}[count]
                assert low * unit <= max(right - left, bottom - top) <= high * unit
                assert changed[top:bottom, left:right].mean() > 0.2
                changed[top:bottom, left:right] = False
            assert not changed.any()  # nothing is drawn outside the boxes

        def near(hits: int, trials: int, share: float) -> bool:
            return abs(hits / trials - share) < 4 * (share * (1 - share) / trials) ** 0.5

        assert near(counts[1], total, 0.25)
        assert near(counts[3], total, 0.08)
        assert near(kinds[0], counts[2], 0.25)
        assert near(kinds[2], counts[2], 0.38)
        assert near(mistakes["neglect"], counts[2], 0.10)
        assert near(mistakes["colour"], mistakes["two colours"], 0.10)

    def test_impossible_shares_and_grids_are_refused(self) -> None:
        from ebama.training.drawing.scenes import TRAINING, Composer, SceneConfig

        with pytest.raises(ValueError, match=r"counts=.*sum to 1"):
            SceneConfig(counts=(0.5, 0.5, 0.5))
        with pytest.raises(ValueError, match="grid=5"):
            SceneConfig(grid=5)
        with pytest.raises(ValueError, match=r"neglect=0\.95"):
            SceneConfig(neglect=0.95)
        with pytest.raises(ValueError, match="side=100"):
            Composer(TRAINING, side=100)


def test_satisfied_asks_for_all_nouns_and_all_colours() -> None:
    reading = Reading(frozenset({"cat", "car", "crown"}), {"car": "red", "crown": "blue"})
    assert satisfied(reading, [("cat", None), ("car", "red")]) == (True, True)
    assert satisfied(reading, [("cat", None), ("crown", None)]) == (True, True)
    assert satisfied(reading, [("car", "blue"), ("crown", "red")]) == (True, False)
    assert satisfied(reading, [("dog", None), ("car", "red")]) == (False, False)


class TestJudge:
    def test_reads_stored_scenes(self) -> None:
        """32 scenes of the harder world, stored as one picture so that no rasteriser is needed."""
        sheet = Image.open(FIXTURE)
        truth = json.loads(str(sheet.info["drawn"]))  # type: ignore[no-untyped-call]
        tiles = torch.from_numpy(np.array(sheet)).reshape(4, 64, 8, 64, 3).permute(0, 2, 4, 1, 3).flatten(0, 1)
        readings = load_judge().read(tiles.float() / 255)
        right = [
            reading.present == {noun for noun, _ in drawn}
            and all(colour in (None, reading.colours.get(noun)) for noun, colour in drawn)
            for reading, drawn in zip(readings, truth, strict=True)
        ]
        assert sum(right) >= 31

    @pytest.mark.slow
    def test_reads_fresh_scenes(self) -> None:
        pytest.importorskip("resvg_py")
        from ebama.training.drawing.scenes import HARDER, scenes

        fresh = list(islice(scenes(HARDER, 987, side=64), 200))
        images = torch.from_numpy(np.stack([scene.image for scene in fresh])).permute(0, 3, 1, 2) / 255
        drawn = found = coloured = named = invented = 0
        for scene, reading in zip(fresh, load_judge().read(images), strict=True):
            invented += len(reading.present - {d.noun for d in scene.drawn})
            for d in scene.drawn:
                drawn += 1
                found += d.noun in reading.present
                coloured += d.colour is not None
                named += d.colour is not None and reading.colours.get(d.noun) == d.colour
        assert found >= 0.97 * drawn
        assert named >= 0.97 * coloured
        assert invented <= 0.03 * drawn

    def test_an_empty_picture_shows_nothing(self) -> None:
        (reading,) = load_judge().read(torch.full((1, 3, 64, 64), 0.8))
        assert reading == Reading(frozenset(), {})

    def test_other_sizes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\[B, 3, 64, 64\], got \[1, 3, 32, 32\]"):
            load_judge().read(torch.zeros(1, 3, 32, 32))

    def test_is_small_and_says_how_good_it_is(self) -> None:
        report = json.loads(WEIGHTS.with_suffix(".json").read_text())
        assert WEIGHTS.stat().st_size <= 1_000_000
        assert report["parameters"] == sum(p.numel() for p in load_judge().parameters()) < 500_000
        assert report["held_out"]["recall"] >= 0.99
        assert report["held_out"]["colour"] >= 0.99
