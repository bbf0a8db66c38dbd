"""Attention Regulation: the field of one site and whole runs, derived again in plain loops."""

from __future__ import annotations

import math
from typing import Any
from zlib import crc32

import pytest
import torch
from reference import (
    assert_batch_is_one_by_one,
    ddim,
    maps_of,
    model,
    noise,
    out_of,
    plain_unet,
    pndm,
    reading,
    relative,
    rows_of,
    run,
)
from torch import Tensor

from ebama import methods
from ebama.guidance import Cost, compose
from ebama.methods.ane import AttendAndExcite
from ebama.methods.attention_regulation import AttentionRegulation, Targets, gaussian_bumps

CROWN, CAT, SURFBOARD = "a purple crown and a blue suitcase", "a cat", "a cat and a red surfboard"
TARGETS = {CROWN: [3, 7], CAT: [2], SURFBOARD: [2, 6, 7]}
QUICK = AttentionRegulation(iterations=3)


def bump(c: int, y: int, x: int) -> float:
    """Of 16x16: centres 2, 4, .. 14 along both sides, columns slow."""
    cx, cy = 2 * (c // 7 + 1), 2 * (c % 7 + 1)
    return math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2)


def expanded(w: Tensor) -> Tensor:
    """[256, target] from [49, target]."""
    bumps = torch.tensor([[bump(c, y, x) for c in range(49)] for y in range(16) for x in range(16)], dtype=w.dtype)
    return bumps @ w


def quantile(values: Tensor) -> Tensor:
    """Of 256 values, between the order statistics 229 and 230."""
    ordered = values.sort().values
    return (ordered[229] + ordered[230]) / 2


