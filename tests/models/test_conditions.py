"""The vector that a network is told beside the tokens: it follows its samples, and it is never lost in silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from reference import TINY_XL, randomise, relative
from torch import Tensor

from ebama.models import Context, TextConfig, UNet, UNetConfig, sinusoids

VECTOR_WIDTH = TINY_XL.unet.vector_width or 0


def context(samples: int = 3) -> Context:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(samples, 7, TINY_XL.unet.context_width, generator=generator)
    return Context.of(tokens, torch.randn(samples, VECTOR_WIDTH, generator=generator))


ROWWISE: list[Callable[[Tensor], Tensor]] = [
    lambda x: x[[2, 0]],
    lambda x: x[torch.tensor([1, 1, 2])],
    lambda x: x[torch.tensor([True, False, True])],
    lambda x: x[1:],
    lambda x: x[[1, 2], :, 3:5],
    lambda x: torch.cat([x, x[[1]]]),
    lambda x: torch.cat((x[:1], x), dim=0),
    lambda x: x[:1].expand(4, -1, -1),
    lambda x: x[:1].expand((2, -1, -1)),
    lambda x: x[:1].expand(2, 7, -1),
    lambda x: x.repeat(2, 1, 1),
    lambda x: x.repeat_interleave(2, dim=0),
    lambda x: torch.repeat_interleave(x, 2, 0),
    lambda x: x.chunk(2)[0],
    lambda x: torch.chunk(x, 3, dim=0)[2],
    lambda x: x.split([1, 2])[1],
    lambda x: torch.split(x, 2, dim=-3)[1],
    lambda x: x.clone(),
    lambda x: x.detach(),
    lambda x: x.to(torch.float64),
    lambda x: x.to("cpu", torch.bfloat16),
    lambda x: x.half(),
]


@pytest.mark.parametrize("change", ROWWISE)
def test_vectors_follow_their_samples(change: Callable[[Tensor], Tensor]) -> None:
    whole = context()
    changed = change(whole)
    assert isinstance(changed, Context)
    assert torch.equal(changed.tokens, change(whole.tokens))
    number = whole.vector[:, None, :].expand(-1, 7, -1)  # of the shape of tokens, so that the same can be done to it
    assert torch.equal(changed.vector, change(number)[:, 0] if change(number).shape[2] > 2 else whole.vector[[1, 2]])
    assert changed.vector.dtype == changed.dtype
    assert changed.vector.device == changed.device


MIXING: list[Callable[[Tensor], Tensor]] = [
    lambda x: x[0],
    lambda x: x[None],
    lambda x: x[..., :2],
    lambda x: x[:, 0],
    lambda x: x + 1,
    lambda x: x.mean(dim=0),
    lambda x: torch.cat([x, x], dim=1),
    lambda x: torch.cat([x, x.tokens]),  # type: ignore[attr-defined]
    lambda x: torch.stack([x[0], x[1]]),
    lambda x: x.repeat(1, 2, 1),
    lambda x: x.expand(2, -1, -1, -1),
    lambda x: x[:, :1].expand(-1, 5, -1),
    lambda x: x.repeat(2, 1, 1, 1),
    lambda x: x.repeat_interleave(2, dim=1),
    lambda x: x.repeat_interleave(2),
    lambda x: x.chunk(2, dim=1)[0],
    lambda x: x.split(5, 2)[1],
    lambda x: x.unbind()[0],
    lambda x: torch.zeros(3, 3).to(x),
    lambda x: x.transpose(0, 1),
]


@pytest.mark.parametrize("change", MIXING)
def test_whatever_else_is_computed_is_a_plain_tensor(change: Callable[[Tensor], Tensor]) -> None:
    changed = change(context())
    assert type(changed) is Tensor


def test_a_context_is_the_tensor_that_it_was_made_of() -> None:
    whole = context()
    assert isinstance(whole, Tensor)
    assert (whole.shape, whole.dtype, len(whole), whole.ndim) == (whole.tokens.shape, torch.float32, 3, 3)
    whole[1] = 7.0
    assert (whole.tokens[1] == 7).all()
    assert "Context" not in repr(whole)


def test_gradients_reach_both() -> None:
    tokens, vector = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    chosen = Context.of(tokens, vector)[[1]]
    assert isinstance(chosen, Context)
    (chosen.square().sum() + chosen.vector.square().sum()).backward()
    for value in (tokens, vector):
        assert value.grad is not None
        assert (value.grad[0] == 0).all()
        assert torch.equal(value.grad[1], 2 * value[1].detach())


@pytest.mark.parametrize(
    ("tokens", "vector"), [((2, 7, 4), (3, 5)), ((7, 4), (7, 5)), ((2, 7, 4), (2, 7, 5)), ((2, 7, 4), (5,))]
)
def test_shapes_that_do_not_fit_are_refused(tokens: tuple[int, ...], vector: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a vector for each sample"):
        Context.of(torch.zeros(tokens), torch.zeros(vector))


def test_sinusoids_are_those_of_the_timestep() -> None:
    values = torch.tensor([[0.0, 1.0], [512.0, 1024.0]])
    embedded = sinusoids(values, 8)
    assert embedded.shape == (2, 2, 8)
    for i in range(4):
        angle = values.double() / 10000 ** (i / 4)
        torch.testing.assert_close(embedded[..., i].double(), angle.cos(), atol=1e-4, rtol=0)
        torch.testing.assert_close(embedded[..., 4 + i].double(), angle.sin(), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def unet() -> UNet:
    return randomise(UNet(TINY_XL.unet))


@torch.no_grad()
def test_each_sample_has_its_own_vector(unet: UNet) -> None:
    z, whole = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)), context()
    together = unet(z, 500, whole)
    for i in range(3):
        assert relative(unet(z[[i]], 500, whole[[i]]), together[[i]]) < 1e-5
    moved = Context.of(whole.tokens, whole.vector.roll(1, dims=0))
    assert relative(unet(z, 500, moved), together) > 1e-3
    records, theirs = (unet.attention(z, 500, c, resolution=4).mean_scores() for c in (whole, moved))
    assert relative(records, theirs) > 1e-4


@pytest.mark.parametrize("pass_", ["forward", "attention"])
def test_a_vector_that_is_missing_or_too_much_is_named(unet: UNet, pass_: str) -> None:
    z, whole = torch.zeros(3, 4, 8, 8), context()
    plain = UNet(replace(TINY_XL.unet, vector_width=None))
    wide = Context.of(whole.tokens, torch.zeros(3, 9))
    for network, given, message in (
        (unet, whole.tokens, rf"without a vector; expected width {VECTOR_WIDTH}"),
        (unet, whole.tokens + 0, r"Context.of\(tokens, vector\)"),
        (unet, wide, r"vectors of width 9"),
        (plain, whole, r"expected none"),
    ):
        with pytest.raises(ValueError, match=message):
            getattr(network, pass_)(z, 1, given)


@pytest.mark.slow
def test_a_context_goes_through_a_compiled_network() -> None:
    z, whole = torch.randn(3, 4, 8, 8), context()
    config = replace(TINY_XL.unet, widths=(8,), attention=(True,), heads=(2,), depth=(1,))  # every block is traced
    plain, compiled = randomise(UNet(config)), randomise(UNet(config))
    compiled.compile(backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert relative(compiled(z, 500, whole), plain(z, 500, whole)) < 1e-5


def test_depth_is_one_number_or_one_for_each_level() -> None:
    assert UNetConfig(depth=(2, 2, 2, 2)) == UNetConfig(depth=2)
    assert UNetConfig(depth=(1, 2, 3, 4)).depths == (1, 2, 3, 4)
    assert UNetConfig(depth=3).depths == (3, 3, 3, 3)
    with pytest.raises(ValueError, match=r"UNetConfig.depth has 2 entries; expected one for each of the 4 levels"):
        UNetConfig(depth=(1, 2))
    with pytest.raises(ValueError, match=r"UNetConfig.depth is 0"):
        UNetConfig(depth=(1, 0, 1, 1))


def test_the_parts_of_a_model_are_checked_against_each_other() -> None:
    text, text_2 = TINY_XL.text, TINY_XL.text_2
    assert text_2 is not None
    for change, message in (
        ({"text_2": None}, r"reads contexts of width 40 but the text encoder writes width 16"),
        ({"text_2": replace(text_2, width=48)}, r"text encoders write width 64; .* of both together"),
        ({"text_2": replace(text_2, projection_width=None)}, r"vector has width 44 and the pooled text None"),
        ({"text_2": replace(text_2, projection_width=21)}, r"wider by six numbers of one even width"),
        ({"text_2": replace(text_2, projection_width=44)}, r"wider by six numbers"),
        ({"unet": replace(TINY_XL.unet, vector_width=None)}, r"vector has width None and the pooled text 20"),
        ({"text": replace(text, positions=50)}, r"different numbers of positions"),
        ({"prediction": "x0"}, r"prediction is 'x0'; expected 'epsilon' or 'v'"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(TINY_XL, **change)
    assert TINY_XL.number_width == 4
    with pytest.raises(ValueError, match=r"pad_token is 50000"):
        TextConfig(pad_token=50000)
    with pytest.raises(ValueError, match=r"projection_width is 0"):
        TextConfig(projection_width=0)
