"""Recipes: written, read back, and refused in one line where they say what no run could have had."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ebama.output.png import save_png
from ebama.output.recipe import Recipe, read_recipe
from ebama.prompt import Group
from ebama.samplers import DDIM, PNDM, NoiseSchedule

# As version 0.1.0 wrote it before recipes were a class of their own.
STORED: dict[str, Any] = {
    "prompt": "a purple crown and a blue suitcase",
    "seed": 5,
    "method": {"name": "ane", "step_size": 20.0, "thresholds": [[0, 0.05], [10, 0.5]], "guided_steps": None},
    "sampler": {"name": "pndm", "steps": 50, "eta": 0.0},
    "guidance": 7.5,
    "negative_prompt": "",
    "groups": [{"object": [3], "modifiers": [[2]]}, {"object": [7], "modifiers": [[6]]}],
    "parser": "rules",
    "latent": [4, 16, 16],
    "model": "miniature",
    "fingerprint": "0123456789abcdef",
    "versions": {"ebama": "0.1.0", "torch": "2.6.0", "python": "3.11.0"},
    "weights": None,
    "dtype": "float32",
}
NEWER = ("latent", "model", "fingerprint", "versions")


def with_value(path: str, value: Any) -> dict[str, Any]:
    """STORED with another value at a path such as "sampler.steps"."""
    stored = copy.deepcopy(STORED)
    *parents, last = path.split(".")
    place = stored
    for name in parents:
        place = place[name]
    place[last] = value
    return stored


def test_a_stored_recipe_is_read_and_written_as_it_was() -> None:
    recipe = Recipe.from_metadata(STORED)
    assert recipe.sampler == PNDM(50)
    assert recipe.groups == (Group((3,), ((2,),)), Group((7,), ((6,),)))
    assert recipe.latent == (4, 16, 16)
    assert json.dumps(recipe.to_metadata()) == json.dumps(STORED)
    assert recipe == Recipe.from_metadata(copy.deepcopy(STORED))
    assert recipe != Recipe.from_metadata(with_value("guidance", 7.0))


def test_arguments_are_those_of_the_pipeline() -> None:
    assert Recipe.from_metadata(STORED).arguments() == {
        "prompt": "a purple crown and a blue suitcase",
        "seeds": [5],
        "sampler": PNDM(50),
        "guidance": 7.5,
        "negative_prompt": "",
        "groups": (Group((3,), ((2,),)), Group((7,), ((6,),))),
        "parser": "rules",
    }


@pytest.mark.parametrize(
    "sampler",
    [
        PNDM(3),
        DDIM(4, eta=0.5),
        DDIM(2, schedule=NoiseSchedule(beta_end=0.02, kind="scaled_linear")),
        PNDM(9, NoiseSchedule(500)),
        DDIM(3, schedule=NoiseSchedule(beta_start=0.0001, beta_end=0.02, kind="linear")),
        DDIM(3, schedule=NoiseSchedule(300, kind="cosine")),
        DDIM(3, schedule=NoiseSchedule(prediction="v")),
        PNDM(3, schedule=NoiseSchedule(300, kind="cosine", prediction="v")),
        PNDM(2, NoiseSchedule.of([0.9, 0.3, 0.1])),
        PNDM(20, order=2),
        DDIM(20, spacing="trailing"),
        PNDM(20, spacing="trailing").last(0.5),
        DDIM.at([900, 500, 3], eta=0.5),
        PNDM(50).starting_at(300),
    ],
)
def test_samplers_survive(sampler: DDIM | PNDM) -> None:
    values = {entry.name: getattr(Recipe.from_metadata(STORED), entry.name) for entry in fields(Recipe)}
    metadata = json.loads(json.dumps(Recipe(**values | {"sampler": sampler}).to_metadata()))
    assert Recipe.from_metadata(metadata).sampler == sampler


def test_sizes_survive() -> None:
    sizes = {"original_size": (512, 768), "crop": (0, 64), "target_size": (1024, 1024)}
    recipe = replace(Recipe.from_metadata(STORED), **sizes)
    stored = json.loads(json.dumps(recipe.to_metadata()))
    assert {name: stored[name] for name in sizes} == {name: list(size) for name, size in sizes.items()}
    assert Recipe.from_metadata(stored) == recipe
    assert {name: recipe.arguments()[name] for name in sizes} == sizes


def test_the_size_is_that_of_the_latent_for_models_that_have_such() -> None:
    recipe = Recipe.from_metadata(STORED | {"latent": [4, 16, 24]})
    assert recipe.size(4, 8) == (128, 192)
    assert recipe.size(4, 2) == (32, 48)
    assert Recipe.from_metadata(STORED | {"latent": []}).size(4, 8) is None
    with pytest.raises(ValueError, match=r"latent is \(4, 40000, 16\); expected a picture of at most 67,108,864"):
        Recipe.from_metadata(STORED | {"latent": [4, 40000, 16]}).size(4, 16)
    with pytest.raises(ValueError, match=r"latent is \(4, 16, 24\); expected 16 channels, as this model has\."):
        recipe.size(16, 8)


def test_a_recipe_without_newer_names_and_with_unknown_ones_is_read() -> None:
    older = {name: value for name, value in STORED.items() if name not in NEWER}
    recipe = Recipe.from_metadata(older | {"mood": "blue"})
    assert (recipe.latent, recipe.model, recipe.fingerprint, recipe.versions) == ((), "", "", {})
    assert recipe.arguments() == Recipe.from_metadata(STORED).arguments()


@pytest.mark.parametrize("name", [name for name in STORED if name not in (*NEWER, "weights", "dtype")])
def test_a_missing_name_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} are missing\.$"):
        Recipe.from_metadata({key: value for key, value in STORED.items() if key != name})


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("prompt", None, "prompt is None; expected a string"),
        ("prompt", ["a cat"], "prompt is ['a cat']; expected a string"),
        ("seed", -1, "seed is -1; expected a whole number from 0 to 2**63 - 1"),
        ("seed", 2**63, "expected a whole number from 0 to 2**63 - 1"),
        ("seed", 0.5, "seed is 0.5"),
        ("seed", "5", "seed is '5'"),
        ("guidance", "high", "guidance is 'high'; expected a finite number"),
        ("guidance", float("nan"), "guidance is nan"),
        ("guidance", float("inf"), "guidance is inf"),
        ("guidance", 10**400, "expected a finite number"),
        ("guidance", True, "guidance is True"),
        ("negative_prompt", 3, "negative_prompt is 3"),
        ("parser", None, "parser is None"),
        ("method", "ebama", "method is 'ebama'; expected a name and options"),
        ("method", {"step_size": 3}, "expected a name and options"),
        ("method.step_size", float("inf"), "expected a name and options that are plain values"),
        ("method.thresholds", [[[[[[[[1]]]]]]]], "plain values"),
        ("sampler", "pndm", "sampler is 'pndm'; expected name, steps and eta"),
        ("sampler.name", "os.system", "sampler.name is 'os.system'; expected one of pndm, ddim"),
        ("sampler.name", ["ddim"], "sampler.name is ['ddim']"),
        ("sampler.steps", 0, "steps is 0; expected an integer from 1 to 1000"),
        ("sampler.steps", "many", "steps is 'many'"),
        ("sampler.steps", 10**12, "steps is 1000000000000"),
        ("sampler.eta", "x", "sampler.eta is 'x'"),
        ("sampler.spacing", "even", "spacing is 'even'; expected one of leading, trailing"),
        ("sampler.order", 9, "PNDM.order is 9; expected an integer from 1 to 4"),
        ("sampler.order", "x", "PNDM.order is 'x'"),
        ("sampler.custom_timesteps", [3, 2], "custom_timesteps has 2 timesteps for steps = 50"),
        ("sampler.custom_timesteps", "32", "sampler.custom_timesteps is '32'; expected at most 100000 timesteps"),
        ("sampler.custom_timesteps", ["x"] * 50, "custom_timesteps holds 'x'"),
        ("sampler.schedule", {"gamma": 1}, "sampler.schedule is {'gamma': 1}; expected numbers for beta_end"),
        ("sampler.schedule", {"beta_end": "x"}, "sampler.schedule"),
        ("sampler.schedule", {"train_steps": 10**12}, "train_steps is 1000000000000; expected at most 100000"),
        ("sampler.schedule", {"train_steps": 0.5}, "train_steps is 0.5"),
        ("sampler.schedule", {"kind": "os.system"}, "NoiseSchedule.kind is 'os.system'"),
        ("sampler.schedule", {"kind": ["linear"]}, "sampler.schedule.kind is ['linear']; expected a name"),
        ("sampler.schedule", {"kind": "table", "table": [0.5]}, "table has 1 values; expected 1000"),
        ("sampler.schedule", {"kind": "table", "table": "0.5"}, "sampler.schedule.table is '0.5'"),
        ("sampler.schedule", {"kind": "table", "table": [0.5, "x"], "train_steps": 2}, "sampler.schedule.table"),
        ("sampler.schedule", {"kind": "table", "table": [0.5] * 100001}, "expected at most 100000 numbers"),
        ("original_size", [512], "original_size is (512,); expected two whole numbers of pixels"),
        ("crop", [0, -1], "crop is (0, -1); expected two whole numbers of pixels"),
        ("target_size", 1024, "target_size is 1024; expected two whole numbers of pixels"),
        ("target_size", [2.0, 3], "target_size is (2.0, 3)"),
        ("sampler.schedule", {"prediction": "x0"}, "NoiseSchedule.prediction is 'x0'"),
        ("sampler.schedule", {"prediction": ["v"]}, "sampler.schedule.prediction is ['v']; expected a name"),
        ("sampler.schedule", ["linear"], "sampler.schedule is ['linear']"),
        ("groups", {"object": [3]}, "groups is {'object': [3]}; expected a list"),
        ("groups", [3], "A group is 3; expected positions"),
        ("groups", [{"object": [3], "modifiers": 2}], "expected positions"),
        ("groups", [{"object": [3], "modifiers": [[30000]]}], "30000 is no position from 0 to 10000"),
        ("groups", [{"object": [2**70], "modifiers": []}], "is no position from 0 to 10000"),
        ("groups", [{"object": [-1], "modifiers": []}], "-1 is no position"),
        ("groups", [{"object": ["3"], "modifiers": []}], "'3' is no position"),
        ("latent", [4, -1, 16], "latent is (4, -1, 16)"),
        ("latent", 4, "latent is 4"),
        ("latent", [4, 16], "latent is (4, 16)"),
        ("latent", [1, 4, 16, 16], "latent is (1, 4, 16, 16)"),
        ("latent", [4, 16, 16, 1], "latent is (4, 16, 16, 1)"),
        ("model", 3, "model is 3"),
        ("fingerprint", None, "fingerprint is None"),
        ("versions", ["0.1.0"], "versions is ['0.1.0']"),
        ("weights", 3, "weights is 3; expected a path or null"),
        ("dtype", "load", "dtype is 'load'; expected one of float32, float16, bfloat16"),
    ],
)
def test_values_that_no_run_had_are_refused_in_one_line(path: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        Recipe.from_metadata(with_value(path, value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_long_value_is_shortened() -> None:
    with pytest.raises(ValueError, match=r"seed is 'x{76}\.\.\.; expected"):
        Recipe.from_metadata(with_value("seed", "x" * 10**6))


def test_the_file_of_a_bad_recipe_is_named(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    figure = {name: value for name, value in STORED.items() if name not in ("weights", "dtype")}
    for metadata, says in (
        (with_value("seed", -1), "seed is -1"),
        (figure, "weights, dtype are missing"),
        ({"pictures": ["a.png"]}, "prompt, sampler, seed are missing"),
    ):
        save_png(Image.new("RGB", (4, 4)), path, metadata)
        with pytest.raises(ValueError, match=rf"image\.png holds no recipe of a single picture: .*{re.escape(says)}"):
            read_recipe(path)
    save_png(Image.new("RGB", (4, 4)), path, STORED)
    assert read_recipe(path) == Recipe.from_metadata(STORED)


def test_recipe_of_a_sampler_refuses_what_the_sampler_does_not_have() -> None:
    with pytest.raises(ValueError, match="Sampler 'pndm' has no eta"):
        Recipe.from_metadata(with_value("sampler", {"name": "pndm", "steps": 50, "eta": 0.5}))
