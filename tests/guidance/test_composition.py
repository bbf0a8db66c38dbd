"""Several methods in one run: the four places, one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from foreign_networks import foreign
from reference import TINY, assert_batch_is_one_by_one, noise, passes, relative, run
from torch import Tensor

from ebama import methods
from ebama.cli import main
from ebama.guidance import (
    Composition,
    Conditioning,
    Controls,
    GuidanceResult,
    Guide,
    Method,
    Needs,
    Start,
    Task,
    compose,
    guide_for,
)
from ebama.models import MINIATURE, SD_V1, AttentionCall, Control, Site
from ebama.prompt import Group, parse
from ebama.weights import clip_tokenizer

CROWN, CATS = "a purple crown and a blue suitcase", "a cat and a dog"
GROUPS, TOKENS = [Group((2,), ((1,),)), Group((4,), ((3,),))], (1, 2, 3, 4)


def quick(*names: str) -> list[Any]:
    options: dict[str, dict[str, Any]] = {
        "ane": {"thresholds": ((0, 0.05),), "max_refinements": 2},
        "conform": {"refined_calls": (0,), "max_refinements": 2},
        "divide-and-bind": {"thresholds": ((0, 0.05),), "max_refinements": (2, 2)},
    }
    return [methods.get(name, **options.get(name, {})) for name in names]


# --- guides ---


def test_guides_follow_each_other() -> None:
    _, network = foreign("ldm")
    z, context = noise(1, 8).repeat(2, 1, 1, 1), torch.randn(2, 7, 10, generator=torch.Generator().manual_seed(2))
    first, second, both = (
        guide_for(chosen, network, context, GROUPS, TOKENS, calls=2) for chosen in ("syngen", "ebama", "syngen,ebama")
    )
    one = first(z, 500, 0)
    two, found = second(one.latents, 500, 0), both(z, 500, 0)
    assert torch.equal(found.latents, two.latents)
    for measured, parts in zip(found[1:], zip(one[1:], two[1:], strict=True), strict=True):
        torch.testing.assert_close(measured, sum(parts))


@pytest.mark.slow
def test_losses_are_summed_over_the_parts_that_guide_a_sample() -> None:
    prompts = [CROWN, CATS]  # syngen leaves the second alone, for it has no modifier
    alone, both = run(prompts, "syngen").losses, run(prompts, ["ane+max_refinements=0", "syngen"]).losses
    assert alone[1].isnan().all()
    assert both.isfinite().all()
    plain = run(prompts, "ane+max_refinements=0").losses
    torch.testing.assert_close(both[1], plain[1])


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cd", "strd", "ebca", "syngen", *(pytest.param(n, marks=SLOW) for n in ("ane", "conform"))]
)
def test_sd_adds_nothing(name: str) -> None:
    (method,) = quick(name)
    expected = run([CROWN, CATS], method).latents
    assert torch.equal(run([CROWN, CATS], ["sd", method]).latents, expected)
    assert torch.equal(run([CROWN, CATS], [method, "sd"]).latents, expected)
    assert passes([CROWN], methods.complete([method, "sd"])) == passes([CROWN], method)  # type: ignore[arg-type]


PAIRS = [("strd", "syngen"), ("cd", "ebca")]
MORE_PAIRS = [("syngen", "ane"), ("ebca", "ebama"), ("cd", "ane"), ("strd", "ebca"), ("attention-regulation", "ebama")]


@pytest.mark.slow
@pytest.mark.parametrize("names", [*PAIRS, *(pytest.param(pair, marks=SLOW) for pair in MORE_PAIRS)], ids=",".join)
def test_a_batch_is_what_its_samples_are_one_by_one(names: Sequence[str]) -> None:
    method = methods.complete(quick(*names))
    assert_batch_is_one_by_one([CROWN, CATS], method)
    both = run(CROWN, method).latents
    for name in names:
        assert relative(both, run(CROWN, *quick(name)).latents) > 1e-6


def test_three_at_once() -> None:
    found = run(CROWN, "cd,ebca,syngen")
    assert found.latents.isfinite().all()
    assert found.metadata[0]["method"]["name"] == "cd,ebca,syngen"


# --- controls ---


class Shift(Control):
    """Every place of a control, so that the order shows: x -> factor * x + 1 of scores and contexts."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def contexts(self, site: Site, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.factor * context + 1, self.factor * context + 2

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        return self.factor * scores + 1

    def probabilities(self, call: AttentionCall, probabilities: Tensor) -> Tensor:
        return self.factor * probabilities + 1

    def next_context(self, call: AttentionCall) -> Tensor:
        return self.factor * call.context + 1


