"""Foreign modules as networks: what they compute stays the same, and their attention is what plain formulas give."""

from __future__ import annotations

import copy
import math
import threading
from typing import Any

import pytest
import torch
from foreign_networks import (
    DIT,
    LDM,
    STYLES,
    CrossAttention,
    DitCross,
    FusedSelf,
    LdmLike,
    diffusers_unet,
    foreign,
    inputs,
)
from torch import Tensor, nn

from ebama.guidance import guide_for
from ebama.guidance.control import CheckedControl
from ebama.methods.ebca import MovingContext
from ebama.models import AttentionCall, Control, Network, Site, UNet, adapt, layer
from ebama.prompt import Group


@pytest.mark.parametrize("style", STYLES)
def test_output_is_the_modules_own(style: str) -> None:
    plain, network = foreign(style)
    z, t, context = inputs()
    expected = plain(z, torch.full((2,), t), context)
    assert torch.equal(network(z, t, context), expected)
    noise, records = network(z, t, context, record=network.sites(z.shape))
    torch.testing.assert_close(noise, expected, rtol=1e-5, atol=1e-5)
    assert [record.site for record in records] == network.sites(z.shape)
    torch.testing.assert_close(network(z, t, context, control=Control()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_names_and_weights_of_the_module_stay(style: str) -> None:
    plain, network = foreign(style)
    assert network.net.state_dict().keys() == plain.state_dict().keys()
    assert type(network.net) is type(plain)
    assert all(isinstance(b, type(a)) for a, b in zip(plain.modules(), network.net.modules(), strict=True))


def test_sites_of_each_style() -> None:
    _, network = foreign("ldm")
    assert network.sites((4, 8, 12)) == [
        Site("outer.attn1", "self", (8, 12), 2),
        Site("outer.attn2", "cross", (8, 12), 3),
        Site("inner.attn1", "self", (4, 6), 2),
        Site("inner.attn2", "cross", (4, 6), 3),
        Site("up.attn1", "self", (8, 12), 2),
        Site("up.attn2", "cross", (8, 12), 3),
    ]
    _, network = foreign("dit")
    assert {site.resolution for site in network.sites((8, 12))} == {(4, 6)}
    assert [site.kind for site in network.sites((8, 12))] == ["self", "cross"] * 3


def test_scores_and_gradient_of_a_layer_follow_from_its_weights() -> None:
    plain, network = foreign("ldm")
    z, t, context = inputs()
    z.requires_grad_(True)
    record = network.attention(z, t, context, sites=["inner.attn2"])[0]

    seen: dict[str, Tensor] = {}
    attn: Any = plain.get_submodule("inner.attn2")
    attn.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    plain(z, torch.full((2,), t), context)
    q = attn.to_q(seen["x"]).unflatten(-1, (3, -1)).transpose(1, 2)
    k = attn.to_k(context).unflatten(-1, (3, -1)).transpose(1, 2)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    torch.testing.assert_close(record.scores, scores, rtol=1e-5, atol=1e-6)
    ours, theirs = (
        torch.autograd.grad(maps.square().sum(), z, retain_graph=True)[0] for maps in (record.scores, scores)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("style", STYLES)
def test_attention_equals_the_records_of_a_forward_and_stops(style: str) -> None:
    _, network = foreign(style)
    z, t, context = inputs()
    sites = [site for site in network.sites(z.shape) if site.kind == "cross"][:1]
    _, whole = network(z, t, context, record=sites)
    ran: list[str] = []
    for name, module in network.net.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda module, args, out, name=name: ran.append(name))
    early = network.attention(z, t, context, sites=sites)
    torch.testing.assert_close(early[0].scores, whole[0].scores)
    count = len(ran)
    network(z, t, context)
    assert count < len(ran) - count, "an attention pass runs less than a forward"


def test_selection_that_names_no_site_lists_those_there_are() -> None:
    _, network = foreign("ldm")
    z, t, context = inputs()
    with pytest.raises(ValueError, match=r"no attention site \['nothing'\].*\n.*outer.attn1"):
        network.attention(z, t, context, sites=["nothing"])
    with pytest.raises(ValueError, match="holds no attention site"):
        network.attention(z, t, context, resolution=5)


class Nudge(Control):
    """Moves the context from site to site, as ebca does."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def edits_maps(self, site: Site) -> bool:
        return False

    def next_context(self, call: AttentionCall) -> Tensor:
        if call.site.kind == "self":
            return call.context
        self.seen.append(call.context)
        return call.context + 1


@pytest.mark.parametrize("style", ["ldm", "fused", "dit"])
def test_context_that_a_control_moves_travels_from_site_to_site(style: str) -> None:
    _, network = foreign(style)
    z, t, context = inputs()
    control = Nudge()
    moved = network(z, t, context, control=control)
    for i, seen in enumerate(control.seen):
        torch.testing.assert_close(seen, context + i)
    assert len(control.seen) >= 2
    assert not torch.allclose(moved, network(z, t, context), atol=1e-4)


class TwoTexts(nn.Module):
    """Layers that read another text each, in turn, as where two encoders are used; copies are made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.fourth = (CrossAttention(4, 10, 2, 2, 0.0) for _ in range(4))

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        x = z.flatten(2).mT
        x = x + self.first(x, context)
        x = x + self.second(x, context.flip(1))
        x = x + self.third(x, context.clone())
        x = x + self.fourth(x, context.flip(1))
        return x.mT.reshape(z.shape)


def test_a_moved_context_reaches_the_layers_that_read_that_context() -> None:
    torch.manual_seed(0)
    plain = TwoTexts().eval()
    network = adapt(copy.deepcopy(plain), LDM, lambda net, z, t, c: net(z, t, c), context_shape=(7, 10))
    z, t, context = inputs()
    expected = plain(z, torch.full((2,), t), context)
    torch.testing.assert_close(network(z, t, context, control=Control()), expected, rtol=1e-5, atol=1e-5)
    control = Nudge()
    network(z, t, context, control=CheckedControl(control))
    expected_contexts = context, context.flip(1), context + 1, context.flip(1) + 1
    for seen, expected in zip(control.seen, expected_contexts, strict=True):
        torch.testing.assert_close(seen, expected)


def test_rewritten_scores_are_what_the_layer_uses() -> None:
    class Only(Control):
        def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
            return scores if call.site.kind == "self" else scores.masked_fill(torch.arange(7) > 0, -math.inf)

    plain, network = foreign("ldm")
    z, t, context = inputs()
    first = context[:, :1].expand(-1, 7, -1)  # all keys equal the first: the same as seeing only it
    torch.testing.assert_close(
        network(z, t, context, control=Only()), plain(z, torch.full((2,), t), first), rtol=1e-4, atol=1e-5
    )


def test_checkpointing_gives_the_same_gradient() -> None:
    _, network = foreign("ldm")
    z, t, context = inputs()
    z.requires_grad_(True)

    def gradient(checkpoint: bool) -> Tensor:
        records = network.attention(z, t, context, resolution=(8, 12), checkpoint=checkpoint)
        return torch.autograd.grad(records.mean_scores().square().sum(), z)[0]

    torch.testing.assert_close(gradient(True), gradient(False))


@pytest.mark.slow
def test_two_threads_use_one_network_without_seeing_each_other() -> None:
    _, network = foreign("ldm")
    z, t, context = inputs()
    network.sites(z.shape)
    expected = {name: network.attention(z, t, context, sites=[name])[0].scores for name in ("outer.attn2", "up.attn2")}
    wrong: list[str] = []

    def work(name: str) -> None:
        for _ in range(20):
            records = network.attention(z, t, context, sites=[name])
            if len(records) != 1 or not torch.equal(records[0].scores, expected[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in expected for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_dropout_in_the_output_is_the_modules_own_in_training() -> None:
    plain, network = foreign("ldm")
    z, t, context = inputs()
    network.sites(z.shape)
    network.train()
    plain.train()
    torch.manual_seed(3)
    expected = plain(z, torch.full((2,), t), context)
    torch.manual_seed(3)
    noise, _ = network(z, t, context, record=["outer.attn2"])
    torch.testing.assert_close(noise, expected, rtol=1e-5, atol=1e-5)
    assert network.training


def test_a_copy_of_the_module_computes_with_its_own_weights() -> None:
    _, network = foreign("ldm")
    z, t, context = inputs()
    clone = copy.deepcopy(network.net)
    with torch.no_grad():
        for weight in clone.parameters():
            weight.zero_()
    assert network(z, t, context).abs().max() > 0
    assert clone(z, torch.full((2,), t), context).abs().max() == 0


def test_a_copy_of_the_network_hands_out_its_own_records() -> None:
    _, network = foreign("ldm")
    z, t, context = inputs()
    expected = network.attention(z, t, context, sites=["up.attn2"])[0].scores
    clone = copy.deepcopy(network)
    with torch.no_grad():
        network.net.get_submodule("up.attn2.to_q").weight.zero_()  # type: ignore[operator, union-attr]
    assert torch.equal(clone.attention(z, t, context, sites=["up.attn2"])[0].scores, expected)
    assert network.attention(z, t, context, sites=["up.attn2"])[0].scores.abs().max() == 0


def test_a_layer_that_computes_more_is_refused_by_name() -> None:
    class Residual(CrossAttention):
        def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
            return x + super().forward(x, context, mask)

    net = LdmLike().eval()
    net.inner.attn2 = Residual(8, 10, 3, 4, 0.0)
    network = adapt(net, LDM, lambda net, z, t, c: net(z, t, c), context_shape=(7, 10))
    with pytest.raises(ValueError, match=r"inner\.attn2 cannot be adapted.*residual"):
        network.sites((8, 8))


class PreNorm(CrossAttention):
    """lucidrains': a norm of the layer's input inside the layer."""

    def __init__(self, context_width: int | None, channels: int = 8) -> None:
        super().__init__(channels, context_width, 2, 6, 0.0)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return super().forward(self.norm(x), context, mask)


@pytest.mark.parametrize("context_width", [None, 10])
def test_a_norm_of_the_input_inside_the_layer_is_named(context_width: int | None) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = PreNorm(context_width)

        def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
            x = z.flatten(2).transpose(1, 2)
            return (x + self.attn(x, context if context_width else None)).transpose(1, 2).reshape(z.shape)

    torch.manual_seed(0)
    net, call = Flat(), lambda net, z, t, c: net(z, t, c)
    nn.init.normal_(net.attn.norm.weight)
    z, context = 5 * torch.randn(2, 8, 4, 6) + 1, torch.randn(2, 7, 10)
    expected = net(z, torch.zeros(2), context)
    parts: dict[str, Any] = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out", "heads": "heads"}
    with pytest.raises(ValueError, match=r"attn cannot be adapted.*a norm that norm="):
        adapt(copy.deepcopy(net), {PreNorm: layer(**parts)}, call, context_shape=(7, 10)).sites(z.shape)
    with pytest.raises(ValueError, match=r"attn \(PreNorm\) has no 'norm1'"):
        adapt(copy.deepcopy(net), {PreNorm: layer(**parts, norm="norm1")}, call, context_shape=(7, 10))
    network = adapt(net, {PreNorm: layer(**parts, norm="norm")}, call, context_shape=(7, 10))
    noise, records = network(z, 0, context, record=["attn"])
    torch.testing.assert_close(noise, expected)
    x = net.attn.norm(z.flatten(2).transpose(1, 2))
    keys = net.attn.to_k(context if context_width else x)
    for head in range(2):
        part = slice(6 * head, 6 * head + 6)
        scores = net.attn.to_q(x)[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(6)
        torch.testing.assert_close(records[0].scores[:, head], scores)


class NormedQueries(CrossAttention):
    """As in SD3: queries and keys are normed, each head or all together."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__(8, 10, 2, 6, 0.0)
        self.whole, size = whole, 12 if whole else 6
        self.q_norm, self.k_norm = nn.LayerNorm(size), nn.LayerNorm(size)

    def queries_and_keys(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        """[batch, head, query or key, dim]."""
        if self.whole:
            q, k = self.q_norm(self.to_q(x)), self.k_norm(self.to_k(context))
            return tuple(part.unflatten(-1, (2, 6)).transpose(1, 2) for part in (q, k))
        q, k = (part.unflatten(-1, (2, 6)).transpose(1, 2) for part in (self.to_q(x), self.to_k(context)))
        return self.q_norm(q), self.k_norm(k)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        assert context is not None
        q, k = self.queries_and_keys(x, context)
        v = self.to_v(context).unflatten(-1, (2, 6)).transpose(1, 2)
        out = (q @ k.transpose(-1, -2) / math.sqrt(6)).softmax(-1) @ v
        return self.to_out(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("whole", [True, False])
def test_norms_of_queries_and_keys_are_named(whole: bool) -> None:
    torch.manual_seed(0)
    net = LdmLike().eval()
    net.inner.attn2 = NormedQueries(whole=whole).eval()
    for norm in (net.inner.attn2.q_norm, net.inner.attn2.k_norm):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    z, t, context = inputs()
    expected = net(z, torch.full((2,), t), context)
    seen: dict[str, Tensor] = {}
    hook = net.inner.attn2.register_forward_pre_hook(
        lambda layer, args, kwargs: seen.update(x=args[0], context=kwargs["context"]), with_kwargs=True
    )
    net(z, torch.full((2,), t), context)
    hook.remove()
    q, k = net.inner.attn2.queries_and_keys(seen["x"], seen["context"])
    parts: dict[str, Any] = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out", "heads": "heads"}
    layers = {NormedQueries: layer(**parts, q_norm="q_norm", k_norm="k_norm"), **LDM}
    network = adapt(net, layers, lambda net, z, t, c: net(z, t, c), context_shape=(7, 10))
    noise, records = network(z, t, context, record=["inner.attn2"])
    torch.testing.assert_close(noise, expected)
    torch.testing.assert_close(records[0].scores, q @ k.transpose(-1, -2) / math.sqrt(6))
    control = MovingContext(torch.ones(2, 7), 0.1)
    with pytest.raises(ValueError, match=r"keys that are linear in the context; inner\.attn2 has a norm behind them"):
        network(z, t, context, control=control)


class Padded(nn.Module):
    """A network that takes the text's mask beside the text."""

    def __init__(self) -> None:
        super().__init__()
        self.cross = DitCross(8, 10, 2)

    def forward(self, z: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        return self.cross(z.flatten(2).transpose(1, 2), text, mask=mask).transpose(1, 2).reshape(z.shape)


def test_a_mask_travels_in_the_context() -> None:
    """So that a guide which asks for some samples of the batch hides each one's own padding."""
    torch.manual_seed(0)
    call: Any = lambda net, z, t, c: net(z, c[..., :-1], c[..., -1] > 0)  # noqa: E731
    network = adapt(Padded(), DIT, call, context_shape=(7, 11))
    z, mask = torch.randn(2, 8, 4, 6), torch.ones(2, 7, 1)
    mask[0, 4:], mask[1, 6:] = 0, 0
    context = torch.cat([torch.randn(2, 7, 10), mask], -1)
    groups, tokens = [[Group((2,), ((1,),))], [Group((5,), ((3,),))]], [range(1, 4), range(1, 6)]
    together = guide_for("ebama", network, context, groups, tokens, calls=1)(z, 0, 0)
    alone = guide_for("ebama", network, context[1:], groups[1], tokens[1], calls=1)(z[1:], 0, 0)
    torch.testing.assert_close(together.latents[1:], alone.latents)
    hidden = network.attention(z, 0, context, resolution=(4, 6))[0].scores.isneginf()
    assert torch.equal(hidden[:, 0, 0], mask[..., 0] == 0)


def test_the_latents_say_how_many_channels_they_have() -> None:
    net = LdmLike().eval()
    net.conv_in, net.conv_out = nn.Conv2d(9, 8, 3, padding=1), nn.Conv2d(8, 9, 3, padding=1)
    network = adapt(net, LDM, lambda net, z, t, c: net(z, t, c), context_shape=(7, 10))
    assert len(network.attention(torch.randn(1, 9, 8, 8), 3, torch.randn(1, 7, 10), resolution=8)) == 2
    assert len(network.sites((9, 8, 8))) == 6


def test_what_cannot_be_described_is_refused() -> None:
    call: Any = lambda net, z, t, c: net(z, t, c)  # noqa: E731
    with pytest.raises(ValueError, match="expected q, k, v, or q, kv, or qkv"):
        layer(q="to_q", out="to_out", heads="heads")
    with pytest.raises(ValueError, match=r"attn1 \(CrossAttention\) has no 'query'"):
        adapt(
            LdmLike(),
            {CrossAttention: layer(q="query", k="to_k", v="to_v", out="to_out", heads=2)},
            call,
            context_shape=(7, 10),
        )
    with pytest.raises(ValueError, match="heads = 5"):
        adapt(
            LdmLike(),
            {CrossAttention: layer(q="to_q", k="to_k", v="to_v", out="to_out", heads=5)},
            call,
            context_shape=(7, 10),
        )
    with pytest.raises(ValueError, match=r"LdmLike holds no layer FusedSelf.*CrossAttention"):
        adapt(LdmLike(), {FusedSelf: layer(qkv="in_proj", out="out_proj", heads=2)}, call, context_shape=(7, 10))
    torch.manual_seed(0)
    net = LdmLike()
    net.up = net.outer
    network = adapt(net, LDM, call, context_shape=(7, 10))
    with pytest.raises(ValueError, match="runs more than once"):
        network.sites((8, 8))
    net = LdmLike()
    net.unused = CrossAttention(10, 10, 2, 5, 0.0)
    network = adapt(net, {"unused": LDM[CrossAttention]}, call, context_shape=(7, 10))
    with pytest.raises(ValueError, match="None of the layers unused ran; describe the modules whose forward is called"):
        network.sites((8, 8))


def test_unet_and_adapted_modules_are_networks() -> None:
    assert isinstance(foreign("fused")[1], Network)
    assert isinstance(UNet, type)
    assert issubclass(UNet, nn.Module)
    assert all(hasattr(UNet, name) for name in ("sites", "attention", "__call__"))


@pytest.mark.slow
def test_diffusers_own_unet_becomes_a_network() -> None:
    net = diffusers_unet()
    attention = pytest.importorskip("diffusers.models.attention_processor").Attention
    z, t, context = inputs(size=(8, 8))
    expected = net(z, t, encoder_hidden_states=context).sample
    network = adapt(
        net,
        {attention: layer(q="to_q", k="to_k", v="to_v", out="to_out.0", heads="heads")},
        lambda net, z, t, context: net(z, t, encoder_hidden_states=context).sample,
        context_shape=(7, 10),
    )
    sites = network.sites(z.shape)
    assert [site.kind for site in sites] == ["self", "cross"] * 4
    assert torch.equal(network(z, t, context), expected)
    noise, records = network(z, t, context, record=sites)
    torch.testing.assert_close(noise, expected, rtol=1e-5, atol=1e-5)
    assert len(records) == 8
