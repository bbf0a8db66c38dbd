"""Numbers, arrays and lists of other libraries in samplers and schedules."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ebama.samplers import DDIM, PNDM, NoiseSchedule, Sampler

SCHEDULE = NoiseSchedule()
Z = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))


def toy(z: Tensor, t: int) -> Tensor:
    return z * 0.1


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (1, 2)]


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        *((lambda v=v: DDIM(4, eta=v), DDIM(4, eta=0.5)) for v in (np.float32(0.5), torch.tensor(0.5), Fraction(1, 2))),
        *((lambda v=v: PNDM(v, order=v), PNDM(2, order=2)) for v in (np.int64(2), torch.tensor(2), np.array(2))),
        *(
            (
                lambda cast=cast: DDIM(4, schedule=NoiseSchedule(cast(8), cast(0.25), cast(0.5), "linear")),
                DDIM(4, schedule=NoiseSchedule(8, 0.25, 0.5, "linear")),
            )
            for cast in (np.asarray, torch.tensor)
        ),
        *(
            (
                lambda table=table: DDIM(2, schedule=NoiseSchedule(2, kind="table", table=table)),
                DDIM(2, schedule=NoiseSchedule(2, kind="table", table=(0.5, 0.25))),
            )
            for table in (np.array([0.5, 0.25]), torch.tensor([0.5, 0.25]), [0.5, np.float16(0.25)])
        ),
        *(
            (lambda given=given: PNDM.at(given()), PNDM.at([900, 50]))
            for given in (lambda: iter([900, 50]), lambda: map(int, ("900", "50")), lambda: [torch.tensor(900), 50])
        ),
        (lambda: DDIM(2, custom_timesteps=(t for t in (9, 5))), DDIM(2, custom_timesteps=(9, 5))),  # type: ignore[arg-type]
        (lambda: DDIM(4).last(torch.tensor(0.5)), DDIM(4).last(0.5)),  # type: ignore[arg-type]
        (lambda: DDIM(4).starting_at(np.int64(600)), DDIM(4).starting_at(600)),  # type: ignore[arg-type]
    ],
)
def test_a_sampler_holds_pythons_numbers(make: Callable[[], Sampler], plain: Sampler) -> None:
    made = make()
    assert made == plain
    assert hash(made) == hash(plain)
    assert json.dumps(asdict(made)) == json.dumps(asdict(plain))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda v=v: DDIM(4, eta=v), r"DDIM\.eta is") for v in ("0.5", None, [0.5], 2)),
        *((lambda v=v: DDIM(4, schedule=v), "expected a NoiseSchedule") for v in ("linear", None, 3)),
        *((lambda v=v: DDIM.at(v), "expected a list") for v in (900, None, "95", torch.tensor(900))),
        *((lambda v=v: NoiseSchedule(beta_start=v), "betas run from") for v in ("1", None, [0.1])),
        *((lambda v=v: DDIM(4).starting_at(v), "expected a number") for v in (None, "601")),
        *((lambda v=v: DDIM(4).last(v), "expected a number") for v in (None, "0.5", [0.5])),
        (lambda: SCHEDULE.alpha(torch.tensor([True, False])), "expected numbers"),
        (lambda: SCHEDULE.alpha(np.array([True, False])), "expected numbers"),
    ],
)
def test_other_values_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "t", [np.array([5, 6]), [5, 6], (5, 6), torch.tensor([5, 6], dtype=torch.uint8), np.array([5.5, 6]), [5.5, 6]]
)
def test_several_timesteps_of_any_library_are_taken_as_a_tensor_is(t: Any) -> None:
    listed = t if isinstance(t, list | tuple) else t.tolist()
    tensor = torch.tensor(listed, dtype=torch.float64 if 5.5 in listed else None)
    assert SCHEDULE.alpha(t).equal(SCHEDULE.alpha(tensor))
    assert SCHEDULE.sigma(t).equal(SCHEDULE.sigma(tensor))
    assert SCHEDULE.add_noise(Z, Z, t).equal(SCHEDULE.add_noise(Z, Z, tensor))
    assert SCHEDULE.step(Z, Z, t, 3).equal(SCHEDULE.step(Z, Z, tensor, 3))
    assert SCHEDULE.timestep(t).equal(SCHEDULE.timestep(tensor))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("as_given", [list, lambda table: np.asarray(table.double()).astype(np.float16)])
def test_a_rounded_table_is_the_schedule_that_was_rounded(
    dtype: torch.dtype, as_given: Callable[[Tensor], Any]
) -> None:
    for schedule in (SCHEDULE, NoiseSchedule(beta_start=0.0001, beta_end=0.02, kind="linear")):
        table = schedule.alphas_cumprod.to(torch.float16 if as_given is not list else dtype)
        assert NoiseSchedule.of(as_given(table)) == NoiseSchedule.of(table)


def test_generators_may_come_from_an_iterator_and_nothing_else_serves() -> None:
    sampler = DDIM(3, eta=1.0)
    expected = sampler.sample(toy, Z, generators=generators())
    for given in (iter(generators()), (one for one in generators()), dict(enumerate(generators())).values()):
        assert sampler.sample(toy, Z, generators=given).equal(expected)
    for wrong in (generators()[0], [0, 1], generators()[:1], None):
        with pytest.raises(ValueError, match=r"one CPU torch\.Generator per sample"):
            sampler.sample(toy, Z, generators=wrong)  # type: ignore[arg-type]


def test_latents_stay_in_their_floating_point() -> None:
    assert DDIM(3).sample(toy, Z, before_step=lambda z, t, i: z.double()).dtype == Z.dtype
    wrong: list[Callable[[], object]] = [
        lambda: DDIM(3).sample(toy, Z, before_step=lambda z, t, i: z.int()),
        lambda: DDIM(3).invert(toy, Z.long()),
        lambda: DDIM(3).invert(toy, Z.numpy()),  # type: ignore[arg-type]
        lambda: PNDM(3).sample(toy, Z.numpy()),  # type: ignore[arg-type]
    ]
    for run in wrong:
        with pytest.raises(ValueError, match="expected floating point"):
            run()
