"""Values as people have them: numbers of other libraries where their meaning is plain, one clear error elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from weights_samples import random_model

from ebama import Pipeline, Result, methods
from ebama.output.files import to_json
from ebama.prompt import groups_from_words, parse
from ebama.samplers import DDIM
from ebama.weights import clip_tokenizer, load

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(random_model())


def run(pipeline: Pipeline, **options: Any) -> Result:
    usual = {
        "prompt": "a red car",
        "steps": 1,
        "sampler": "ddim",
        "parser": "rules",
        "method": "sd",
        "output": "latent",
    }
    return pipeline(**{"progress": False} | usual | options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values", "plain"),
    [
        (
            "seeds",
            [
                *(np.arange(2, 4), range(2, 4), iter([2, 3]), [np.uint8(2), np.int64(3)]),
                *(
                    torch.arange(2, 4),
                    [torch.tensor(2), torch.tensor(3)],
                    (seed for seed in (2, 3)),
                    {2: "", 3: ""}.keys(),
                ),
            ],
            [2, 3],
        ),
        ("size", [np.array([64, 64]), torch.tensor([64, 64]), torch.Size([64, 64]), iter([64, 64])], (64, 64)),
        ("prompt", [np.array(["a red car"]), iter(["a red car"]), np.str_("a red car")], "a red car"),
        ("progress", [np.False_], False),
        ("trace", [np.False_], False),
        ("steps", [np.int64(2), torch.tensor(2), np.array(2)], 2),
        ("guidance", [np.float32(2.5), torch.tensor(2.5), np.float64(2.5), np.array(2.5)], 2.5),
        ("guidance", [np.int64(3), torch.tensor(3)], 3),
        ("batch_size", [np.int8(2), torch.tensor(2)], 2),
        ("sampler", [DDIM(np.int64(2), eta=np.float32(0.5))], DDIM(2, eta=0.5)),
    ],
)
def test_numbers_of_other_libraries_are_numbers(name: str, values: list[Any], plain: Any, pipeline: Pipeline) -> None:
    expected = run(pipeline, **{name: plain})
    for value in values:
        result = run(pipeline, **{name: value})
        assert json.loads(to_json(result.metadata)) == json.loads(to_json(expected.metadata))
        assert torch.equal(result.latents, expected.latents)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "seeds",
            [
                [True],
                [np.True_],
                torch.zeros(2),
                [torch.tensor(3.0)],
                {0: 1},
                True,
                3,
                torch.tensor(3),
                np.int64(3),
                None,
                [None],
                "0",
                b"0",
            ],
        ),
        ("seeds", [torch.ones(2).to_sparse(), torch.ones(2, device="meta"), [10**5000], Fraction(10**400)]),
        ("guidance", [Fraction(10**400), 10**5000, torch.ones((), device="meta")]),
        ("method", [torch.ones(9, 9), np.ones((9, 9))]),
        ("sampler", [torch.ones(9, 9), np.ones((9, 9)), "x" * 9000]),
        ("seeds", [["0"], [0.0], [NAN], [np.float32(1)], [-1], [2**63], [np.uint64(2**63)], [], np.zeros((1, 1), int)]),
        ("steps", [True, 2.0, "2", NAN, None, np.float32(2), torch.tensor(2.0), 0, -1, 10**30, [2], np.array([2])]),
        (
            "guidance",
            [True, "7", None, NAN, INF, -INF, 10**400, 1e308, np.float64(NAN), torch.tensor([7.5, 1]), np.True_],
        ),
        ("batch_size", [True, "2", 2.0, NAN, None, 0, -1, np.float32(2), torch.tensor(True)]),
        ("sampler", [3, None, True, ["ddim"], DDIM]),
        ("trace", [3, "yes", ["latents"]]),
        ("groups", [3, True, {"car": ["red"]}, [3], ["car"], "car"]),
        ("prompt", [3, None, True, [3], [None], b"a car", [], np.array("a car"), {3}, {"a car"}, {"a car": 1}]),
        (
            "boxes",
            [torch.zeros(2), 3, True, "car", [1], {"car": NAN}, {"car": (0, 0, INF, 1)}, {"car": "0011"}, {3: 3}],
        ),
        ("boxes", [{"car": (1, 1, 0, 0)}, {"car": (0, 0, 1)}, {"red": (0, 0, 1, 1)}, {"猫": (0, 0, 1, 1)}, object()]),
        (
            "size",
            [3, True, "64x64", (64,), (64, NAN), (0, 64), (-64, 64), (2**40, 64), torch.ones(2), {"a": 1}, [[64]]],
        ),
        ("crop", [torch.ones(2), False, [], "", (1, NAN), (-1, 0), (0,)]),
        ("ignore", [3, None, "car", [3], object()]),
        ("method", [3, None, b"sd", object(), "ebama+step_size=1+step_size=2", ",".join(["sd"] * 17)]),
        ("negative_prompt", [3, True, ["a"], b"a"]),
        ("output", ["x", None, 3]),
    ],
)
def test_other_values_are_named(name: str, values: list[Any], pipeline: Pipeline) -> None:
    for value in values:
        with pytest.raises(ValueError, match=r"expected|give |a prompt is|the box|the prompt|is no object") as caught:
            run(pipeline, **{name: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "option", "value", "plain"),
    [
        ("ebama", "step_size", np.float32(3), 3.0),
        ("ebama", "step_size", torch.tensor(3.0), 3.0),
        ("ebama", "guided_steps", np.int64(3), 3),
        ("ebama", "initial_steps", np.int32(2), 2),
        ("ebama", "center", np.True_, True),
        ("ane", "thresholds", [(np.int64(0), np.float32(0.5))], ((0, 0.5),)),
        ("conform", "refined_calls", np.array([0, 5]), (0, 5)),
    ],
)
def test_options_of_other_libraries_are_numbers(method: str, option: str, value: Any, plain: Any) -> None:
    ((_, stored),) = methods.get(method, **{option: value}).options
    assert stored == plain
    assert type(stored) is type(plain)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        *(("ebama", "step_size", value) for value in (True, NAN, INF, -1, "3", 10**400, 1e39, np.float64(NAN), None)),
        *(("ebama", "initial_steps", value) for value in (True, 0, 2.0, 1001, 2**70, None)),
        *(("ane", "max_refinements", value) for value in (True, -1, 2.0, 1001, 2**70)),
        *(
            ("ane", "thresholds", value)
            for value in ([(0, NAN)], [(0, INF)], [(0.5, 1)], [(-1, 1)], 3, [[0]], {0: 0.5})
        ),
        *(("conform", "refined_calls", value) for value in ([2**70], [0.5], [True], 3, "0", None)),
        ("divide-and-bind", "max_refinements", [10**9, 1]),
        *(("ebama", "step_size", value) for value in (Fraction(10**400), Fraction(-(10**400)), [10**5000])),
        pytest.param("ebama", "step_size", 10**5000, id="of five thousand digits"),
        *(("initno", "learning_rate", value) for value in (3e38, 0, Fraction(10**400))),
        ("p2p", "edit", np.array(["replace", "refine"])),
    ],
)
def test_options_that_no_run_could_use_are_named(method: str, option: str, value: Any) -> None:
    if method not in methods.names():
        pytest.skip(f"there is no {method}")
    with pytest.raises(ValueError, match=rf"^{option} is .*; expected"):
        methods.get(method, **{option: value})


@pytest.mark.parametrize("boxes", [None, {}, [], ()], ids=repr)
def test_a_method_of_boxes_needs_one(boxes: Any, pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match="places objects in boxes, and got none"):
        run(pipeline, method="boxdiff", boxes=boxes)


def test_latents_and_budgets_of_other_libraries(pipeline: Pipeline) -> None:
    latents = torch.randn(1, 4, 2, 2)
    assert pipeline.decode(latents.numpy())[0].tobytes() == pipeline.decode(latents)[0].tobytes()  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="pictures are black"):
        pipeline.decode(latents * NAN)
    with pytest.raises(ValueError, match="expected a tensor"):
        pipeline.decode([latents, "a"])  # type: ignore[arg-type]
    for memory in (np.float32(6e9), torch.tensor(6 * 10**9), 6e9):
        assert Pipeline(pipeline.sd, memory=memory).budget == 6 * 10**9  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 4, 0, 16), (1, 4, 16, 0), (0, 4, 16, 16)])
def test_latents_without_values_are_named(shape: tuple[int, ...], pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match=r"latents have shape .*; expected \[N, 4, h, w\]"):
        run(pipeline, latents=torch.zeros(shape))


def test_progress_is_true_or_false(pipeline: Pipeline) -> None:
    for value in (torch.ones(2), "yes", 3, None):
        with pytest.raises(ValueError, match=r"progress is .*; expected True or False"):
            pipeline("a red car", method="sd", steps=1, progress=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [3, None, NAN, b"sd", ["sd"], {}, object()], ids=lambda value: type(value).__name__)
def test_what_is_no_text_or_list_is_named(value: Any) -> None:
    tokenizer = clip_tokenizer()
    refusals: list[Callable[[], object]] = [lambda: methods.get(value), lambda: methods.parse(value)]
    if value != ["sd"]:
        refusals += [lambda: parse("a cat", tokenizer, "rules", ignore=value)] if value != {} else []
        refusals += [lambda: groups_from_words("a cat", value, tokenizer)]
    if value is not None:
        refusals += [lambda: parse("a cat", tokenizer, "rules", separator=value), lambda: load(value)]
    for refuse in refusals:
        with pytest.raises(ValueError, match="expected") as caught:
            refuse()
        assert "\n" not in str(caught.value)