class Idle(Control):
    """Edits no map, though it has a method for it."""

    def edits_maps(self, site: Site) -> bool:
        return False

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        raise AssertionError("not asked at a site whose maps it leaves alone")


@dataclass(frozen=True)
class Shifting(Method):
    name: ClassVar[str] = "shifting"
    changes: ClassVar[str] = "everything"
    reference: ClassVar[str] = "a toy"
    control_class: Any = Shift
    factor: float = 2.0
    calls: int = 9

    def control(self, task: Task, conditioning: Conditioning) -> Controls:
        control = self.control_class(self.factor) if self.control_class is Shift else self.control_class()
        return lambda i: control if i < self.calls else None


def test_controls_are_chained_in_their_order() -> None:
    method = compose([Shifting(factor=2.0), Shifting(control_class=Idle), Shifting(factor=3.0, calls=1)])
    controls = method.control(None, None)  # type: ignore[arg-type]
    assert controls is not None
    control, site, x = controls(0), Site("a", "cross", (1, 1), 1), torch.ones(1, 1, 1)
    assert control is not None
    call = AttentionCall(site, None, x, x, x)  # type: ignore[arg-type]
    assert [float(context) for context in control.contexts(site, x)] == [3 * 3 + 1, 3 * 4 + 2]
    assert control.edits_maps(site)
    assert float(control.scores(call, x)) == float(control.probabilities(call, x)) == 10
    assert float(control.next_context(call)) == 10
    later = controls(1)
    assert later is not None
    assert float(later.scores(call, x)) == 3
    assert compose([Shifting(calls=0), Shifting(calls=0)]).control(None, None)(0) is None  # type: ignore


@dataclass(frozen=True)
class Noting(Method):
    """Notes which sites a control of another method has scaled, from a guide of its own."""

    name: ClassVar[str] = "start"
    changes: ClassVar[str] = "halves the noise"
    reference: ClassVar[str] = "a toy"

    factor: float = 0.5

    def start(self, task: Task) -> Start:
        return lambda z: self.factor * z + 1

    def guide(self, task: Task) -> Guide:
        return lambda z, t, i: GuidanceResult(z)


def test_starts_follow_each_other_and_come_before_the_first_call() -> None:
    z = noise(3)
    both = run(CROWN, [Noting(factor=0.5), Noting(factor=0.25)], latents=z)
    assert relative(both.latents, run(CROWN, "sd", latents=0.25 * (0.5 * z + 1) + 1).latents) <= 1e-6
    assert both.losses.isnan().all(), "guides that measure nothing"


# --- what cannot run together ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cd,cd", "cd and cd both say what the network is conditioned on"),
        ("p2p,ane", "p2p makes one prompt's picture from another's; it runs alone"),
        ("sd,p2p", "p2p makes one prompt's"),
        ("cd,strd", "strd edits the prompt's encoding, and cd encodes other texts instead"),
        ("ane,anne", "no method 'anne'"),
        ("ane,", "no method 'ane,'|no method ''"),
        ("ane,syngen+steps=3", "'syngen' has no option steps"),
        (",", "no method"),
        (",".join(["sd"] * 17), "got 17 methods; expected at most 16"),
        ("ane,sd," * 5000 + "sd", "got 10001 methods"),
        ("ane,,sd", "no method"),
    ],
)
def test_what_cannot_run_together_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        methods.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [[], (), ["ane", 3], 3, None])
def test_what_is_no_list_of_methods(given: Any) -> None:
    with pytest.raises(ValueError, match=r"method is|expected two methods or more"):
        run(CROWN, given)


