"""DDIM backwards: its steps undone, nearer with every round; the last part of a sampler's way."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from reference import relative
from torch import Tensor

from ebama.samplers import DDIM, PNDM, NoiseSchedule, Sampler

V = NoiseSchedule(prediction="v")
Z = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))


def smooth(z: Tensor, t: int) -> Tensor:
    """A network that is no constant: what it returns depends on z and t."""
    return torch.tanh(z * (0.3 + t / 2000)) / 2 + 0.1


@pytest.mark.parametrize("rest", [DDIM(5), DDIM(5).starting_at(401), DDIM.at((800, 90, 0))], ids=str)
def test_noise_that_depends_on_time_alone_is_undone_exactly(rest: DDIM) -> None:
    path = rest.invert(lambda z, t: torch.full_like(z, t / 1000), Z)
    assert len(path) == rest.steps + 1
    assert torch.equal(path[-1], Z)
    seen: list[Tensor] = []
    back = rest.sample(
        lambda z, t: torch.full_like(z, t / 1000), path[0], before_step=lambda z, t, i: seen.append(z) or z
    )
    for before, expected in zip([*seen, back], path, strict=True):
        assert relative(before, expected) <= 1e-6


@pytest.mark.parametrize("schedule", [NoiseSchedule(), V, NoiseSchedule(kind="cosine")], ids=lambda s: s.prediction)
def test_every_round_comes_nearer(schedule: NoiseSchedule) -> None:
    sampler = DDIM(4, schedule=schedule)
    errors = [
        relative(sampler.sample(smooth, sampler.invert(smooth, Z.double(), rounds=rounds)[0]), Z.double())
        for rounds in (1, 2, 4, 60)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-10


def test_a_round_asks_at_the_noisier_end_for_what_was_found_there() -> None:
    """Both predictions, written out for one step from abar_0 to t."""
    t, a = 500, NoiseSchedule().alpha(500)
    clean = NoiseSchedule().alpha(0)
    for schedule in (NoiseSchedule(), V):
        expected = Z
        for _ in range(2):
            noise = smooth(expected, t)
            if schedule is V:
                noise = math.sqrt(a) * noise + math.sqrt(1 - a) * expected
            signal = (Z - math.sqrt(1 - clean) * noise) / math.sqrt(clean)
            expected = math.sqrt(a) * signal + math.sqrt(1 - a) * noise
        found = DDIM.at((t,), schedule=schedule).invert(smooth, Z, rounds=2)
        assert relative(found[0], expected) <= 1e-5


def test_samples_dtypes_and_progress_are_those_of_sampling() -> None:
    told: list[tuple[int, ...]] = []
    sampler = DDIM(3)
    half = sampler.invert(smooth, Z.half(), progress=lambda calls: told.append(tuple(calls)) or calls)
    assert {z.dtype for z in half} == {torch.float16}
    assert told == [sampler.timesteps[::-1]]
    for k in range(2):
        assert torch.equal(sampler.invert(smooth, Z[k : k + 1])[0], sampler.invert(smooth, Z)[0][k : k + 1])


def test_what_cannot_be_inverted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eta is 0\.5; only eta = 0"):
        DDIM(3, eta=0.5).invert(smooth, Z)
    for rounds in (0, 1.5, True):
        with pytest.raises(ValueError, match="rounds is"):
            DDIM(3).invert(smooth, Z, rounds=rounds)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="denoise returned"):
        DDIM(3).invert(lambda z, t: z[:1], Z)


# --- the last part of a way ---


@pytest.mark.parametrize(("share", "steps"), [(1, 10), (0.8, 8), (0.58, 6), (0.05, None), (0.06, 1), (1e-9, None)])
@pytest.mark.parametrize("sampler", [DDIM(10), PNDM(10, order=2), DDIM.at(range(90, -10, -10))], ids=str)
def test_the_last_part(sampler: Sampler, share: float, steps: int | None) -> None:
    if steps is None:
        with pytest.raises(ValueError, match=r"expected a share from 0\.1 to 1"):
            sampler.last(share)
        return
    rest = sampler.last(share)
    assert rest.visited == sampler.visited[-steps:]
    assert replace(rest, steps=10, custom_timesteps=sampler.custom_timesteps) == sampler  # the same but for the way


@pytest.mark.parametrize("share", [0, -1, 1.01, math.nan, math.inf])
def test_no_part(share: float) -> None:
    with pytest.raises(ValueError, match="expected a share from"):
        DDIM(10).last(share)
