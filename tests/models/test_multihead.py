"""torch.nn.MultiheadAttention, adapted: its weights, its masks, its layouts and what it returns beside its output."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ebama.guidance import guide_for
from ebama.methods import names
from ebama.models import adapt
from ebama.prompt import Group

KEYS, WIDTH, SIZE = 7, 10, (4, 6)


class Block(nn.Module):
    """Self- and cross-attention over the pixels of a latent."""

    def __init__(self, width: int | None = WIDTH, **options: Any) -> None:
        super().__init__()
        self.first = options.get("batch_first", True)
        options = {"batch_first": True, **options}
        self.own = nn.MultiheadAttention(8, 2, **options)
        self.text = nn.MultiheadAttention(8, 4, kdim=width, vdim=width, **options)

    def forward(self, z: Tensor, t: Tensor, context: Tensor, **masks: Any) -> Tensor:
        x = z.flatten(2).mT
        x, context = (x, context) if self.first else (x.transpose(0, 1), context.transpose(0, 1))
        x = x + self.own(x, x, x, need_weights=False)[0]
        x = x + self.text(x, context, context, **masks)[0]
        return (x if self.first else x.transpose(0, 1)).mT.reshape(z.shape)


def latents(width: int = WIDTH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 8, *SIZE, generator=generator), torch.randn(2, KEYS, width, generator=generator)


def adapted(net: nn.Module, width: int = WIDTH, **masks: Any) -> Any:
    return adapt(net, None, lambda net, z, t, c: net(z, t, c, **masks), context_shape=(KEYS, width), channels=8)


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"batch_first": False}, {"dropout": 0.5}, {"width": None}, {"width": 8}]
)
def test_it_computes_the_same_and_hands_out_its_scores(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    width = 8 if "width" in options else WIDTH
    net, (z, context) = Block(**options).eval(), latents(width)
    expected, network = copy.deepcopy(net)(z, torch.ones(2), context), adapted(net, width)
    noise, records = network(z, 1, context, record=network.sites(z.shape))
    torch.testing.assert_close(noise, expected)
    torch.testing.assert_close(network(z, 1, context), expected)
    assert [str(site) for site in network.sites(z.shape)] == ["own (self, 4x6, 2 heads)", "text (cross, 4x6, 4 heads)"]
    x = z.flatten(2).mT
    theirs = net.own(*[x if net.first else x.transpose(0, 1)] * 3, average_attn_weights=False)[1]
    torch.testing.assert_close(records[0].probabilities, theirs)
    assert set(net.state_dict()) == set(Block(**options).state_dict())


HIDDEN = torch.rand(24, KEYS, generator=torch.Generator().manual_seed(0)) > 0.7
PADDING = torch.arange(KEYS)[None] > 4


@pytest.mark.parametrize(
    "masks",
    [
        {"key_padding_mask": PADDING},
        {"key_padding_mask": PADDING * -2.0},
        {"attn_mask": HIDDEN},
        {"attn_mask": HIDDEN * -3.0},
        {"attn_mask": HIDDEN.expand(4, -1, -1)},
        {"attn_mask": HIDDEN, "key_padding_mask": PADDING & False},
        {"attn_mask": HIDDEN * -3.0, "key_padding_mask": PADDING * -2.0},
    ],
)
def test_its_masks_say_what_is_hidden(masks: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    net, (z, context) = Block().eval(), latents()
    z, context = z[:1], context[:1]
    expected = copy.deepcopy(net)(z, torch.ones(1), context, **masks)
    noise, records = adapted(net, **masks)(z, 1, context, record=["text"])
    torch.testing.assert_close(noise, expected)
    if all(mask.dtype == torch.bool for mask in masks.values()):
        assert bool(records[0].scores.isneginf().any())


def test_a_padding_of_each_sample_travels_in_the_context() -> None:
    torch.manual_seed(0)
    net, (z, context) = Block().eval(), latents()
    padding = torch.arange(KEYS)[None] > torch.tensor([[3], [5]])
    network = adapt(
        net,
        None,
        lambda net, z, t, c: net(z, t, c[..., :-1], key_padding_mask=c[..., -1] > 0),
        context_shape=(KEYS, WIDTH + 1),
        channels=8,
    )
    network.sites(SIZE)
    packed = torch.cat([context, padding[..., None]], -1)
    noise, records = network(z, 1, packed, record=["text"])
    torch.testing.assert_close(noise, net(z, torch.ones(2), context, key_padding_mask=padding))
    assert torch.equal(records[0].scores[:, 0, 0].isneginf(), padding)


class Transformer(nn.Module):
    """Of torch's own layers, the first of which has a fast path around its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.decoder(self.encoder(z.flatten(2).mT), context).mT.reshape(z.shape)


@torch.no_grad()
def test_torchs_transformer_layers_are_opened_where_no_gradient_is_asked_for() -> None:
    torch.manual_seed(0)
    net, (z, context) = Transformer().eval(), latents(8)
    expected, network = net(z, torch.ones(2), context), adapted(net, 8)
    noise, records = copy.deepcopy(network)(z, 1, context, record=network.sites(z.shape))
    torch.testing.assert_close(noise, expected, rtol=1e-4, atol=1e-5)
    names = ["encoder.self_attn", "decoder.self_attn", "decoder.multihead_attn"]
    assert [record.site.name for record in records] == names


@pytest.mark.parametrize("option", ["add_bias_kv", "add_zero_attn"])
def test_keys_of_its_own_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"layer own cannot be adapted: its {option}=True adds a key"):
        adapted(Block(**{option: True}))


def test_values_of_another_input_are_refused() -> None:
    class Other(Block):
        def forward(self, z: Tensor, t: Tensor, context: Tensor, **masks: Any) -> Tensor:
            x = z.flatten(2).mT
            return self.text(x, context, 2 * context)[0].mT.reshape(z.shape)

    with pytest.raises(ValueError, match="layer text cannot be adapted: it takes value too"):
        adapted(Other()).sites(SIZE)


@pytest.mark.parametrize("method", ["ane", "ebama"])
def test_it_is_guided(method: str) -> None:
    assert method in names()
    torch.manual_seed(0)
    network, (z, context) = adapted(Block().eval().requires_grad_(False)), latents()
    groups = [(Group((2,), ((1,),)), Group((4,))), (Group((3,)), Group((5,), ((4,),)))]
    guide = guide_for(method, network, context, groups, [[1, 2, 3, 4], [1, 2, 3, 4, 5]], calls=3)
    assert guide(z, 981, 0).gradient_norms.gt(0).all()
