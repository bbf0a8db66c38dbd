"""Noise schedules by name and from a table: plain formulas, diffusers' schedulers, sigmas both ways, refusals."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from samplers_reference import noise
from torch import Tensor

from ebama.samplers import NoiseSchedule

LINEAR = NoiseSchedule(kind="linear", beta_start=0.0001, beta_end=0.02)
SCHEDULES = {
    "stable diffusion": NoiseSchedule(),
    "short": NoiseSchedule(40),
    "linear": LINEAR,
    "cosine": NoiseSchedule(kind="cosine"),
    "table": NoiseSchedule.of([0.99, 0.7, 0.5, 0.49, 0.1, 0.001]),
}


def betas(kind: str, train_steps: int, start: float, end: float) -> list[float]:
    """Plain formulas in Python's numbers."""

    def cosine(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    def between(first: float, last: float, t: int) -> float:
        return first + (last - first) * t / (train_steps - 1)

    if kind == "linear":
        return [between(start, end, t) for t in range(train_steps)]
    if kind == "scaled_linear":
        return [between(math.sqrt(start), math.sqrt(end), t) ** 2 for t in range(train_steps)]
    return [min(1 - cosine((t + 1) / train_steps) / cosine(t / train_steps), 0.999) for t in range(train_steps)]


NAMED = [
    ("scaled_linear", (0.00085, 0.012)),
    ("scaled_linear", (0.0015, 0.0195)),
    ("linear", (0.0001, 0.02)),
    ("cosine", (0.00085, 0.012)),
]


@pytest.mark.parametrize(("kind", "ends"), NAMED)
@pytest.mark.parametrize("train_steps", [1000, 250])
def test_a_named_schedule_is_its_formula(kind: str, ends: tuple[float, float], train_steps: int) -> None:
    schedule = NoiseSchedule(train_steps, *ends, kind=kind)
    product, expected = 1.0, []
    for beta in betas(kind, train_steps, *ends):
        product *= 1 - beta
        expected.append(product)
    torch.testing.assert_close(schedule.alphas_cumprod, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "ends"), NAMED)
@pytest.mark.parametrize("train_steps", [1000, 250])
def test_a_named_schedule_is_that_of_diffusers(kind: str, ends: tuple[float, float], train_steps: int) -> None:
    schedule = NoiseSchedule(train_steps, *ends, kind=kind)
    theirs = "squaredcos_cap_v2" if kind == "cosine" else kind
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(train_steps, *ends, beta_schedule=theirs)
    assert NoiseSchedule.of(scheduler.alphas_cumprod).train_steps == train_steps
    torch.testing.assert_close(schedule.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-6)


# --- which timesteps ---


