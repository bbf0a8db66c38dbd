"""Composable Diffusion: parts of prompts, sums of noise estimates, rows of the batch."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from reference import (
    assert_batch_is_one_by_one,
    ddim,
    model,
    noise,
    pndm,
    reading,
    relative,
    rows_of,
    run,
    their_scheduler,
    their_tiny_unet,
)
from torch import Tensor

from ebama.evaluation import benchmarks
from ebama.guidance import Cost
from ebama.methods.cd import ComposableDiffusion, parts

CROWN, CAT, BARS = "a purple crown and a blue suitcase", "a cat", "a red car | a blue dog | a cat"


# --- parts ---


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (CROWN, ["a purple crown", "a blue suitcase"]),
        ("a bear with a crown", ["a bear", "a crown"]),
        ("a cat, a dog and a frog.", ["a cat", "a dog", "a frog"]),
        ("a dog with a red hat and a cat", ["a dog", "a red hat", "a cat"]),
        ("A Red Car and a Cat", ["A Red Car", "a Cat"]),
        ("a red dog and a red dog", ["a red dog", "a red dog"]),
        ("a spiky surfboard and a cat", ["a spiky surfboard", "a cat"]),
        ("a cat and a dog on a beach", ["a cat", "a dog on a beach"]),
        ("a red dog", ["a red dog"]),
        ("a cat.", ["a cat."]),
        ("a cat and dogs", ["a cat and dogs"]),
        ("a cat on a bench", ["a cat on a bench"]),
        ("the dog is red", ["the dog is red"]),
        ("and", ["and"]),
        ("a cat and a dog | a tree ", ["a cat and a dog", "a tree"]),
    ],
)
def test_parts(prompt: str, expected: list[str]) -> None:
    assert parts(reading(prompt)) == expected


@pytest.mark.slow
def test_parts_of_the_benchmark_are_its_metrics_halves() -> None:
    prompts = [prompt for each in benchmarks.load_ane().values() for prompt in each]
    assert len(prompts) == 276
    for prompt in prompts:
        assert parts(reading(prompt)) == prompt.split(" and " if " and " in prompt else " with ")


@pytest.mark.parametrize("prompt", ["a cat |", "| a cat", "a cat || a dog", "|"])
def test_an_empty_part_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="is empty; put words on both sides"):
        run(prompt, ComposableDiffusion())


# --- numbers ---


def derived(contexts: Tensor, weights: list[float], sampler: Any, steps: int) -> Tensor:
    """The formula, one row at a time; `contexts` are the negative and the parts."""
    unet = model().unet.double()
    try:

        @torch.no_grad()
        def denoise(z: Tensor, t: int, i: int) -> Tensor:
            empty, *estimates = (unet(z, t, context[None].double()) for context in contexts)
            total = empty.clone()
            for weight, estimate in zip(weights, estimates, strict=True):
                total += weight * (estimate - empty)
            return total

        return sampler(denoise, noise(5).double(), steps)
    finally:
        unet.float()


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, (7.5, -3.0, 1)])
@pytest.mark.parametrize(("name", "sampler"), [("ddim", ddim), ("pndm", pndm)])
def test_numbers(name: str, sampler: Any, weights: tuple[float, ...] | None) -> None:
    contexts = model().encode_text(["", "a red car", "a blue dog", "a cat"])
    found = run(BARS, ComposableDiffusion(weights), seeds=[5], steps=4, sampler=name, guidance=4.0).latents
    assert relative(found, derived(contexts, list(weights or [4.0] * 3), sampler, 4)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, (7.5, -3.0)])
@torch.no_grad()
def test_numbers_of_a_loop_over_diffusers(weights: tuple[float, ...] | None) -> None:
    unet, scheduler = their_tiny_unet(), their_scheduler("ddim", 4)
    empty, *contexts = model().encode_text(["", "a purple crown", "a blue suitcase"])
    x = noise(5)
    for t in scheduler.timesteps:
        e = unet(x, t, empty[None]).sample
        total = e
        for weight, context in zip(weights or (7.5, 7.5), contexts, strict=True):
            total = total + weight * (unet(x, t, context[None]).sample - e)
        x = scheduler.step(total, t, x).prev_sample
    found = run(CROWN, ComposableDiffusion(weights), seeds=[5], steps=4, sampler="ddim").latents
    assert relative(found, x) <= 1e-4


@pytest.mark.slow
def test_a_prompt_of_one_part_is_plain_sampling() -> None:
    for prompt in (CAT, "and", "a cat."):
        assert torch.equal(run(prompt, ComposableDiffusion()).latents, run(prompt, "sd").latents)
    lighter = run(CAT, ComposableDiffusion((5.0,))).latents
    assert relative(lighter, run(CAT, "sd", guidance=5.0).latents) <= 1e-5
    assert relative(run(CROWN, ComposableDiffusion()).latents, run(CROWN, "sd").latents) > 1e-2


@pytest.mark.slow
def test_a_guidance_scale_of_1() -> None:
    contexts = model().encode_text(["", "a purple crown", "a blue suitcase"])
    found = run(CROWN, ComposableDiffusion(), seeds=[5], guidance=1, steps=4, sampler="pndm").latents
    assert relative(found, derived(contexts, [1, 1], pndm, 4)) <= 1e-4
    assert rows_of(CROWN, ComposableDiffusion(), guidance=1) == [3] * 3
    assert rows_of(CAT, ComposableDiffusion(), guidance=1) == [1] * 3


@pytest.mark.slow
def test_a_weight_of_zero_leaves_a_part_out() -> None:
    found = run("a cat | a dog", ComposableDiffusion((7.5, 0))).latents
    assert relative(found, run(CAT, "sd").latents) <= 1e-5


# --- batches and cost ---


@pytest.mark.slow
def test_batches_of_different_numbers_of_parts() -> None:
    assert_batch_is_one_by_one([CROWN, CAT, BARS, "a cat."], ComposableDiffusion())
    assert_batch_is_one_by_one([CROWN, "a cat | a dog"], ComposableDiffusion((7.5, -2.0)))


@pytest.mark.slow
def test_cost() -> None:
    method = ComposableDiffusion()
    assert rows_of([CROWN, CAT, BARS], method, seeds=[0, 1]) == [2 * (3 + 2 + 4)] * 3
    for prompt in (CROWN, CAT, BARS):
        cost = method.cost(reading(prompt), 3)
        assert cost == Cost(predictions=sum(rows_of(prompt, method)))
    assert method.cost(reading(CROWN), 50).predictions == 150


# --- what goes in ---


@pytest.mark.parametrize("weights", [(), 7.5, "12", (1.0, math.nan), (1.0, None)])
def test_weights_that_no_run_could_use(weights: Any) -> None:
    with pytest.raises(ValueError, match=r"weights are .*; expected a finite number for each part"):
        ComposableDiffusion(weights)


def test_weights_as_they_come_from_json() -> None:
    assert ComposableDiffusion([7.5, -3.0]) == ComposableDiffusion((7.5, -3.0))  # type: ignore[arg-type]


def test_a_wrong_number_of_weights() -> None:
    with pytest.raises(ValueError, match=r"3 weights for the 2 parts of .*: a purple crown \| a blue suitcase"):
        run(CROWN, ComposableDiffusion((1, 2, 3)))
    with pytest.raises(ValueError, match="2 weights for the 1 parts of 'a cat': a cat"):
        run([CROWN, CAT], ComposableDiffusion((1, 2)))


def test_capital_letters_make_no_difference() -> None:
    found = run("A Purple Crown and a BLUE suitcase", ComposableDiffusion()).latents
    assert torch.equal(found, run(CROWN, ComposableDiffusion()).latents)


@pytest.mark.slow
def test_more_than_77_pieces() -> None:
    """What CLIP does not see is said; between bars each part has 75 pieces of its own."""
    long = " and ".join(["a red dog"] * 20)
    with pytest.warns(UserWarning, match="does not see: "):
        found = run(long, ComposableDiffusion())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(found.latents, run(long, "sd").latents)
        halves = " | ".join([" ".join(["a red dog"] * 20)] * 2)
        assert rows_of(halves, ComposableDiffusion()) == [3] * 3


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(20, 20), (20, 20, 20), (1, 24)])
def test_words_that_are_not_seen_are_counted_in_each_part(counts: tuple[int, ...]) -> None:
    """A prompt of parts that are short is seen whole; of a long part the end is named, and of another method too."""
    halves = " | ".join(" ".join(["a red dog"] * count) for count in counts)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not see")
        run(halves, ComposableDiffusion(), steps=1)
    with pytest.warns(UserWarning, match="does not see"):
        run(halves, "sd", steps=1)
    long = halves + " | " + "a red dog " * 25 + "cat"
    with pytest.warns(UserWarning, match="75 of this prompt's 76 tokens; it does not see: cat$") as caught:
        run(long, ComposableDiffusion(), steps=1)
    assert len([one for one in caught if "does not see" in str(one.message)]) == 1