# --- names, options, costs, recipes ---


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("syngen,ane", ["syngen", "ane"]),
        ("ane+step_size=5,syngen+guided_steps=3", ["ane", "syngen"]),
        ("cd+weights=[7.5,-3.0],ebca+upweight=[[5,2.0]],ane+thresholds=[[0,0.5]]", ["cd", "ebca", "ane"]),
        ("ebama+center=true,ebama-official", ["ebama", "ebama-official"]),
        ("sd,divide-and-bind+mode=tv-bind", ["sd", "divide-and-bind"]),
    ],
)
def test_a_text_names_several_methods_with_options(text: str, names: list[str]) -> None:
    choice = methods.parse(text)
    method = choice.complete(SD_V1)
    assert isinstance(method, Composition)
    assert method.name == ",".join(names)
    assert [part.name for part in method.parts] == names
    described = json.loads(json.dumps(method.describe()))
    assert methods.get(described.pop("name"), **described).complete(MINIATURE) == method
    assert hash(choice) == hash(methods.parse(text))


def test_each_part_has_the_models_presets() -> None:
    method = methods.complete("ebama,ane+step_size=5", MINIATURE)
    assert isinstance(method, Composition)
    assert method.parts == (
        methods.get("ebama").complete(MINIATURE),
        methods.get("ane", step_size=5.0).complete(MINIATURE),
    )
    assert methods.complete(["sd"], TINY) == methods.complete("sd", TINY)
    nested = methods.complete([methods.parse("sd,ane"), "syngen"], SD_V1)
    assert nested == methods.complete("sd,ane,syngen", SD_V1)


@pytest.mark.parametrize(
    "stored",
    [
        {"parts": [{"name": "ane"}]},
        {"parts": [{"name": "syngen"}, {"name": "ane"}]},
        {"parts": ["ane", "syngen"]},
        {"parts": "ane"},
        {"parts": [{}, {}]},
        {"step_size": 3.0},
        {"parts": [{"name": "ane"}, {"name": "syngen"}], "step_size": 3.0},
    ],
)
def test_a_description_that_is_none_is_refused(stored: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'ane,syngen' is 2 methods; expected their options as parts"):
        methods.get("ane,syngen", **stored)


def test_needs_and_costs_add_up() -> None:
    prompt = parse(CROWN, clip_tokenizer(), "rules")
    cost = {name: methods.complete(name).cost(prompt, 51) for name in ("cd", "ane", "syngen", "cd,ane,syngen", "sd,sd")}
    together = cost["cd,ane,syngen"]
    assert together.predictions == cost["cd"].predictions
    assert together.attention == cost["ane"].attention + cost["syngen"].attention
    assert together.backwards == cost["ane"].backwards + cost["syngen"].backwards
    assert cost["sd,sd"].predictions == 102
    assert methods.parse("cd,ane,ebca").needs == Needs(
        groups=True, phrases=True, sites="cross 16x16, every cross", gradient=True
    )
    method = methods.complete(quick("syngen", "ebama"))
    found = method.cost(prompt, 2)
    assert passes([CROWN], method, steps=2, sampler="ddim") == {
        "predictions": found.predictions,
        "attention": found.attention,
        "backwards": found.backwards,
    }


def test_the_command_counts_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--method", "syngen,ane"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    (row,) = [line for line in lines if line[0] == "syngen,ane"]
    cells = [cell.strip() for cell in row if cell.strip()]
    assert cells[3:6] == ["102", str(25 + 25 + 60), str(25 + 25 + 60)]


@pytest.mark.slow
def test_a_picture_of_several_methods_is_made_again_from_its_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "syngen,ane+max_refinements=1"
    common = ["--steps", "2", "--parser", "rules", "--out", str(tmp_path)]
    assert main(["generate", CROWN, "--method", text, *common]) == 0
    (path,) = tmp_path.rglob("*.png")
    assert path.name.startswith("syngen,ane+max_refinements=1-seed0000")
    assert main(["generate", "--from-png", str(path), "--out", str(tmp_path / "again")]) == 0
    assert "every pixel is the same" in capsys.readouterr().err


@pytest.mark.slow
def test_an_evaluation_of_several_methods(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["evaluate", "--benchmark", "ane:objects", "--limit", "1", "--seeds", "0", "--steps", "1"]
    assert main([*command, "--methods", "sd", "syngen,ane+max_refinements=1", "--out", str(out)]) == 0
    settings = json.loads((out / "run.json").read_text())
    stored = settings["methods"]["syngen,ane+max_refinements=1"]
    assert stored["name"] == "syngen,ane"
    assert [part["name"] for part in stored["parts"]] == ["syngen", "ane"]
    assert stored["parts"][1]["max_refinements"] == 1
    assert (out / "syngen,ane+max_refinements=1").is_dir()
