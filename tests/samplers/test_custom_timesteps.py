"""Samplers at timesteps of one's own, from the middle of a run, and of another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import relative
from samplers_reference import SHAPE, derived, generators, noise, toy
from torch import Tensor

from ebama.samplers import DDIM, PNDM, NoiseSchedule, Sampler, get

UNEVEN = [999, 930, 610, 580, 40, 0]


@pytest.mark.parametrize("timesteps", [UNEVEN, [700], [801, 401], list(range(990, 0, -99))], ids=str)
def test_custom_timesteps_are_visited(timesteps: list[int]) -> None:
    z = noise(*SHAPE).double()
    assert DDIM.at(timesteps).timesteps == tuple(timesteps)
    assert PNDM.at(timesteps).timesteps == (*timesteps[:2], *timesteps[1:])
    assert relative(DDIM.at(timesteps).sample(toy, z), derived(z, timesteps, pndm=False)) < 1e-10
    assert relative(PNDM.at(timesteps).sample(toy, z), derived(z, timesteps)) < 1e-10


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_order_of_pndm(order: int, steps: int) -> None:
    z, sampler = noise(*SHAPE).double(), PNDM(steps, order=order)
    assert relative(sampler.sample(toy, z), derived(z, list(sampler.visited), order)) < 1e-10
    assert sampler == get("pndm", steps, order=order)


def test_the_order_is_four_unless_said() -> None:
    z = noise(*SHAPE)
    assert torch.equal(PNDM(20).sample(toy, z), PNDM(20, order=4).sample(toy, z))
    assert not torch.equal(PNDM(20).sample(toy, z), PNDM(20, order=2).sample(toy, z))
    for order in (0, 5, 2.5, "2", True, None):
        with pytest.raises(ValueError, match=rf"PNDM\.order is {order!r}; expected an integer from 1 to 4"):
            PNDM(20, order=order)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_trailing_timesteps(steps: int) -> None:
    z, visited = noise(*SHAPE).double(), NoiseSchedule().timesteps(steps, "trailing")
    pndm, ddim = PNDM(steps, spacing="trailing"), DDIM(steps, spacing="trailing")
    assert pndm.visited == ddim.visited == ddim.timesteps == visited
    assert relative(ddim.sample(toy, z), derived(z, list(visited), pndm=False)) < 1e-10
    assert relative(pndm.sample(toy, z), derived(z, list(visited))) < 1e-10
    assert pndm.starting_at(visited[-1]).visited == visited[-1:]
    assert get("pndm", steps, spacing="trailing") == pndm
    with pytest.raises(ValueError, match="spacing is 'even'; expected one of leading, trailing"):
        DDIM(steps, spacing="even")


@pytest.mark.parametrize(
    "sampler", [DDIM(10), DDIM(10, eta=1.0), DDIM.at(UNEVEN), DDIM(7, spacing="trailing")], ids=str
)
def test_a_run_goes_on_from_the_middle(sampler: Sampler) -> None:
    """The latent before any call, sampled from there with the rest of the random numbers, ends where the run ended."""
    before: list[tuple[Tensor, int, list[Tensor]]] = []
    drawn = generators(SHAPE[0])

    def look(z: Tensor, t: int, i: int) -> Tensor:
        before.append((z, t, [generator.get_state() for generator in drawn]))
        return z

    end = sampler.sample(toy, noise(*SHAPE), before_step=look, generators=drawn)
    for z, t, states in before:
        again = generators(SHAPE[0])
        for generator, state in zip(again, states, strict=True):
            generator.set_state(state)
        assert torch.equal(sampler.starting_at(t).sample(toy, z, generators=again), end)


def test_a_start_in_the_middle_of_pndm_makes_its_first_step_twice() -> None:
    rest = PNDM(50, order=3).starting_at(100)
    assert rest.timesteps == (81, 61, 61, 41, 21, 1)
    assert (rest.steps, rest.order) == (5, 3)
    z = noise(*SHAPE).double()
    assert relative(rest.sample(toy, z), derived(z, [81, 61, 41, 21, 1], 3)) < 1e-10


def test_a_picture_is_changed_from_a_noisy_latent() -> None:
    """With an estimate that knows the noise the clean latent comes back, whatever the start."""
    schedule, latent, n = NoiseSchedule(), noise(*SHAPE).double(), noise(*SHAPE, seed=1).double()
    for t in (981, 500, 1):
        rest = DDIM(50).starting_at(t)
        end = rest.sample(lambda z, t: n, schedule.add_noise(latent, n, rest.timesteps[0]))
        torch.testing.assert_close(end, schedule.add_noise(latent, n, 0))


@pytest.mark.parametrize("strength", [0.2, 0.75, 1.0])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_start_in_the_middle_is_diffusers_strength(strength: float, eta: float) -> None:
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    scheduler.set_timesteps(20)
    timesteps = scheduler.timesteps[20 - int(20 * strength) :]
    latent, n, drawn = noise(*SHAPE), noise(*SHAPE, seed=1), generators(SHAPE[0])
    rest = DDIM(20, eta).starting_at(int(timesteps[0]))
    assert rest.timesteps == tuple(timesteps.tolist())
    z = rest.schedule.add_noise(latent, n, rest.timesteps[0])
    expected = scheduler.add_noise(latent, n, timesteps[:1])
    torch.testing.assert_close(z, expected)
    for t in timesteps.tolist():
        more = torch.stack([torch.randn(SHAPE[1:], generator=g) for g in drawn]) if eta else None
        expected = scheduler.step(toy(expected, t), t, expected, eta=eta, variance_noise=more).prev_sample
    assert relative(rest.sample(toy, z, generators=generators(SHAPE[0])), expected) < 1e-4


def test_a_sampler_starts_again_where_it_starts() -> None:
    assert DDIM(50).starting_at(999).timesteps == DDIM(50).timesteps
    with pytest.raises(ValueError, match="Nothing is left to sample from timestep 0; the last one is 1"):
        DDIM(50).starting_at(0)


@pytest.mark.parametrize("kind", [DDIM, PNDM])
@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        ([], "steps is 0; expected an integer from 1"),
        ([1000, 3], "custom_timesteps holds 1000; expected integers that fall, from at most 999 to at least 0"),
        ([500, 500], "holds 500"),
        ([3, 500], "holds 500"),
        ([500, -1], "holds -1"),
        ([500.5, 3], r"holds 500\.5; .*takes fractional ones"),
        ([True], "holds True"),
        (["5"], "holds '5'"),
    ],
)
def test_timesteps_that_cannot_be_visited_are_refused(kind: type[DDIM | PNDM], timesteps: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind.at(timesteps)


def test_steps_and_timesteps_must_agree() -> None:
    with pytest.raises(ValueError, match=r"2 timesteps for steps = 50; DDIM\.at\(timesteps\) counts them"):
        DDIM(custom_timesteps=(500, 3))


def test_timesteps_of_other_libraries_are_plain_numbers() -> None:
    for given in (np.array([900, 20]), torch.tensor([900, 20])):
        sampler = DDIM.at(given)
        assert sampler == DDIM.at([900, 20])
        assert [type(t) for t in sampler.timesteps] == [int, int]
