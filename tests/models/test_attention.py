"""The attention layer alone: widths, biases, masks on both ways through it, records."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from reference import randomise, relative
from torch import Tensor, nn
from torch.nn import functional as F

from ebama.guidance import gradient_guide
from ebama.models import Attention, AttentionRecord, AttentionRecords, Request, Site, attention_scores
from ebama.models.network import of_shape

SITE = Site("here", "self", (1, 6), 2)
RECORD = Request(frozenset({"here"}))


@pytest.mark.parametrize(
    ("size", "names"),
    [
        *((size, "ab") for size in (np.int64(2), torch.tensor(2), [2, 2], np.array([2, 2]), torch.Size([2, 2]), 2)),
        *((size, "c") for size in ((np.int8(2), 3), [np.int64(2), torch.tensor(3)], torch.tensor([2, 3]))),
        *((size, "") for size in (3, 2.5, "2", (2,), [[2, 2]])),
        (None, "abc"),
    ],
)
def test_a_resolution_is_a_number_or_two_of_any_library(size: Any, names: str) -> None:
    sites = [Site("a", "self", (2, 2), 1), Site("b", "self", (2, 2), 2), Site("c", "self", (2, 3), 2)]
    records = AttentionRecords(
        [AttentionRecord(site, torch.zeros(1, site.heads, math.prod(site.resolution), 4)) for site in sites]
    )
    assert "".join(record.site.name for record in records.where(resolution=size)) == names
    assert "".join(site.name for site in of_shape(sites, size, None)) == names


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 6, 16, generator=generator), torch.randn(2, 5, 8, generator=generator)


def test_layer_alone_needs_neither_site_nor_request() -> None:
    x, context = inputs()
    assert randomise(Attention(16, 4, 8))(x, context).out.shape == (2, 6, 16)
    assert randomise(Attention(16, 4))(x).out.shape == (2, 6, 16)


@pytest.mark.parametrize("bias", [True, False, (True, False, True)])
@pytest.mark.parametrize("out_bias", [True, False])
def test_layer_computes_attention_of_any_inner_width_and_biases(
    bias: bool | tuple[bool, bool, bool], out_bias: bool
) -> None:
    layer = randomise(Attention(16, 3, 8, inner_width=12, bias=bias, out_bias=out_bias)).double()
    has_bias = (bias,) * 3 if isinstance(bias, bool) else bias
    assert tuple(part.bias is not None for part in (layer.to_q, layer.to_k, layer.to_v)) == has_bias
    assert (layer.to_out[0].bias is not None) == out_bias
    x, context = (part.double() for part in inputs())
    query, key, value = layer.to_q(x), layer.to_k(context), layer.to_v(context)
    assert query.shape == (2, 6, 12)
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        heads.append((query[..., part] @ key[..., part].transpose(1, 2) / 2).softmax(-1) @ value[..., part])
    expected = torch.cat(heads, dim=-1) @ layer.to_out[0].weight.T + (layer.to_out[0].bias if out_bias else 0)
    assert relative(layer(x, context).out, expected) < 1e-12
    assert relative(layer(x, context, site=SITE, request=RECORD).out, expected) < 1e-12


def test_inner_width_must_be_divisible_by_heads() -> None:
    with pytest.raises(ValueError, match="width 10 is not divisible by heads = 4"):
        Attention(16, 4, inner_width=10)


def masks() -> dict[str, Tensor]:
    padding = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)[:, None, None]
    return {"padding": padding, "numbers": torch.linspace(-2, 2, 2 * 6 * 6).reshape(2, 1, 6, 6)}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mask", [None, *masks()])
def test_masks_act_alike_on_fused_and_recorded_attention(mask: str | None, causal: bool) -> None:
    layer, (x, _) = randomise(Attention(16, 2, causal=causal)), inputs()
    given = None if mask is None else masks()[mask]
    recorded = layer(x, mask=given, site=SITE, request=RECORD)
    assert relative(layer(x, mask=given).out, recorded.out) < 1e-5
    heads = [part(x).unflatten(-1, (2, 8)).transpose(1, 2) for part in (layer.to_q, layer.to_k)]
    expected = attention_scores(*heads)
    if mask == "numbers":
        expected = expected + given
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1) if causal else torch.zeros(6, 6, dtype=torch.bool)
    if mask == "padding":
        hidden = hidden | ~given
    expected = expected.masked_fill(hidden, -math.inf)
    torch.testing.assert_close(recorded.record.scores, expected)
    assert not recorded.record.probabilities[hidden.expand(2, 2, 6, 6)].any()


def test_hidden_keys_do_not_reach_the_output() -> None:
    layer, (x, _) = randomise(Attention(16, 2, causal=True)), inputs()
    other = x.clone()
    other[:, 4:] += 1
    assert torch.equal(layer(x).out[:, :4], layer(other).out[:, :4])
    other = x.clone()
    other[1, 3:] += 1
    padding = masks()["padding"]
    torch.testing.assert_close(layer(x, mask=padding).out[:, :3], layer(other, mask=padding).out[:, :3])


def test_causal_attention_keeps_the_fast_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a flag; a mask that is written out, even the same one, excludes them."""
    calls: list[dict[str, Any]] = []
    fused = F.scaled_dot_product_attention

    def noted(*args: Tensor, **options: Any) -> Tensor:
        calls.append(options)
        return fused(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    layer, (x, _) = Attention(16, 2, causal=True), inputs()
    layer(x)
    layer(x, mask=masks()["padding"])
    assert (calls[0]["attn_mask"], calls[0]["is_causal"]) == (None, True)
    assert calls[1]["attn_mask"].shape == (2, 1, 6, 6)
    assert not calls[1]["is_causal"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masked_scores_of_half_precision_have_finite_probabilities(dtype: torch.dtype) -> None:
    layer, (x, _) = randomise(Attention(16, 2, causal=True)).to(dtype), inputs()
    result = layer(x.to(dtype), mask=masks()["padding"], site=SITE, request=RECORD)
    assert result.record.scores.dtype == dtype
    torch.testing.assert_close(result.record.probabilities.sum(-1), torch.ones(2, 2, 6))
    assert result.out.isfinite().all()


class Joint(nn.Module):
    """Like a block of SD3: one softmax over the keys of text and pixels, each with projections of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.pixels = nn.Linear(10, 3 * 8), nn.Linear(4, 3 * 8)

    def scores(self, z: Tensor, text: Tensor) -> Tensor:
        """[batch, 2 heads, token, token], the text's tokens first."""
        tokens = torch.cat([self.text(text), self.pixels(z.flatten(2).transpose(1, 2))], dim=1)
        query, key, _ = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in tokens.chunk(3, -1))
        return attention_scores(query, key)


def test_probabilities_of_one_softmax_over_text_and_pixels() -> None:
    torch.manual_seed(0)
    net, z, text = Joint().double(), torch.randn(2, 4, 4, 6).double(), torch.randn(2, 5, 10).double()
    site = Site("joint", "cross", (4, 6), 2)

    def maps(z: Tensor, t: int, samples: list[int]) -> AttentionRecords:
        scores = net.scores(z, text[samples])
        block = (..., slice(5, None), slice(0, 5))
        return AttentionRecords([AttentionRecord(site, scores[block], scores.softmax(-1)[block])])

    def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
        return -records.mean_probabilities()[..., 2].mean((1, 2))

    guided = gradient_guide(maps, energy, [3.0])(z, 0, 0)
    for sample in range(2):
        leaf = z[sample : sample + 1].clone().requires_grad_()
        exponentials = net.scores(leaf, text[sample : sample + 1]).exp()[0]
        share = exponentials[:, 5:, 2] / exponentials[:, 5:].sum(-1)  # of the text's third token, over all keys
        loss = -share.mean()
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert guided.losses is not None
        torch.testing.assert_close(guided.losses[sample], loss.detach())
        torch.testing.assert_close(guided.latents[sample], z[sample] - 3 * gradient[0])
    record = maps(z, 0, [0, 1])[0]
    assert (record.probabilities.sum(-1) < 1).all()
    part = record.select([1], slice(1, 2))
    assert torch.equal(part.probabilities, record.probabilities[1:, 1:])
    assert torch.equal(part.scores, record.scores[1:, 1:])
