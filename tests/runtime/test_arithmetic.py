"""Half precision on processors without arithmetic for it: products in float32, everything else as it was."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from reference import random_model, relative
from torch import Tensor, nn
from torch.nn import functional as F

from ebama import Pipeline, Result
from ebama.models import MINIATURE
from ebama.runtime import arithmetic
from ebama.runtime.arithmetic import usable_arithmetic
from ebama.samplers import DDIM
from ebama.weights import load

CPU = torch.device("cpu")
TEN = DDIM(10)


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=str)
def half(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """A precision that this processor is taken not to compute in."""
    monkeypatch.setattr(arithmetic, "has_arithmetic", lambda dtype: False)
    dtype: torch.dtype = request.param
    return dtype


def products(x: Tensor, weight: Tensor) -> list[Tensor]:
    """The products of the networks, for x [4, 8, 8] and weight [8, 8]."""
    heads = x[None]
    return [
        F.linear(x, weight, weight[0]),
        nn.functional.conv2d(x, weight[:4, :4, None, None]),
        F.scaled_dot_product_attention(heads, heads, heads),
        x @ weight,
        torch.matmul(x, weight),
        torch.bmm(x, x),
    ]


def test_products_are_those_of_float32_rounded_once(half: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 8, 8, generator=generator).to(half), torch.randn(8, 8, generator=generator).to(half)
    with usable_arithmetic(CPU, half):
        found = products(x, weight)
    for ours, expected in zip(found, products(x.float(), weight.float()), strict=True):
        assert ours.dtype == half
        assert torch.equal(ours, expected.to(half))


def test_gradients_keep_their_precision(half: torch.dtype) -> None:
    x = torch.ones(1, 8, dtype=half, requires_grad=True)
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).to(half)
    with usable_arithmetic(CPU, half):
        (gradient,) = torch.autograd.grad(F.linear(x, weight).sum(), x)
    assert gradient.dtype == half
    assert torch.equal(gradient[0], weight.float().sum(0).to(half))


def test_other_precisions_and_devices_are_left_alone(half: torch.dtype) -> None:
    assert isinstance(usable_arithmetic(CPU, torch.float32), nullcontext)
    assert isinstance(usable_arithmetic(torch.device("cuda"), half), nullcontext)
    assert not isinstance(usable_arithmetic(CPU, half), nullcontext)
    weight = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with usable_arithmetic(CPU, half):
        assert F.linear(weight, weight).dtype == torch.float64


def test_processors_that_have_the_arithmetic_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "has_arithmetic", lambda dtype: dtype == torch.bfloat16)
    assert isinstance(usable_arithmetic(CPU, torch.bfloat16), nullcontext)
    assert not isinstance(usable_arithmetic(CPU, torch.float16), nullcontext)


@pytest.mark.slow
def test_pipeline_uses_it_for_the_run_and_for_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(arithmetic, "has_arithmetic", lambda dtype: bool(asked.append(dtype)))
    sd = random_model(MINIATURE)
    options: dict[str, Any] = {"steps": 2, "size": (32, 32), "progress": False, "parser": "rules"}
    reference = Pipeline(sd)("a cat and a dog", output="latent", **options).latents
    assert not asked
    for network in (sd.unet, sd.vae, sd.text_encoder):
        network.bfloat16()
    result = Pipeline(sd)("a cat and a dog", **options)
    assert asked == [torch.bfloat16] * 2  # the run, and in it the decoding
    assert result.images is not None
    assert relative(result.latents, reference) < 0.05


@pytest.fixture(scope="module")
def both() -> list[Pipeline]:
    """The trained miniature in float32 and in bfloat16."""
    return [Pipeline(load(dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)]


@pytest.mark.slow
def test_bfloat16_weights_make_nearly_the_same_picture(both: list[Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    """10 steps: final latents within 5 % of float32's, but for a few seeds where rounding of any kind, float16's too,
    tips the picture over into another."""
    monkeypatch.setattr(arithmetic, "has_arithmetic", lambda dtype: False)  # the same everywhere
    full, rounded = (sample(pipeline, "sd", range(8)).latents for pipeline in both)
    distances = sorted(relative(ours, theirs) for ours, theirs in zip(rounded, full, strict=True))
    assert distances[4] < 0.02
    assert sum(distance < 0.05 for distance in distances) >= 6


@pytest.mark.slow
@pytest.mark.parametrize(("method", "calls"), [("ebama", 10), ("syngen", 10), ("ebama-official", 2)])
def test_bfloat16_weights_are_guided_alike(
    both: list[Pipeline], monkeypatch: pytest.MonkeyPatch, method: str, calls: int
) -> None:
    """The losses that guide the first calls of ten, within 5 % of float32's. Of `ebama-official` two, for six of eight
    seeds: at the step that suits it on the miniature most pictures tip over, and its losses are those pictures'."""
    monkeypatch.setattr(arithmetic, "has_arithmetic", lambda dtype: False)
    seeds, near = (range(8), 6) if method == "ebama-official" else (range(4), 4)
    first = DDIM.at(TEN.timesteps[:calls])
    full, rounded = (sample(pipeline, method, seeds, sampler=first).losses for pipeline in both)
    nearest = (rounded - full).nan_to_num().norm(dim=1).argsort()[:near]
    full, rounded = full[nearest], rounded[nearest]
    guided = ~full.isnan()
    assert guided.any()
    assert relative(rounded[guided], full[guided]) < 0.05


def sample(pipeline: Pipeline, method: str, seeds: Sequence[int], sampler: DDIM = TEN) -> Result:
    prompt = "a purple crown and a blue suitcase"
    options: dict[str, Any] = {"sampler": sampler, "parser": "rules", "output": "latent", "progress": False}
    return pipeline(prompt, method=method, seeds=seeds, **options)
