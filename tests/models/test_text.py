"""The text encoder: against transformers' and against its derivation, with its attention on request."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from reference import randomise, relative
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ebama.models import AttentionCall, Control, Site, TextConfig, TextEncoder
from ebama.models.text import quick_gelu

TOLERANCE = 1e-5
SMALL = TextConfig(width=24, mlp_width=48, layers=3, heads=3)


def their_text_encoder(config: TextConfig) -> nn.Module:
    # "eager" is the way that can return probabilities.
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.positions,
            hidden_act=config.activation,
            attn_implementation="eager",
        )
    ).eval()


def pair(config: TextConfig) -> tuple[nn.Module, TextEncoder]:
    """Both with the same random weights; neither has a name that the other lacks."""
    theirs, ours = randomise(their_text_encoder(config)), TextEncoder(config)
    weights = {name.removeprefix("text_model."): weight for name, weight in theirs.state_dict().items()}
    ours.load_state_dict(weights, strict=True)
    assert list(ours.state_dict()) == list(weights)
    return theirs, ours.requires_grad_(False)


def token_ids() -> Tensor:
    ids = torch.full((2, 77), 49407)
    ids[:, :5] = torch.tensor([[49406, 320, 5496, 6902, 49407], [49406, 49407, 49407, 49407, 49407]])
    return ids


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("layers", [1, 2, 5])
@torch.no_grad()
def test_encoding_equals_transformers(layers: int, activation: str) -> None:
    theirs, ours = pair(replace(SMALL, layers=layers, activation=activation))
    for ids in (token_ids(), token_ids()[:, :1]):
        assert relative(ours(ids), theirs(input_ids=ids).last_hidden_state) <= TOLERANCE


@pytest.mark.parametrize("output_layer", [-1, -2, -3])
@torch.no_grad()
def test_an_earlier_layer_can_be_the_output(output_layer: int) -> None:
    theirs, ours = pair(SMALL)
    hidden = theirs(input_ids=token_ids(), output_hidden_states=True).hidden_states
    for final_norm in (True, False):
        network = TextEncoder(replace(SMALL, output_layer=output_layer, final_norm=final_norm))
        network.load_state_dict(ours.state_dict())
        expected = ours.final_layer_norm(hidden[output_layer]) if final_norm else hidden[output_layer]
        assert relative(network(token_ids()), expected) <= TOLERANCE
        assert len(network.sites(77)) == SMALL.layers + 1 + output_layer


@torch.no_grad()
def test_encoding_equals_its_derivation() -> None:
    """CLIP's text transformer written down once more, in float64: causal, pre-norm, x * sigmoid(1.702 x)."""
    ours = randomise(TextEncoder(SMALL)).eval()
    weights = {name: weight.double() for name, weight in ours.state_dict().items()}
    ids, width, heads = token_ids(), SMALL.width, SMALL.heads

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["embeddings.token_embedding.weight"][ids] + weights["embeddings.position_embedding.weight"][:77]
    hidden = torch.ones(77, 77, dtype=torch.bool).triu(1)
    for i in range(SMALL.layers):
        layer = f"encoder.layers.{i}"
        h = norm(x, f"{layer}.layer_norm1")
        q, k, v = (linear(h, f"{layer}.self_attn.{name}_proj") for name in "qkv")
        parts = []
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width / heads)
            parts.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v[..., part])
        x = x + linear(torch.cat(parts, dim=-1), f"{layer}.self_attn.out_proj")
        h = linear(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        x = x + linear(h * torch.sigmoid(1.702 * h), f"{layer}.mlp.fc2")
    assert relative(ours(ids), norm(x, "final_layer_norm")) <= TOLERANCE


@torch.no_grad()
def test_records_are_the_layers_own_maps_and_leave_the_encoding_alone() -> None:
    theirs, ours = pair(SMALL)
    ids = token_ids()[:, :9]
    sites = ours.sites(9)
    assert sites[1] == Site("encoder.layers.1.self_attn", "self", (1, 9), 3)
    assert all(ours.get_submodule(site.name).heads == site.heads for site in sites)
    encoding, records = ours(ids, record=sites)
    assert relative(encoding, ours(ids)) <= TOLERANCE
    assert [record.site for record in records] == sites
    expected = theirs(input_ids=ids, output_attentions=True).attentions
    for record, probabilities in zip(records, expected, strict=True):
        assert relative(record.probabilities, probabilities) <= TOLERANCE
        assert record.scores[..., torch.ones(9, 9, dtype=torch.bool).triu(1)].isneginf().all()
    assert [r.site for r in ours(ids, record=["encoder.layers.2.self_attn"])[1]] == sites[2:]
    assert records.mean_probabilities().shape == (2, 1, 9, 9)


class _OnlyItself(Control):
    """Every token sees itself alone."""

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        return scores.masked_fill(~torch.eye(scores.shape[-1], dtype=torch.bool), -math.inf)


@torch.no_grad()
def test_control_rewrites_the_text_encoders_attention() -> None:
    ours = randomise(TextEncoder(SMALL))
    ids = token_ids()[:, :4]
    other = ids.clone()
    other[:, 1] = 7
    assert not torch.allclose(ours(ids)[:, 2:], ours(other)[:, 2:], atol=1e-3)
    alone = ours(ids, control=_OnlyItself())
    torch.testing.assert_close(alone[:, 2:], ours(other, control=_OnlyItself())[:, 2:])
    assert not torch.allclose(alone[:, 1], ours(other, control=_OnlyItself())[:, 1], atol=1e-3)


def test_a_selection_without_sites_lists_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"(?s)\['nowhere'\] for a text of 77 tokens.*layers\.2\.self_attn \(self, 1x77"
    ):
        TextEncoder(SMALL)(token_ids(), record=["nowhere"])


