"""Nothing assumes the CPU: methods, traces, judges and an evaluation on a device that refuses the CPU's tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from foreign_networks import STYLES, foreign
from PIL import Image
from reference import FEW, model
from second_device import SecondTensor, second_device
from torch import Tensor, nn

from ebama import Pipeline, methods
from ebama.evaluation import jsonl
from ebama.evaluation import run as evaluation
from ebama.evaluation.benchmarks import BenchmarkPrompt
from ebama.evaluation.judges.scorer import JudgeScorer, Scores
from ebama.evaluation.judges.similarity import similarities
from ebama.evaluation.scoring import score
from ebama.evaluation.work import Run
from ebama.guidance import guide_for
from ebama.prompt import Group
from ebama.samplers import NoiseSchedule
from ebama.weights import StableDiffusion
from ebama.weights.miniature.judge import load_judge

T = TypeVar("T")

PROMPTS = ["a red cat and a blue dog", "a green bird and a black dog"]


@cache
def model_there() -> StableDiffusion:
    """The tiny model on the second device."""
    with second_device() as device:
        names = ("unet", "vae", "text_encoder")
        parts: dict[str, Any] = {name: copy.deepcopy(getattr(model(), name)).to(device) for name in names}
    assert all(isinstance(weight, SecondTensor) for part in parts.values() for weight in part.parameters())
    return replace(model(), **parts)


def on_both(run: Callable[[StableDiffusion], T]) -> tuple[T, T]:
    """What `run` makes of the model on the second device and on the CPU."""
    with second_device():
        there = run(model_there())
    return there, run(model())


@pytest.fixture
def device() -> Iterator[torch.device]:
    with second_device() as device:
        yield device


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert type(found) is Tensor  # results are on the CPU
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


# --- the device itself ---

MIXED: list[Callable[[Tensor, Tensor], Any]] = [
    lambda here, there: here + there,
    lambda here, there: there * here,
    lambda here, there: there @ here.T,
    lambda here, there: torch.cat([there, here]),
    lambda here, there: torch.where(there > 0, there, here),
    lambda here, there: there[here.argmax(0)],
    lambda here, there: here[there.argmax(0)],
    lambda here, there: there.add_(here),
    lambda here, there: there.copy_(here),
    lambda here, there: there.__setitem__(0, here[0]),
    lambda here, there: nn.functional.linear(there, here),
    lambda here, there: nn.functional.scaled_dot_product_attention(there[None], there[None], here[None]),
    lambda here, there: nn.Linear(4, 2)(there),
    lambda here, there: there.numpy(),
]


@pytest.mark.parametrize("mixed", range(len(MIXED)))
def test_tensors_of_two_devices_do_not_meet(mixed: int, device: torch.device) -> None:
    here = torch.randn(3, 4)
    refused = r"tensors of two devices|same device|\.numpy\(\) is not supported"
    with pytest.raises((RuntimeError, TypeError), match=refused):
        MIXED[mixed](here, here.to(device))


def test_what_crosses_over_says_so(device: torch.device) -> None:
    here = torch.arange(6.0).reshape(2, 3)
    there = here.to(device)
    assert there.device == device
    assert there.to("cpu").tolist() == there.cpu().tolist() == there.tolist() == here.tolist()
    assert (there.sum().item(), float(there[1, 2]), bool(there.any())) == (15, 5, True)
    assert (there * torch.tensor(2.0)).tolist() == (here * 2).tolist()  # a number, as every device takes
    made = [torch.tensor([1, 2], device=device), torch.zeros(2, device=device), torch.full((2,), 3, device=device)]
    assert [values.tolist() for values in made] == [[1, 2], [0, 0], [3, 3]]
    assert there.new_ones(2).device == torch.zeros_like(there).device == device
    there[[1]] -= 1
    assert there[[True, True]].tolist() == [[0, 1, 2], [2, 3, 4]]


def test_gradients_stay_on_the_device(device: torch.device) -> None:
    z = torch.randn(2, 3)
    gradients = []
    for at in ("cpu", device):
        leaf = z.to(at).requires_grad_()
        gradients += torch.autograd.grad(leaf.softmax(-1).square().sum(), leaf)
    assert isinstance(gradients[1], SecondTensor)
    assert_same(gradients[1].cpu(), gradients[0])


# --- the library on it ---


OPTIONS = {name: FEW.get(name, {}) for name in methods.names()}
OPTIONS["divide-and-bind"] = {"max_refinements": (1, 1), "mode": "tv-bind"}
"""So few steps that two ways of rounding stay together, and that the tests stay quick."""


QUICK = ("cd", "ebca", "ebama")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in methods.names()]
)
def test_every_method(name: str) -> None:
    options: dict[str, Any] = {"steps": 1, "output": "latent", "progress": False, "parser": "rules"}
    prompts = PROMPTS[: 2 if name == "p2p" else 1]
    method = methods.get(name, **OPTIONS[name])
    if method.needs.boxes:
        options["boxes"] = {"cat": (0, 0, 0.5, 0.7)}
    found, expected = on_both(lambda sd: Pipeline(sd)(prompts, method=method, **options))
    assert_same(found.latents, expected.latents)
    assert_same(found.losses.nan_to_num(-1), expected.losses.nan_to_num(-1))


@pytest.mark.slow
def test_two_prompts_of_two_methods_with_pictures_and_a_trace() -> None:
    options: dict[str, Any] = {"seeds": [3, 4], "steps": 1, "sampler": "ddim", "progress": False, "parser": "rules"}
    methods = ["strd", "ebama"]
    found, expected = on_both(lambda sd: Pipeline(sd, checkpoint=True)(PROMPTS, method=methods, trace=True, **options))
    assert_same(found.latents, expected.latents)
    for picture, same in zip(found.images or [], expected.images or [], strict=True):
        np.testing.assert_allclose(np.asarray(picture, int), np.asarray(same, int), atol=1)
    assert found.trace is not None
    assert expected.trace is not None
    assert found.trace.kept.keys() == expected.trace.kept.keys()
    for name, values in found.trace.kept.items():
        assert_same(values.nan_to_num(-1), expected.trace.kept[name].nan_to_num(-1), 1e-2)  # float16


@pytest.mark.slow
def test_the_weights_are_known_again() -> None:
    found, expected = on_both(lambda sd: sd.fingerprint())
    assert found == expected


def test_the_miniatures_judge_reads_where_it_is() -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    judge = load_judge()
    expected = judge.read(pixels)
    with second_device() as device:
        there = judge.to(device)
        assert there.read(pixels) == there.read(pixels.to(device)) == expected


@pytest.mark.slow
def test_clip_and_blip_score_where_they_are() -> None:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(2)]
    prompts = [BenchmarkPrompt("a", "a cat and a dog"), BenchmarkPrompt("a", "a red car")]
    texts = [prompt.text for prompt in prompts]

    def scores(device: str) -> list[Scores]:
        return [
            scores
            for scorer in similarities("miniature", "miniature", texts, device)
            for scores in scorer(pictures, prompts)
        ]

    expected = scores("cpu")
    with second_device() as device:
        found = scores(str(device))
    for line, same in zip(found, expected, strict=True):
        for key, value in line.items():
            assert value == (pytest.approx(same[key], rel=1e-4) if isinstance(value, float) else same[key])


@pytest.mark.slow
def test_an_evaluation(tmp_path: Path) -> None:
    prompts = [BenchmarkPrompt("a", "a red cat and a blue dog"), BenchmarkPrompt("a", "a frog")]
    chosen = {name: methods.get(name).complete() for name in ("sd", "syngen")}
    run = Run(prompts, chosen, [0], steps=1, sampler="ddim", parser="rules")
    folders = iter([tmp_path / "there", tmp_path / "here"])

    def evaluate(sd: StableDiffusion) -> list[list[dict[str, Any]]]:
        out = next(folders)
        evaluation.start(run, out, sd.config.name, sd.fingerprint())
        evaluation.make(run, Pipeline(sd), out)
        assert evaluation.finish(run, out)
        score(out, [JudgeScorer()])
        return [jsonl.read(out / name) for name in ("images.jsonl", "scores.jsonl")]

    (found, scores), (expected, same) = on_both(evaluate)
    assert found == expected
    assert [line["scores"] for line in scores] == [line["scores"] for line in same]
    pictures = [
        [np.asarray(Image.open(tmp_path / at / line["file"]), int) for line in expected] for at in ("there", "here")
    ]
    np.testing.assert_allclose(*pictures, atol=1)


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_a_guide_on_a_foreign_network(style: str) -> None:
    generator = torch.Generator().manual_seed(1)
    z, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 10, generator=generator)

    def guided(device: torch.device) -> list[Tensor]:
        groups, tokens = [Group((2,), ((1,),)), Group((3,))], (1, 2, 3)
        network = foreign(style)[1]
        network.net.to(device)
        result = guide_for("ebama", network, context.to(device), groups, tokens, calls=3)(z.to(device), 500, 0)
        return [part.cpu() for part in result if part is not None]

    with second_device() as device:
        found = guided(device)
    for value, same in zip(found, guided(torch.device("cpu")), strict=True):
        assert_same(value, same)


def test_a_timestep_for_each_sample() -> None:
    def noised(device: torch.device) -> list[Tensor]:
        schedule, t = NoiseSchedule(), torch.tensor([3.5, 700], device=device)
        x, noise = torch.ones(2, 4, device=device), torch.full((2, 4), 0.3, device=device)
        made = schedule.add_noise(x, noise, t), schedule.step(x, noise, t, t / 2), schedule.sigma(t)
        assert {value.device for value in made} == {schedule.timestep(schedule.sigma(t)).device} == {x.device}
        return [value.cpu() for value in made]

    with second_device() as device:
        found = noised(device)
    for value, same in zip(found, noised(torch.device("cpu")), strict=True):
        assert_same(value, same)
