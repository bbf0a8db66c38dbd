"""What all methods have in common: their names, what they declare, and how one is added."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import FEW, TINY, passes, relative, run

from ebama import methods
from ebama.cli import main
from ebama.methods.ane import AttendAndExcite
from ebama.methods.presets import MINIATURE_OPTIONS
from ebama.models import MINIATURE, SD_V1
from ebama.pipeline import Pipeline
from ebama.prompt import parse
from ebama.samplers import DDIM, PNDM
from ebama.weights import clip_tokenizer, load

CROWN, CATS = "a purple crown and a blue suitcase", "a cat and a dog"
GUIDE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"
# methods.md's forwards and backwards of a picture with two objects, when nothing stops early: PNDM, 51 calls.
PUBLISHED = {
    "sd": (102, 0),
    "cd": (153, 0),
    "strd": (102, 0),
    "ebca": (102, 0),
    "ane": (216, 85),
    "syngen": (127, 25),
    "ebama": (153, 51),
    "ebama-official": (153, 26),
    "conform": (216, 90),
    "divide-and-bind": (356, 225),
    "initno": (295, 165),
    "attention-regulation": (102, 0),
    "self-cross": (295, 165),
    "boxdiff": (216, 85),
    "layout-guidance": (152, 50),
    "bounded-attention": (250, 75),
    "p2p": (102, 0),
}


def test_names() -> None:
    assert methods.names() == tuple(PUBLISHED)
    for name in methods.names():
        method = methods.get(name).method
        assert method.name == name
        assert method.changes
        assert method.reference


@pytest.mark.parametrize(
    "text",
    [
        *PUBLISHED,
        "ebama+step_size=5+intensity_weight=0+center=true",
        "ane+thresholds=[[0, 0.5], [3, 0.75]]",
        "cd+weights=[7.5, -3.0]",
        'divide-and-bind+mode="tv-bind"',
        "syngen,ane+step_size=1e+30,sd",
    ],
)
def test_a_choice_says_the_text_that_names_it(text: str) -> None:
    for config in (SD_V1, MINIATURE):
        chosen = methods.parse(text)
        described = json.loads(json.dumps(chosen.complete(config).describe()))  # as a recipe says it
        said = methods.get(described.pop("name"), **described).text(config)
        assert methods.parse(said).complete(config) == chosen.complete(config)
        if "+" not in text:
            assert said == text


def test_no_method_costs_more_than_its_authors_code() -> None:
    prompt = parse(CROWN, clip_tokenizer(), "rules")
    for name, (forwards, backwards) in PUBLISHED.items():
        cost = methods.get(name).complete(SD_V1).cost(prompt, 51)
        assert cost.predictions + cost.attention <= forwards
        assert cost.backwards <= backwards


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PUBLISHED)[10:-1])
def test_a_sample_with_nothing_to_gain_costs_what_plain_sampling_costs(name: str) -> None:
    """Alone, and beside one that has a box, or an object."""
    options: dict[str, Any] = {"steps": 1, "sampler": "ddim"}
    method, plain = methods.get(name, **FEW.get(name, {})), passes([CATS], methods.get("sd"), **options)
    key, one, nothing = ("boxes", {"crown": (0, 0, 0.5, 0.7)}, {}) if method.needs.boxes else ("groups", ["crown"], [])
    given: Any = [(word, []) for word in one] if key == "groups" else one
    assert passes([CATS], method, **options, **{key: [nothing]}) == plain
    alone = passes([CROWN], method, **options, **{key: [given]})
    assert alone["backwards"] > 0
    both = passes([CROWN, CATS], method, **options, **{key: [given, nothing]})
    assert both == {kind: alone[kind] + plain[kind] for kind in plain}


def test_ebama_guides_every_call_of_sd_v1_and_12_of_the_miniature() -> None:
    prompt = parse("a cat and a red bow", clip_tokenizer())
    cases: list[tuple[Any, dict[str, Any], int]] = [
        (SD_V1, {}, 51),
        (SD_V1, {"guided_steps": 8}, 8),
        (SD_V1, {"guided_steps": None}, 51),
        (MINIATURE, {}, 12),
        (MINIATURE, {"guided_steps": 51}, 51),
        (MINIATURE, {"guided_steps": None}, 51),
    ]
    for config, options, steps in cases:
        assert methods.get("ebama", **options).complete(config).cost(prompt, 51).backwards == steps


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_choice_takes_what_was_said_then_presets_then_defaults(name: str) -> None:
    method = methods.get(name).method
    assert methods.get(name).complete(SD_V1) == methods.get(name).complete(TINY) == method()
    assert methods.get(name).complete(MINIATURE) == method(**MINIATURE_OPTIONS.get(name, {}))
    for option in MINIATURE_OPTIONS.get(name, {}):
        default = getattr(method(), option)
        said = methods.get(name, **{option: default}).complete(MINIATURE)
        assert said == method(**(MINIATURE_OPTIONS[name] | {option: default}))


def test_presets_are_of_methods_that_there_are() -> None:
    assert set(MINIATURE_OPTIONS) <= set(PUBLISHED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "order", "spacing"), [(SD_V1, 4, "leading"), (MINIATURE, 2, "trailing")], ids=["v1", "miniature"]
)
def test_a_sampler_by_name_is_what_the_model_asks_for(config: Any, order: int, spacing: str) -> None:
    sd = dataclasses.replace(load(), config=config)
    assert sd.sampler("pndm", 20) == PNDM(20, order=order, spacing=spacing)
    assert sd.sampler("ddim", 20) == DDIM(20, spacing=spacing)
    with pytest.raises(ValueError, match="expected one of pndm, ddim"):
        sd.sampler("euler", 20)


@pytest.mark.slow
def test_the_miniatures_pndm_unless_told_otherwise() -> None:
    pipeline = Pipeline(load())
    options: dict[str, Any] = {"method": "sd", "steps": 6, "output": "latent", "progress": False, "parser": "rules"}
    named = pipeline("a cat", sampler="pndm", **options)
    sampler = PNDM(6, order=2, spacing="trailing")
    assert named.recipes[0].sampler == sampler
    assert torch.equal(named.latents, pipeline("a cat", sampler=sampler, **options).latents)
    as_published = pipeline("a cat", sampler=PNDM(6), **options)
    assert as_published.recipes[0].sampler == PNDM(6)
    assert not torch.allclose(named.latents, as_published.latents, atol=0.1)


@pytest.mark.parametrize("config", [SD_V1, MINIATURE], ids=["sd-v1", "miniature"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_method_comes_back_from_its_description_in_json(name: str, config: Any) -> None:
    method = methods.get(name).complete(config)
    options = json.loads(json.dumps(method.describe()))
    assert methods.get(options.pop("name"), **options).complete(MINIATURE) == method


def test_a_choice_can_be_compared_and_hashed() -> None:
    choices = {methods.get("ebama", center=True, step_size=3.0), methods.get("ebama", step_size=3.0, center=True)}
    assert len(choices) == 1
    assert methods.get("ebama", step_size=20.0) != methods.get("ebama")


@pytest.mark.slow
def test_the_pipeline_takes_a_method_as_it_is() -> None:
    pipeline = Pipeline(load())
    options: dict[str, Any] = {"steps": 1, "size": (32, 32), "output": "latent", "progress": False, "parser": "rules"}
    for given, step_size in ((AttendAndExcite(), 20.0), ("ane", 6.0), (methods.get("ane", max_refinements=1), 6.0)):
        assert pipeline(CROWN, method=given, **options).metadata[0]["method"]["step_size"] == step_size


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no method 'ebma'; choose one of sd, cd"):
        methods.get("ebma")
    with pytest.raises(ValueError, match=r"'ane' has no option steps; it has step_size"):
        methods.get("ane", steps=3)


@pytest.mark.parametrize(
    "text",
    [
        "ane+thresholds=0.5",
        "ane+thresholds=[[0, 0.05, 1]]",
        "ane+thresholds=[[true, 0.05]]",
        "ane+thresholds=[[0, false]]",
        "ane+thresholds={}",
        "divide-and-bind+thresholds=[[0, null]]",
        "divide-and-bind+max_refinements=20",
        "divide-and-bind+max_refinements=[1, 2, 3]",
        "conform+refined_calls=5",
        "conform+max_refinements=x",
        "conform+temperature=x",
        "ebama+step_size=true",
        "ebama+name=x",
        "ebama+center=" + "[" * 5000,
        "ebca+upweight=3",
        "cd+weights=7.5",
    ],
)
def test_options_of_a_wrong_kind_are_named(text: str) -> None:
    option = text.split("+")[1].split("=")[0]
    with pytest.raises(ValueError, match=rf"{option}.*expected|has no option {option}|{option} is"):
        methods.parse(text)


def test_a_method_with_options_in_one_text() -> None:
    assert methods.parse("ebca+upweight=[[5, 2.0]]") == methods.get("ebca", upweight={5: 2.0})
    assert methods.parse("cd+weights=[7.5, -3.0]") == methods.get("cd", weights=(7.5, -3.0))
    assert methods.parse("sd") == methods.get("sd")
    assert methods.parse("ebama+step_size=1e+1+center=true") == methods.get("ebama", step_size=10.0, center=True)
    assert methods.parse("ane+thresholds=[[0, 0.5]]") == methods.get("ane", thresholds=[[0, 0.5]])
    for text in ("ebama+stepsize=1", "ebama+step_size", "nosuch+step_size=1"):
        with pytest.raises(ValueError, match=r"has no option stepsize|no method"):
            methods.parse(text)


def test_the_command_lists_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(PUBLISHED) + 1]] == list(PUBLISHED)
    costs = re.findall(
        r"^(boxdiff|layout-guidance|bounded-attention) .*? 102 +(\d+) +(\d+) ", "\n".join(lines), re.MULTILINE
    )
    assert costs == [("boxdiff", "85", "85"), ("layout-guidance", "50", "50"), ("bounded-attention", "75", "75")]
    assert main(["methods", "a cat and a dog", "--sampler", "ddim", "--steps", "10"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^syngen .* 20 +- +- ", out, re.MULTILINE)
    assert main(["methods", "--steps", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_the_guide_to_adding_a_method_works() -> None:
    code, *_ = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    module: dict[str, Any] = {"__name__": "centre"}
    exec(compile(code, str(GUIDE), "exec", dont_inherit=True), module)
    method = module["Centre"](step_size=50.0, guided_steps=3)
    found = run(CROWN, method, seeds=[0, 1], steps=5)
    losses = found.losses[:, :3]
    assert torch.isfinite(losses).all()
    assert found.losses[:, 3:].isnan().all()
    assert (losses > 0).all()
    assert (losses < 1).all()
    assert relative(found.latents, run(CROWN, "sd", seeds=[0, 1], steps=5).latents) > 1e-4
    cost = method.cost(parse(CROWN, clip_tokenizer(), "rules"), 6)
    assert passes([CROWN], method, steps=5) == {
        "predictions": cost.predictions,
        "attention": cost.attention,
        "backwards": cost.backwards,
    }
