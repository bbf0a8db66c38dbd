"""Energy-Based Cross Attention: the context's way through one call, against plain loops; and the energy of a trace."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reference import (
    TINY,
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
from ebama.guidance import Conditioning, Cost
from ebama.methods.ebca import EnergyBasedCrossAttention
from ebama.models import SD_V1

CROWN, CAT = "a purple crown and a blue suitcase", "a cat"
STRONG = EnergyBasedCrossAttention(0.02, 0.3)


def moved(layer: Any, x: Tensor, c: Tensor, gamma: float, gamma_norm: float, weights: list[float]) -> Tensor:
    """The context after one site, token by token and head by head."""
    q, k = x @ layer.to_q.weight.T, c @ layer.to_k.weight.T
    size = q.shape[1] // layer.heads
    squares = [float((row * row).sum()) for row in k]
    exponentials = [math.exp(square - max(squares)) for square in squares]
    following = []
    for n in range(len(c)):
        asked = []
        for h in range(layer.heads):
            part = slice(h * size, (h + 1) * size)
            shares = torch.softmax(q[:, part] @ k[n, part] / math.sqrt(size), dim=0)  # over the pixels
            asked.append(shares @ q[:, part])
        share = exponentials[n] / sum(exponentials)
        following.append(c[n] + (gamma * weights[n] * torch.cat(asked) - gamma_norm * share * k[n]) @ layer.to_k.weight)
    return torch.stack(following)


@torch.no_grad()
def derived(
    prompt: str,
    sampler: Any,
    steps: int,
    gamma: float,
    gamma_norm: float,
    moving_calls: int,
    upweight: dict[int, float],
) -> Tensor:
    texts = model().encode_text(["", prompt]).double()
    weights, moving = [1.0] * 77, True

    def cross(layer: Any, name: str, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        out = out_of(layer, maps_of(layer, x, context), context)
        return out, moved(layer, x, context, gamma, gamma_norm, weights) if moving else context

    unet = plain_unet(cross)

    def denoise(z: Tensor, t: int, i: int) -> Tensor:
        nonlocal weights, moving
        moving = i < moving_calls
        weights = [1.0] * 77
        plain = unet(z, t, texts[:1])
        weights = [upweight.get(n, 1.0) for n in range(77)]
        return plain + 7.5 * (unet(z, t, texts[1:]) - plain)

    return sampler(denoise, noise(5).double(), steps)  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sampler", "tau", "moving_calls"),
    [("pndm", pndm, 1.0, 4), ("pndm", pndm, 0.6, 2), ("ddim", ddim, 1.0, 4)],
)
def test_numbers(name: str, sampler: Any, tau: float, moving_calls: int) -> None:
    """PNDM's last call, the fifth of four steps, is left alone."""
    method = EnergyBasedCrossAttention(0.02, 0.3, tau, {3: 4.0, 7: -1.0})
    found = run(CROWN, method, seeds=[5], steps=4, sampler=name).latents
    expected = derived(CROWN, sampler, 4, 0.02, 0.3, moving_calls, {3: 4.0, 7: -1.0})
    assert relative(found, expected) <= 1e-4
    assert relative(run(CROWN, "sd", seeds=[5], steps=4, sampler=name).latents, expected) > 1e-2
    if name == "ddim":
        other = derived(CROWN, sampler, 4, 0.02, 0.3, moving_calls, {})
        assert relative(other, expected) > 1e-3


@pytest.mark.slow
def test_nothing_moves_without_steps() -> None:
    plain = run([CROWN, CAT], "sd").latents
    for still in (EnergyBasedCrossAttention(0, 0), EnergyBasedCrossAttention(0.1, 0.1, tau=0)):
        assert torch.equal(run([CROWN, CAT], still).latents, plain)
    only = EnergyBasedCrossAttention(0.0, 0.3), EnergyBasedCrossAttention(0.02, 0.0)
    assert all(relative(run([CROWN, CAT], method).latents, plain) > 1e-3 for method in only)


@pytest.mark.parametrize("tau", [0.29, 0.58])
def test_the_last_call_that_moves_is_rounded_as_the_authors_do(tau: float) -> None:
    """int(100 * 0.29) is 28."""
    text = torch.zeros(2, 77, 16)
    controls = EnergyBasedCrossAttention(0.02, 0.3, tau).control(
        SimpleNamespace(steps=100),  # type: ignore[arg-type]
        Conditioning(text, torch.zeros(2), torch.ones(1, 2), torch.tensor([1])),
    )
    assert controls is not None
    last = int(100 * tau)
    assert [controls(i) is not None for i in range(101)] == [True] * last + [False] * (101 - last)


@pytest.mark.slow
def test_batches() -> None:
    method = EnergyBasedCrossAttention(0.02, 0.3, upweight={2: 3.0})
    assert_batch_is_one_by_one([CROWN, CAT], method)
    assert_batch_is_one_by_one(["and", "A red Dog and a red dog", "a spiky surfboard"], method)


