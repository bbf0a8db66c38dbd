"""What all methods have in common: their names, what they declare, and how one is added."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import passes, relative, run

from ebama import methods
from ebama.cli import main
from ebama.models import MINIATURE, SD_V1
from ebama.prompt import parse
from ebama.weights import clip_tokenizer

CROWN = "a purple crown and a blue suitcase"
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
    "p2p": (102, 0),
}


def test_names() -> None:
    assert methods.names() == tuple(PUBLISHED)
    for name in methods.names():
        method = methods.get(name)
        assert method.name == name
        assert method.changes
        assert method.reference


def test_no_method_costs_more_than_its_authors_code() -> None:
    prompt = parse(CROWN, clip_tokenizer(), "rules")
    for name, (forwards, backwards) in PUBLISHED.items():
        cost = methods.get(name).resolved(SD_V1).cost(prompt, 51)
        assert cost.predictions + cost.attention <= forwards
        assert cost.backwards <= backwards


def test_ebama_guides_every_call_of_sd_v1_and_25_of_the_miniature() -> None:
    prompt = parse("a cat and a red bow", clip_tokenizer())
    further = 3  # the miniature's initial steps, but for the ordinary one
    for config, given, steps in (
        (SD_V1, None, 51),
        (SD_V1, 8, 8),
        (MINIATURE, None, 25 + further),
        (MINIATURE, 51, 51 + further),
    ):
        method = methods.get("ebama", guided_steps=given).resolved(config)
        assert method.cost(prompt, 51).backwards == steps


@pytest.mark.parametrize("config", [SD_V1, MINIATURE], ids=["sd-v1", "miniature"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_no_option_that_a_run_needs_is_left_open(name: str, config: Any) -> None:
    method = methods.get(name).resolved(config)
    decided = set(method.defaults["sd-v1"]) if method.defaults else set()
    assert all(getattr(method, option) is not None for option in decided)
    assert set(method.defaults) in (set(), {"sd-v1", "miniature"})


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
    assert main(["methods", "a cat and a dog", "--sampler", "ddim", "--steps", "10"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^syngen .* 20 +- +- ", out, re.MULTILINE)
    assert main(["methods", "--steps", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


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