@pytest.mark.parametrize("steps", [*range(1, 61), 96, 112, 250, 333, 999, 1000])
def test_trailing_timesteps_are_those_of_diffusers(steps: int) -> None:
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(1000, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    timesteps = NoiseSchedule().timesteps(steps, "trailing")
    assert list(timesteps) == scheduler.timesteps.tolist()
    assert (timesteps[0], len(timesteps)) == (999, steps)


@pytest.mark.parametrize(
    ("train_steps", "steps", "expected"), [(1, 1, [0]), (10, 3, [9, 6, 2]), (7, 7, [*range(7)][::-1])]
)
def test_trailing_timesteps_begin_at_the_noisiest(train_steps: int, steps: int, expected: list[int]) -> None:
    assert list(NoiseSchedule(train_steps).timesteps(steps, "trailing")) == expected


def test_an_unknown_spacing_is_refused() -> None:
    for spacing in ("Trailing", "", None, 3):
        with pytest.raises(ValueError, match=rf"spacing is {spacing!r}; expected one of leading, trailing"):
            NoiseSchedule().timesteps(20, spacing)  # type: ignore[arg-type]


# --- a table ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["stable diffusion", "short", "linear", "cosine"])
def test_the_table_of_a_named_schedule_is_that_schedule(name: str, dtype: torch.dtype) -> None:
    assert NoiseSchedule.of(SCHEDULES[name].alphas_cumprod.to(dtype)) == SCHEDULES[name]


def test_any_other_table_is_taken_as_it_is() -> None:
    values = [0.99, 0.7, 0.5, 0.001]
    for given in (values, torch.tensor(values, dtype=torch.float64), torch.tensor(values).double().numpy()):
        schedule = NoiseSchedule.of(given)
        assert schedule.train_steps == 4
        torch.testing.assert_close(
            schedule.alphas_cumprod, torch.tensor(values, dtype=torch.float64), rtol=0, atol=3e-8
        )
    assert NoiseSchedule.of(values) == NoiseSchedule.of(tuple(values)) != NoiseSchedule.of(values[:3])
    assert hash(NoiseSchedule.of(values)) == hash(NoiseSchedule.of(tuple(values)))
    near = NoiseSchedule(beta_start=0.00085, beta_end=0.0121, kind="scaled_linear")
    assert NoiseSchedule.of(near.alphas_cumprod.float()).kind == "table"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([1.0, 0.5], r"alphas_cumprod\[0\] is 1\.0 .*fall from below 1"),
        ([0.9, 0.5, 0.0], r"alphas_cumprod\[2\] is 0\.0 .*stay above 0"),
        ([0.5, 0.9], r"alphas_cumprod\[0\] is 0\.5 between 1\.0 and 0\.9"),
        ([0.9, 0.9], r"alphas_cumprod\[0\] is 0\.9"),
        ([0.9, math.nan], r"alphas_cumprod\[0\] is 0\.9 between 1\.0 and nan"),
        ([], r"shape \[0\]; expected numbers \[train_steps\]"),
        (torch.rand(2, 3), r"shape \[2, 3\]"),
        (torch.arange(3), r"dtype torch\.int64"),
        *((nothing, r"shape \[0\]; expected numbers") for nothing in (None, 5)),
    ],
)
def test_a_table_that_is_none_is_refused(table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseSchedule.of(table)


# --- what kind it is must be said ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"beta_start": 0.0001, "beta_end": 0.02},
            "kind is '', betas run from 0.0001 to 0.02; .*scaled_linear, linear",
        ),
        ({"beta_end": 0.02}, "kind is '', betas run from 0.00085 to 0.02"),
        ({"train_steps": 0.0001, "beta_start": 0.02}, r"train_steps is 0\.0001; .*with their kind"),
        ({"kind": "squared"}, "kind is 'squared'.*expected the kind to be one of scaled_linear, linear, cosine"),
        ({"kind": "cosine", "beta_end": 0.02}, "kind 'cosine' has no betas to choose"),
        ({"kind": "table"}, "table has 0 values; expected 1000"),
        ({"kind": "linear", "table": (0.5,)}, "table has 1 values; expected 0"),
        ({"table": (0.5,), "train_steps": 1}, "kind is ''"),
        *(
            ({"kind": kind, "beta_start": 0.999, "beta_end": 0.999}, "leaves no signal at all; expected smaller ones")
            for kind in ("linear", "scaled_linear")
        ),
        *(({"kind": "table", "train_steps": 3, "table": t}, "table is .*; expected numbers") for t in ("abc", None, 5)),
    ],
)
def test_a_schedule_whose_kind_is_not_plain_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(**arguments)


# --- sigmas ---


@pytest.mark.parametrize("name", SCHEDULES)
def test_sigma_and_timestep_are_inverse_and_rise(name: str) -> None:
    schedule = SCHEDULES[name]
    t = torch.linspace(0, schedule.train_steps - 1, 301, dtype=torch.float64)
    sigma = schedule.sigma(t)
    assert (sigma.diff() > 0).all()
    torch.testing.assert_close(schedule.timestep(sigma), t, rtol=1e-9, atol=1e-6)
    whole = torch.arange(schedule.train_steps)
    expected = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()
    torch.testing.assert_close(schedule.sigma(whole), expected.float())
    torch.testing.assert_close(schedule.sigma(whole.double()), expected)
    assert schedule.sigma(2) == pytest.approx(float(expected[2]), rel=1e-12)
    assert schedule.timestep(schedule.sigma(2.25)) == pytest.approx(2.25, abs=1e-6)