def regulated(heads: list[Tensor], targets: list[int], draws: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """(best, first) fields [head, 256, target] of one sample from scores [256, 77] of each head."""
    w, best, least = draws.clone(), None, math.inf
    for _ in range(rounds):
        w = w.detach().requires_grad_()
        first_term, second, third = [], [], []
        for h, scores in enumerate(heads):
            edited = scores.clone()
            edited[:, targets] = edited[:, targets] + expanded(w[h])
            p = torch.softmax(edited, dim=1)
            for k, target in enumerate(targets):
                first_term.append((quantile(p[:, target]) - 0.9) ** 2)
                second.append((p[:, target].mean() - min(1, 0.2 * len(targets)) / len(targets)) ** 2)
                third.append((w[h, :, k] ** 2).mean())
        loss = sum(
            torch.stack(terms).mean() * weight for terms, weight in ((first_term, 1), (second, 80), (third, 0.09))
        )
        if loss.item() < least:
            least, best = loss.item(), w.detach()
        w = w - 100 * len(heads) * torch.autograd.grad(loss, w)[0]
    assert best is not None
    return torch.stack([expanded(x) for x in best]), torch.stack([expanded(x) for x in draws])


def draw(name: str, i: int, heads: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(crc32(f"0 {i} {name}".encode()))
    return torch.stack([torch.rand(heads, 49, generator=generator) for _ in range(count)], dim=-1).double()


@torch.no_grad()
def derived(prompt: str, sampler: Any, steps: int, edited_calls: int) -> Tensor:
    texts, targets = model().encode_text(["", prompt]).double(), TARGETS[prompt]
    end, call, editing = len(reading(prompt).tokens) + 1, 0, True
    previous: dict[str, Tensor] = {}

    def cross(layer: Any, name: str, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        maps = maps_of(layer, x, context)
        if not editing or call >= edited_calls or len(x) != 256:
            return out_of(layer, maps, context), context
        q, k = x @ layer.to_q.weight.T, context @ layer.to_k.weight.T
        parts = [slice(h * q.shape[1] // layer.heads, (h + 1) * q.shape[1] // layer.heads) for h in range(layer.heads)]
        scores = [q[:, part] @ k[:, part].T / math.sqrt(q[:, part].shape[1]) for part in parts]
        with torch.enable_grad():
            best, first = regulated(scores, targets, draw(name, call, layer.heads, len(targets)), rounds=3)
        field = 0.99**call * (0.25 * previous.get(name, first) + 0.75 * best)
        previous[name] = best
        for h, plain in enumerate(list(maps)):
            scores[h][:, targets] += field[h]
            maps[h] = torch.softmax(scores[h], dim=1)
            maps[h][:, [0, end]] = plain[:, [0, end]]
        return out_of(layer, maps, context), context

    unet = plain_unet(cross)

    def denoise(z: Tensor, t: int, i: int) -> Tensor:
        nonlocal call, editing
        call, editing = i, False
        plain = unet(z, t, texts[:1])
        editing = True
        return plain + 7.5 * (unet(z, t, texts[1:]) - plain)

    return sampler(denoise, noise(5).double(), steps)  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "name", "sampler", "edited"),
    [(CROWN, "pndm", pndm, 25), (SURFBOARD, "ddim", ddim, 2), (CAT, "ddim", ddim, 25)],
)
def test_numbers(prompt: str, name: str, sampler: Any, edited: int) -> None:
    method = AttentionRegulation(iterations=3, edited_calls=edited)
    found = run(prompt, method, seeds=[5], steps=3, sampler=name).latents
    expected = derived(prompt, sampler, 3, edited)
    assert relative(found, expected) <= 1e-4
    assert relative(run(prompt, "sd", seeds=[5], steps=3, sampler=name).latents, expected) > 1e-2


@pytest.mark.parametrize("targets", [[3, 7], [2], [2, 6, 7, 9, 11, 12]])
@pytest.mark.parametrize("rounds", [1, 4])
def test_the_field_of_a_site(targets: list[int], rounds: int) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = 2 * torch.randn(2, 256, 20, generator=generator, dtype=torch.float64)
    draws = torch.rand(2, 49, len(targets), generator=generator, dtype=torch.float64)
    weights = torch.full((1, len(targets)), 1 / len(targets))
    found, first = AttentionRegulation(iterations=rounds).field(
        scores[None], Targets(torch.tensor([targets]), weights), gaussian_bumps((16, 16)).double(), draws.mT[None]
    )
    best, start = regulated(list(scores), targets, draws, rounds)
    torch.testing.assert_close(found[0].mT, best, rtol=1e-5, atol=1e-6)  # the share is a float32
    torch.testing.assert_close(first[0].mT, start, rtol=1e-6, atol=1e-6)


def test_bumps() -> None:
    expected = torch.tensor([[bump(c, y, x) for y in range(16) for x in range(16)] for c in range(49)])
    torch.testing.assert_close(gaussian_bumps((16, 16)), expected)
    assert gaussian_bumps((32, 48)).shape == (7 * 11, 32 * 48)
    assert gaussian_bumps((32, 48)).view(77, 32, 48)[7 + 2].argmax() == 12 * 48 + 8  # second column, third row
    assert gaussian_bumps((8, 8)).shape == (9, 64)


@pytest.mark.slow
def test_batches() -> None:
    assert_batch_is_one_by_one([CROWN, CAT, SURFBOARD], QUICK)


@pytest.mark.slow
def test_it_acts_in_the_guided_passes_of_another_method() -> None:
    ane = AttendAndExcite(step_size=2.0, guided_steps=2, thresholds=((0, 0.5),), max_refinements=2)
    both = compose([QUICK, ane])
    assert_batch_is_one_by_one([CROWN, CAT], both)
    plain, under = run(CROWN, ane), run(CROWN, both)
    assert not torch.allclose(plain.losses[0, 0], under.losses[0, 0])


def test_a_prompt_in_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot run with one that splits them"):
        run(CROWN, "attention-regulation,cd")


@pytest.mark.slow
def test_cost() -> None:
    assert rows_of([CROWN, CAT], QUICK, seeds=[0, 1]) == [8] * 3
    assert QUICK.cost(reading(CROWN), 3) == Cost(predictions=sum(rows_of(CROWN, QUICK)))


@pytest.mark.slow
def test_without_objects_or_edited_calls_it_is_plain_sampling() -> None:
    plain = run([CROWN, CAT], "sd").latents
    assert torch.equal(run([CROWN, CAT], QUICK, groups=[[], []]).latents, plain)
    assert torch.equal(run([CROWN, CAT], AttentionRegulation(edited_calls=0)).latents, plain)


@pytest.mark.slow
def test_the_seed_and_the_options_count() -> None:
    base = run(CROWN, QUICK).latents
    assert torch.equal(run(CROWN, QUICK).latents, base)
    others = [{"seed": 1}, {"iterations": 4}, {"carry": 0.5}, {"decay": 0.5}, {"share": 0.5}, {"peak": 0.5}]
    for options in [*others, {"share_weight": 8.0}, {"size_weight": 9.0}]:
        method = AttentionRegulation(**({"iterations": 3} | options))  # type: ignore[arg-type]
        assert not torch.equal(run(CROWN, method).latents, base), options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"carry": 1.5}, "carry is 1.5; expected a share"),
        ({"edited_calls": -1}, "edited_calls is -1"),
        ({"share_weight": math.nan}, "share_weight is nan"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.get("attention-regulation", **options)
