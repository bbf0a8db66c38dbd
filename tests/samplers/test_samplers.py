"""Samplers against diffusers, against a float64 re-derivation in plain loops, and their contract with callers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import FrozenInstanceError

import pytest
import torch
from reference import relative
from samplers_reference import SHAPE, abar, derived, generators, noise, toy
from torch import Tensor

from ebama.samplers import DDIM, PNDM, NoiseSchedule, Sampler, get, names

STEPS = (1, 2, 3, 10, 20, 30, 50)


# --- an independent derivation: Python floats, the textbook forms, no tables shared with the code under test ---


def derived_ddim(z: Tensor, steps: int, eta: float, draws: Callable[[], Tensor]) -> Tensor:
    z, stride = z.double(), 1000 // steps
    for i in range(steps - 1, -1, -1):
        t = i * stride + 1
        a, b = abar(t), abar(t - stride)
        e = toy(z, t)
        clean = (z - math.sqrt(1 - a) * e) / math.sqrt(a)
        sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
        z = math.sqrt(b) * clean + math.sqrt(1 - b - sigma * sigma) * e
        if eta:
            z = z + sigma * draws()
    return z


# --- the schedule ---


def test_alphas_are_those_of_stable_diffusion() -> None:
    alphas = NoiseSchedule().alphas_cumprod
    assert alphas.shape == (1000,)
    assert alphas.dtype == torch.float64
    published = {0: 0.99915, 1: 0.998296028, 21: 0.980380748, 481: 0.302295661, 961: 0.007281727, 999: 0.004660099}
    for t, value in published.items():
        assert float(alphas[t]) == pytest.approx(value, abs=5e-10)
        assert float(alphas[t]) == pytest.approx(abar(t), rel=1e-12)


@pytest.mark.parametrize(
    ("steps", "ddim", "pndm"),
    [
        (1, [1], [1]),
        (2, [501, 1], [501, 1, 1]),
        (3, [667, 334, 1], [667, 334, 334, 1]),
        (50, list(range(981, 0, -20)), [981, 961, *range(961, 0, -20)]),
        (400, list(range(799, 0, -2)), [799, 797, *range(797, 0, -2)]),
        (999, list(range(999, 0, -1)), [999, 998, *range(998, 0, -1)]),
        (1000, list(range(999, -1, -1)), [999, 998, *range(998, -1, -1)]),
    ],
)
def test_timesteps(steps: int, ddim: list[int], pndm: list[int]) -> None:
    assert list(DDIM(steps).timesteps) == ddim
    assert list(PNDM(steps).timesteps) == pndm


def test_add_noise() -> None:
    x, n = noise(3, 2, 2, 2), noise(3, 2, 2, 2, seed=1)
    t = torch.tensor([0, 500, 999])
    mixed = NoiseSchedule().add_noise(x, n, t)
    assert mixed.dtype == torch.float32
    for i, each in enumerate(t.tolist()):
        expected = math.sqrt(abar(each)) * x[i] + math.sqrt(1 - abar(each)) * n[i]
        torch.testing.assert_close(mixed[i], expected)
        torch.testing.assert_close(NoiseSchedule().add_noise(x, n, each)[i], expected)


def test_past_the_last_timestep_is_the_cleanest() -> None:
    x, n = noise(2, 3), noise(2, 3, seed=1)
    assert torch.equal(NoiseSchedule().add_noise(x, n, -1), NoiseSchedule().add_noise(x, n, 0))


def test_schedule_made_in_inference_mode_serves_training() -> None:
    schedule = NoiseSchedule()
    x = noise(2, 3).requires_grad_()
    with torch.inference_mode():
        assert len(schedule.alphas_cumprod) == 1000
    schedule.add_noise(x, noise(2, 3, seed=1), 500).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full((2, 3), math.sqrt(abar(500))))


# --- trajectories ---


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_equals_its_derivation(steps: int, eta: float) -> None:
    z = noise(*SHAPE)
    own = generators(len(z))

    def draws() -> Tensor:
        return torch.stack([torch.randn(SHAPE[1:], generator=g) for g in own]).double()

    expected = derived_ddim(z, steps, eta, draws)
    actual = DDIM(steps, eta).sample(toy, z.double(), generators=generators(len(z)))
    assert relative(actual, expected) < 1e-10


@pytest.mark.parametrize("steps", STEPS)
def test_pndm_equals_its_derivation(steps: int) -> None:
    z = noise(*SHAPE)
    expected = derived(z, [i * (1000 // steps) + 1 for i in reversed(range(steps))])
    assert relative(PNDM(steps).sample(toy, z.double()), expected) < 1e-10
    assert relative(PNDM(steps).sample(toy, z), expected) < 1e-5


STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


predictions = pytest.mark.parametrize(
    ("schedule", "theirs"), [(NoiseSchedule(), "epsilon"), (NoiseSchedule(prediction="v"), "v_prediction")]
)


@predictions
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_equals_diffusers(steps: int, eta: float, schedule: NoiseSchedule, theirs: str) -> None:
    reference = pytest.importorskip("diffusers").DDIMScheduler(
        clip_sample=False, prediction_type=theirs, **STABLE_DIFFUSION
    )
    reference.set_timesteps(steps)
    z, own = noise(*SHAPE), generators(SHAPE[0])
    assert tuple(reference.timesteps.tolist()) == DDIM(steps).timesteps
    expected = z
    for t in reference.timesteps.tolist():
        drawn = torch.stack([torch.randn(SHAPE[1:], generator=g) for g in own]) if eta else None
        expected = reference.step(toy(expected, t), t, expected, eta=eta, variance_noise=drawn).prev_sample
    actual = DDIM(steps, eta, schedule=schedule).sample(toy, z, generators=generators(SHAPE[0]))
    assert relative(actual, expected) < 1e-4


@pytest.mark.parametrize("steps", STEPS)
def test_ddim_inverts_as_diffusers_does(steps: int) -> None:
    reference = pytest.importorskip("diffusers").DDIMInverseScheduler(clip_sample=False, **STABLE_DIFFUSION)
    reference.set_timesteps(steps)
    z = expected = noise(*SHAPE)
    for t in reference.timesteps.tolist():
        expected = reference.step(toy(expected, t), t, expected).prev_sample
    assert relative(DDIM(steps).invert(toy, z)[0], expected) < 1e-4


@predictions
@pytest.mark.parametrize("steps", STEPS)
def test_pndm_equals_diffusers(steps: int, schedule: NoiseSchedule, theirs: str) -> None:
    reference = pytest.importorskip("diffusers").PNDMScheduler(
        skip_prk_steps=True, prediction_type=theirs, **STABLE_DIFFUSION
    )
    reference.set_timesteps(steps)
    assert tuple(reference.timesteps.tolist()) == PNDM(steps).timesteps
    z = noise(*SHAPE)
    expected = z
    for t in reference.timesteps.tolist():
        expected = reference.step(toy(expected, t), t, expected).prev_sample
    assert relative(PNDM(steps, schedule=schedule).sample(toy, z), expected) < 1e-4


@pytest.mark.parametrize("sampler", [DDIM(1000), DDIM(1000, eta=1.0), PNDM(1000)])
def test_every_timestep_can_be_visited(sampler: Sampler) -> None:
    seen: list[int] = []

    def counted(z: Tensor, t: int) -> Tensor:
        seen.append(t)
        return z / 10

    final = sampler.sample(counted, noise(1, 4), generators=generators(1))
    assert tuple(seen) == sampler.timesteps
    assert final.isfinite().all()


# --- before_step ---


@pytest.mark.parametrize(("sampler", "calls"), [(PNDM(50), 51), (DDIM(50), 50)])
def test_before_step_comes_right_before_each_model_call(sampler: Sampler, calls: int) -> None:
    events: list[tuple[str, int]] = []
    marked: list[Tensor] = []

    def before_step(z: Tensor, t: int, i: int) -> Tensor:
        events.append(("before", t))
        assert i == len(marked)
        marked.append(z + 0.01 * i)
        return marked[-1]

    def denoise(z: Tensor, t: int) -> Tensor:
        events.append(("call", t))
        assert type(t) is int
        assert z is marked[-1]
        return toy(z, t)

    sampler.sample(denoise, noise(1, 4), before_step=before_step)
    assert len(marked) == calls
    assert events == [(kind, t) for t in sampler.timesteps for kind in ("before", "call")]


@pytest.mark.parametrize("i", [0, 1, 2, 3, 10, 50])
def test_what_pndm_keeps_of_an_update(i: int) -> None:
    """With estimates that ignore the latent, an update of call i reaches the end scaled, or at i = 1 not at all."""
    sampler, z, shift = PNDM(50), noise(1, 4).double(), noise(1, 4, seed=1).double()

    def blind(z: Tensor, t: int) -> Tensor:
        return torch.full_like(z, t / 1000)

    plain = sampler.sample(blind, z)
    moved = sampler.sample(blind, z, before_step=lambda z, t, j: z + shift if j == i else z)
    expected = 0 * shift if i == 1 else shift * math.sqrt(abar(0) / abar(sampler.timesteps[i]))
    torch.testing.assert_close(moved - plain, expected, rtol=1e-10, atol=1e-10)


def test_an_update_at_call_1_changes_the_noise_estimate() -> None:
    """The result is that of the first step made from the kept latent with (e0 + e1) / 2, e1 seeing the update."""
    z, shift = noise(1, 4).double(), noise(1, 4, seed=1).double()
    seen: list[Tensor] = []

    def denoise(z: Tensor, t: int) -> Tensor:
        seen.append(z)
        return toy(z, t)

    PNDM(50).sample(denoise, z, before_step=lambda z, t, i: z + shift if i == 1 else z)
    a, b = abar(981), abar(961)
    e = (toy(z, 981) + toy(seen[1], 961)) / 2
    expected = math.sqrt(b) * (z - math.sqrt(1 - a) * e) / math.sqrt(a) + math.sqrt(1 - b) * e
    torch.testing.assert_close(seen[2], expected, rtol=1e-10, atol=1e-10)
    ahead = math.sqrt(b) * (z - math.sqrt(1 - a) * toy(z, 981)) / math.sqrt(a) + math.sqrt(1 - b) * toy(z, 981)
    torch.testing.assert_close(seen[1], ahead + shift, rtol=1e-10, atol=1e-10)


# --- the contract ---


@pytest.mark.parametrize("sampler", [PNDM(7), DDIM(7), DDIM(7, eta=1.0)])
def test_a_batch_equals_one_by_one(sampler: Sampler) -> None:
    z = noise(*SHAPE)
    batch = sampler.sample(toy, z, generators=generators(3))
    for i, generator in enumerate(generators(3)):
        assert torch.equal(sampler.sample(toy, z[i : i + 1], generators=[generator])[0], batch[i])


@pytest.mark.parametrize("sampler", [PNDM(7), DDIM(7)])
def test_a_sampler_keeps_no_state_between_or_during_runs(sampler: Sampler) -> None:
    z, other = noise(*SHAPE), noise(*SHAPE, seed=5)
    alone = sampler.sample(toy, z)

    def interrupted(z: Tensor, t: int) -> Tensor:
        sampler.sample(toy, other)
        return toy(z, t)

    assert torch.equal(sampler.sample(interrupted, z), alone)
    with pytest.raises(FrozenInstanceError):
        sampler.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("sampler", [PNDM(20), DDIM(20), DDIM(20, eta=1.0)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2)])
def test_half_precision_in_and_out(sampler: Sampler, dtype: torch.dtype, tolerance: float) -> None:
    def denoise(z: Tensor, t: int) -> Tensor:
        assert z.dtype == dtype
        return toy(z, t)

    z = noise(*SHAPE).to(dtype)
    final = sampler.sample(denoise, z, generators=generators(3))
    assert final.dtype == dtype
    assert relative(final, sampler.sample(toy, z.double(), generators=generators(3))) < tolerance


def test_half_precision_steps_are_computed_in_float32() -> None:
    """55 * 2000 overflows float16; in float32 it is harmless."""
    z = torch.ones(1, 4, dtype=torch.float16)
    final = PNDM(50).sample(lambda z, t: torch.full_like(z, 2000 if t < 100 else 0), z)
    assert final.isfinite().all()


def test_gradients_flow_through_sampling() -> None:
    z = noise(2, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: PNDM(4).sample(toy, z), z)
    assert torch.autograd.gradcheck(lambda z: DDIM(4).sample(toy, z), z)


@pytest.mark.parametrize("sampler", [PNDM(5), DDIM(5)])
def test_progress_wraps_the_timesteps(sampler: Sampler) -> None:
    given: list[Sequence[int]] = []

    def progress(calls: Sequence[int]) -> Iterable[int]:
        given.append(calls)
        return iter(calls)

    z = noise(1, 4)
    assert torch.equal(sampler.sample(toy, z, progress=progress), sampler.sample(toy, z))
    assert given == [sampler.timesteps]


def test_ddim_noise_needs_one_generator_per_sample() -> None:
    z = noise(*SHAPE)
    with pytest.raises(ValueError, match=r"eta = 1\.0 got 0 generators for 3 samples; pass generators"):
        DDIM(3, eta=1.0).sample(toy, z)
    with pytest.raises(ValueError, match="got 2 generators for 3 samples"):
        DDIM(3, eta=1.0).sample(toy, z, generators=generators(2))


def test_ddim_without_noise_leaves_generators_alone() -> None:
    (generator,) = generators(1)
    before = generator.get_state()
    DDIM(3).sample(toy, noise(1, 4), generators=[generator])
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("sampler", [PNDM(3), DDIM(3)])
def test_estimates_of_another_shape_are_refused(sampler: Sampler) -> None:
    with pytest.raises(ValueError, match=r"denoise returned \[1, 4\] at timestep 667; expected .* \[2, 4\]"):
        sampler.sample(lambda z, t: z[:1], noise(2, 4))


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, "50", True, None])
@pytest.mark.parametrize("kind", [DDIM, PNDM])
def test_steps_out_of_range_are_refused(kind: Callable[..., Sampler], steps: object) -> None:
    with pytest.raises(ValueError, match=f"steps is {steps!r}; expected an integer from 1 to 1000"):
        kind(steps)


@pytest.mark.parametrize("eta", [-0.1, 1.5, math.nan])
def test_eta_out_of_range_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=f"eta is {eta}; expected a number from 0"):
        DDIM(50, eta)


@pytest.mark.parametrize(
    "arguments", [{"train_steps": 0}, {"beta_start": 0.0}, {"beta_start": 0.02}, {"beta_end": 1.0}]
)
def test_impossible_schedules_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        NoiseSchedule(**arguments)  # type: ignore[arg-type]


def test_samplers_by_name() -> None:
    assert names() == ("pndm", "ddim")
    assert get("pndm", 20) == PNDM(20)
    assert get("ddim") == DDIM(50)
    assert get("ddim", 4, eta=0.5) == DDIM(4, eta=0.5)
    with pytest.raises(
        ValueError, match="Sampler 'pndm' has no eta; it has custom_timesteps, order, schedule, spacing, steps"
    ):
        get("pndm", 4, eta=0.5)
    with pytest.raises(ValueError, match="sampler is 'euler'; expected one of pndm, ddim"):
        get("euler")
    with pytest.raises(ValueError, match="steps is 0"):
        get("ddim", 0)


def test_the_same_sampler_for_another_prediction() -> None:
    sampler = DDIM(7, eta=0.5, schedule=NoiseSchedule(300, kind="cosine")).starting_at(200)
    other = sampler.predicting("v")
    assert other.schedule == NoiseSchedule(300, kind="cosine", prediction="v")
    assert (other.timesteps, other.eta) == (sampler.timesteps, 0.5)
    assert other.predicting("epsilon") == sampler
    assert sampler.predicting("epsilon") is sampler
    with pytest.raises(ValueError, match=r"prediction is 'x0'"):
        sampler.predicting("x0")