def test_between_timesteps_log_sigma_runs_straight() -> None:
    schedule = NoiseSchedule()
    low, high = math.log(schedule.sigma(500)), math.log(schedule.sigma(501))
    for part in (0.0, 0.25, 0.9):
        assert math.log(schedule.sigma(500 + part)) == pytest.approx(low + part * (high - low), rel=1e-12)
        assert schedule.alpha(500 + part) == pytest.approx(1 / (1 + schedule.sigma(500 + part) ** 2), rel=1e-12)


def test_a_sigma_beyond_the_ends_is_the_end() -> None:
    schedule = NoiseSchedule()
    assert schedule.timestep(0) == schedule.timestep(0.01) == 0
    assert schedule.timestep(15) == schedule.timestep(math.inf) == 999
    assert schedule.timestep(torch.tensor([0.0, 1e9])).tolist() == [0, 999]
    assert NoiseSchedule.of([0.5]).timestep(3.0) == 0
    for sigma in (-1, math.nan, torch.tensor([1.0, -0.5])):
        with pytest.raises(ValueError, match=r"sigma is .*; expected 0 or more"):
            schedule.timestep(sigma)


@pytest.mark.parametrize("t", [None, "5", b"5", True, object()])
def test_a_timestep_that_is_no_number_is_refused(t: Any) -> None:
    for call in (NoiseSchedule().alpha, NoiseSchedule().sigma, NoiseSchedule().timestep):
        with pytest.raises(ValueError, match="expected a number"):
            call(t)


@pytest.mark.parametrize("t", [1000, 999.5, torch.tensor([3, 1000]), torch.tensor(math.nan), math.nan])
def test_a_timestep_beyond_the_schedule_is_refused(t: Any) -> None:
    with pytest.raises(ValueError, match=r"t is .*; expected at most 999"):
        NoiseSchedule().alpha(t)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.float32, torch.float64])