@pytest.mark.slow
def test_both_branches_of_guidance_move() -> None:
    for guidance in (0, 1):
        plain = run(CROWN, "sd", guidance=guidance).latents
        assert relative(run(CROWN, STRONG, guidance=guidance).latents, plain) > 1e-3
    assert rows_of([CROWN, CAT], STRONG, guidance=1) == [2] * 3
    upweighted = EnergyBasedCrossAttention(0.02, 0.3, upweight={2: 30.0})
    alone = run(CROWN, STRONG, guidance=0).latents
    assert relative(run(CROWN, upweighted, guidance=0).latents, alone) <= 1e-6
    assert relative(run(CROWN, upweighted, guidance=1).latents, run(CROWN, STRONG, guidance=1).latents) > 1e-3


@pytest.mark.slow
def test_cost() -> None:
    assert rows_of([CROWN, CAT], STRONG, seeds=[0, 1]) == [8] * 3
    assert STRONG.cost(reading(CROWN), 3) == Cost(predictions=sum(rows_of(CROWN, STRONG)))


def test_more_than_77_pieces() -> None:
    with pytest.warns(UserWarning, match="does not see: "):
        assert run(" and ".join(["a red dog"] * 20), STRONG).latents.isfinite().all()


def test_options() -> None:
    method = EnergyBasedCrossAttention(upweight={5: 2.0})
    assert method.upweight == ((5, 2.0),)
    assert method == EnergyBasedCrossAttention(upweight=[[5, 2.0]])  # type: ignore[list-item]
    assert len({method, EnergyBasedCrossAttention(upweight=((5, 2.0),))}) == 1
    resolved = methods.get("ebca").complete(SD_V1)
    assert (resolved.gamma_attention, resolved.gamma_norm, resolved.tau) == (0.01, 0.02, 1.0)
    assert methods.get("ebca", gamma_norm=0.5).complete(TINY) == EnergyBasedCrossAttention(gamma_norm=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma_attention": -1}, "gamma_attention is -1"),
        ({"gamma_norm": math.inf}, "gamma_norm is inf"),
        ({"tau": 1.1}, "tau is 1.1; expected a share"),
        ({"upweight": {77777: 1.0}}, "upweight has 1.0 for position 77777"),
        ({"upweight": {-1: 1.0}}, "upweight has 1.0 for position -1"),
        ({"upweight": {"cat": 1.0}}, "upweight has 1.0 for position 'cat'"),
        ({"upweight": {1: math.nan}}, "upweight has nan for position 1"),
        ({"upweight": 5}, "upweight is 5; expected a mapping, as {5: 2.0}"),
        ({"upweight": {1: "2"}}, "upweight has '2' for position 1"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnergyBasedCrossAttention(**options)


@pytest.mark.parametrize("position", [77, 10_000])
def test_a_position_that_the_model_has_not(position: int) -> None:
    method = EnergyBasedCrossAttention(upweight={position: 2.0})
    with pytest.raises(ValueError, match=f"upweight is {position}; expected 0 to 76, the positions of this model"):
        run(CROWN, method, seeds=[0], steps=1)


# --- the energy that a trace shows ---


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sd", STRONG])
def test_the_traces_energy(method: Any) -> None:
    """Minus the logarithm of the sum of exp(scores), averaged over 16x16 sites, heads and pixels."""
    prompts, seeds = [CROWN, CAT], [0, 1, 2]
    trace = run(prompts, method, seeds=seeds, trace=True).trace
    assert trace is not None
    assert trace.energy.shape == (6, 2)
    assert trace.energy.dtype == torch.float32
    parts = run(prompts, method, seeds=seeds, trace=True, batch_size=4).trace
    assert parts is not None
    torch.testing.assert_close(parts.energy, trace.energy, rtol=1e-3, atol=1e-4)
    for sample, prompt in ((2, CROWN), (5, CAT)):
        assert trace.energy[sample, 0].item() == pytest.approx(energy(prompt, seeds[2], method), rel=1e-4)


@torch.no_grad()
def energy(prompt: str, seed: int, method: Any) -> float:
    """Of the first call."""
    means: list[float] = []

    def cross(layer: Any, name: str, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        q, k = x @ layer.to_q.weight.T, c @ layer.to_k.weight.T
        size = q.shape[1] // layer.heads
        if len(x) == 16 * 16:
            for h in range(layer.heads):
                part = slice(h * size, (h + 1) * size)
                means.append(-(q[:, part] @ k[:, part].T / math.sqrt(size)).exp().sum(1).log().mean().item())
        following = c if method == "sd" else moved(layer, x, c, 0.02, 0.3, [1.0] * 77)
        return out_of(layer, maps_of(layer, x, c), c), following

    plain_unet(cross)(noise(seed).double(), 501, model().encode_text([prompt]).double())
    assert len(means) == 2 * 3
    return sum(means) / len(means)