@pytest.mark.parametrize("shape", [(77,), (1, 78), (1, 0), (1, 7, 24)])
def test_ids_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[B, n\] with n from 1 to 77"):
        TextEncoder(SMALL)(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "not divisible by heads"),
        ({"activation": "relu"}, "'relu'; expected 'quick_gelu' or 'gelu'"),
        ({"output_layer": 0}, "output_layer is 0; expected -1 .* -3 for the first"),
        ({"output_layer": -4}, "output_layer is -4"),
    ],
)
def test_configs_that_cannot_be_built_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_encoder_made_on_meta_draws_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """There `normal_` imports PyTorch's compiler, for two seconds."""
    for name in ("normal_", "trunc_normal_"):
        monkeypatch.delattr(nn.init, name)
    with torch.device("meta"):
        assert all(weight.is_meta for weight in TextEncoder(SMALL).parameters())


def test_encoder_made_on_meta_computes_once_it_has_weights() -> None:
    made = randomise(TextEncoder(SMALL))
    with torch.device("meta"):
        encoder = TextEncoder(SMALL)
    encoder.load_state_dict(made.state_dict(), assign=True)
    assert not list(encoder.buffers())  # which no file holds: they would stay on the meta device
    assert torch.equal(encoder(token_ids()), made(token_ids()))


def test_weights_start_as_clips() -> None:
    torch.manual_seed(0)
    config = replace(SMALL, vocabulary=500, width=96, mlp_width=128)
    theirs, ours = their_text_encoder(config).state_dict(), TextEncoder(config).state_dict()
    for (name, weight), expected in zip(ours.items(), theirs.values(), strict=True):
        assert float(weight.std()) == pytest.approx(float(expected.std()), rel=0.05, abs=1e-6), name
        assert float(weight.mean()) == pytest.approx(float(expected.mean()), abs=0.005), name


def test_a_copy_has_weights_of_its_own() -> None:
    ours = randomise(TextEncoder(SMALL))
    copied = copy.deepcopy(ours)
    before = ours(token_ids())
    copied.encoder["layers"][0].self_attn.to_q.weight.zero_()
    assert not copied.state_dict()["encoder.layers.0.self_attn.q_proj.weight"].any()
    assert torch.equal(ours(token_ids()), before)


def test_quick_gelu_is_a_sigmoid_gate() -> None:
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(quick_gelu(x), x / (1 + (-1.702 * x).exp()))


@pytest.mark.slow
def test_encoder_compiles_to_one_graph() -> None:
    torch._dynamo.reset()
    ours = randomise(TextEncoder(replace(SMALL, layers=2)))
    graph = torch.compile(ours, fullgraph=True, backend="eager")
    assert torch.equal(graph(token_ids()), ours(token_ids()))
    encoding, records = graph(token_ids(), record=ours.sites(77))
    assert len(records) == 2
    assert relative(encoding, ours(token_ids())) <= TOLERANCE
    torch._dynamo.reset()