def test_tensors_keep_their_precision_but_no_half(dtype: torch.dtype) -> None:
    t = torch.tensor([3, 500], dtype=dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert NoiseSchedule().sigma(t).dtype == NoiseSchedule().timestep(t).dtype == expected


def test_sigma_matches_diffusers_euler() -> None:
    euler = pytest.importorskip("diffusers").EulerDiscreteScheduler(1000, 0.00085, 0.012, "scaled_linear")
    euler.set_timesteps(7)  # "linspace": fractional timesteps
    sigmas = NoiseSchedule().sigma(euler.timesteps.double())
    linear = torch.tensor([float(sigma) for sigma in euler.sigmas[:-1]])  # theirs run straight in sigma, not in its log
    torch.testing.assert_close(sigmas.float(), linear, rtol=1e-4, atol=0)


# --- one timestep for each sample ---

TIMES = [torch.tensor([0, 500, 999]), torch.tensor([0.5, 500.25, 998.75]), torch.tensor([[7.0], [1.5], [30.0]])]


@pytest.mark.parametrize("times", TIMES, ids=["whole", "fractional", "with a dimension"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_timestep_for_each_sample(times: Tensor, dtype: torch.dtype) -> None:
    schedule, z, epsilon = NoiseSchedule(), noise(3, 2, 4).to(dtype), noise(3, 2, 4, seed=1).to(dtype)
    together = {
        "add_noise": schedule.add_noise(z, epsilon, times),
        "clean": schedule.clean(z, epsilon, times),
        "step": schedule.step(z, epsilon, times, times / 2),
        "step to one": schedule.step(z, epsilon, times, -1, sigma=0.01),
    }
    for i, t in enumerate(times.double().flatten().tolist()):
        a, b, end = (schedule.alpha(at) for at in (t, t / 2, 0))
        clean = (z[i] - math.sqrt(1 - a) * epsilon[i]) / math.sqrt(a)
        expected = {
            "add_noise": math.sqrt(a) * z[i] + math.sqrt(1 - a) * epsilon[i],
            "clean": clean,
            "step": math.sqrt(b) * clean + math.sqrt(1 - b) * epsilon[i],
            "step to one": math.sqrt(end) * clean + math.sqrt(1 - end - 0.01**2) * epsilon[i],
        }
        for name, value in together.items():
            assert value.dtype == dtype
            torch.testing.assert_close(value[i], expected[name], rtol=1e-4, atol=1e-4, msg=name)
        one = schedule.step(z[i : i + 1], epsilon[i : i + 1], t, t / 2)
        torch.testing.assert_close(together["step"][i : i + 1], one)


def test_whole_timesteps_for_each_sample_are_as_in_diffusers() -> None:
    scheduler = pytest.importorskip("diffusers").DDPMScheduler(1000, 0.0001, 0.02, "linear", clip_sample=False)
    schedule, t = NoiseSchedule.of(scheduler.alphas_cumprod), torch.tensor([3, 500, 999])
    assert schedule == LINEAR
    z, epsilon = noise(3, 2, 4), noise(3, 2, 4, seed=1)
    torch.testing.assert_close(schedule.add_noise(z, epsilon, t), scheduler.add_noise(z, epsilon, t))
    clean = torch.stack([scheduler.step(epsilon[i], int(t[i]), z[i]).pred_original_sample for i in range(3)])
    torch.testing.assert_close(schedule.clean(z, epsilon, t), clean, rtol=1e-4, atol=1e-4)


def test_the_gradient_reaches_a_fractional_timestep() -> None:
    t = torch.tensor([3.25, 700.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(NoiseSchedule().sigma, t)
    assert torch.autograd.gradcheck(lambda t: NoiseSchedule().timestep(NoiseSchedule().sigma(t)), t)


# --- the sigma loop of k-diffusion, in a user's own code ---


def test_a_sigma_loop_with_a_denoiser_in_timesteps() -> None:
    """Euler over Karras' sigmas, as k-diffusion has it, is DDIM over the same timesteps."""
    schedule, count = NoiseSchedule(), 12
    z = noise(2, 4, 3).double()

    def epsilon(z: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(z * (0.4 + t[:, None, None] / 900))

    low, high, rho = schedule.sigma(0) ** (1 / 7), schedule.sigma(999) ** (1 / 7), 7
    sigmas = [(high + (low - high) * i / (count - 1)) ** rho for i in range(count)]
    x, ddim = z * math.sqrt(1 + sigmas[0] ** 2), z
    for sigma, following in pairwise(sigmas):
        t = torch.full((len(x),), schedule.timestep(sigma), dtype=torch.float64)
        derivative = epsilon(x / math.sqrt(1 + sigma**2), t)  # (x - denoised) / sigma
        x = x + (following - sigma) * derivative
        ddim = schedule.step(ddim, epsilon(ddim, t), t, schedule.timestep(following))
    torch.testing.assert_close(x / math.sqrt(1 + sigmas[-1] ** 2), ddim)


# --- what the network predicts ---


@pytest.mark.parametrize("t", [0, 1, 500, 999, 3.5, torch.tensor([0, 500, 999])])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_prediction_that_is_right_gives_latent_and_noise_back(prediction: str, t: float | Tensor) -> None:
    schedule = NoiseSchedule(prediction=prediction)
    x, e = noise(3, 2, 4).double(), noise(3, 2, 4, seed=1).double()
    alpha = torch.as_tensor(schedule.alpha(t), dtype=torch.float64).reshape(-1, 1, 1)
    output = e if prediction == "epsilon" else alpha.sqrt() * e - (1 - alpha).sqrt() * x
    z = schedule.add_noise(x, e, t)
    torch.testing.assert_close(schedule.clean(z, output, t), x)
    torch.testing.assert_close(schedule.epsilon(z, output, t), e)
    s = t / 2
    torch.testing.assert_close(schedule.step(z, output, t, s), schedule.add_noise(x, e, s))


def test_a_prediction_has_a_name() -> None:
    with pytest.raises(ValueError, match=r"NoiseSchedule.prediction is 'v_prediction'; expected one of epsilon, v."):
        NoiseSchedule(prediction="v_prediction")
    table = NoiseSchedule().alphas_cumprod
    assert NoiseSchedule.of(table, prediction="v") == NoiseSchedule(prediction="v")
    assert NoiseSchedule.of(table[:10] / 2, prediction="v").prediction == "v"
    assert NoiseSchedule() == NoiseSchedule(prediction="epsilon")
