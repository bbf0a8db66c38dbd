"""Foreign attention layers of many kinds: what is adapted computes the same, what is not is refused by its name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from foreign_networks import STYLES, CrossAttention, foreign, inputs
from torch import Tensor, nn
from torch.nn import functional as F

from ebama.guidance.control import CheckedControl
from ebama.methods.ebca import MovingContext
from ebama.models import adapt, layer

PARTS: dict[str, Any] = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out", "heads": "heads"}
KEYS, WIDTH, SIZE = 7, 10, (4, 6)


class Flat(nn.Module):
    """One layer over the pixels of a latent, with tokens in front that are no pixels."""

    def __init__(self, attn: nn.Module, registers: int = 0) -> None:
        super().__init__()
        self.attn, self.registers = attn, registers

    def forward(self, z: Tensor, t: Tensor, context: Tensor, **options: Any) -> Tensor:
        x = z.flatten(2).mT
        x = torch.cat([x.new_ones(len(x), self.registers, x.shape[-1]), x], 1)
        x = x + self.attn(x, context, **options)
        return x[:, self.registers :].mT.reshape(z.shape)


def adapted(attn: nn.Module, layers: Any = None, registers: int = 0, **options: Any) -> Any:
    net = Flat(attn, registers)
    return adapt(net, layers, lambda net, z, t, c: net(z, t, c, **options), context_shape=(KEYS, WIDTH), channels=8)


def latents(batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, 8, *SIZE, generator=generator), torch.randn(batch, KEYS, WIDTH, generator=generator)


def assert_same(attn: nn.Module, layers: Any = None, **options: Any) -> Any:
    """The adapted network computes what the module does; its record at a pair of latents."""
    plain, (z, context) = Flat(copy.deepcopy(attn)), latents()
    expected = plain(z, torch.ones(2), context, **options)
    noise, records = adapted(attn, layers, **options)(z, 1, context, record=["attn"])
    torch.testing.assert_close(noise, expected, rtol=1e-5, atol=1e-5)
    return records[0]


# --- grouped queries ---


class Grouped(nn.Module):
    """Keys and values of fewer heads than the queries have, their projections apart or in one."""

    def __init__(self, key_heads: int, fused: str = "", dim: int = 6) -> None:
        super().__init__()
        self.heads, self.key_heads, self.fused = 4, key_heads, fused
        inner, fewer, source = 4 * dim, key_heads * dim, 8 if fused == "qkv" else WIDTH
        if fused == "qkv":
            self.qkv = nn.Linear(source, inner + 2 * fewer)
        elif fused == "kv":
            self.to_q, self.to_kv = nn.Linear(8, inner), nn.Linear(source, 2 * fewer)
        else:
            self.to_q, self.to_k, self.to_v = nn.Linear(8, inner), nn.Linear(source, fewer), nn.Linear(source, fewer)
        self.to_out = nn.Linear(inner, 8)
        self.sizes = inner, fewer, fewer

    def projected(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, [batch, head, ..., dim]."""
        if self.fused == "qkv":
            parts = self.qkv(x).split(self.sizes, -1)
        elif self.fused == "kv":
            parts = self.to_q(x), *self.to_kv(context).chunk(2, -1)
        else:
            parts = self.to_q(x), self.to_k(context), self.to_v(context)
        heads = self.heads, self.key_heads, self.key_heads
        q, k, v = (part.unflatten(-1, (n, -1)).transpose(1, 2) for part, n in zip(parts, heads, strict=True))
        return q, *(part.repeat_interleave(self.heads // self.key_heads, 1) for part in (k, v))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.projected(x, context)
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("fused", ["", "kv"])
def test_grouped_queries(key_heads: int, fused: str) -> None:
    torch.manual_seed(0)
    attn = Grouped(key_heads, fused)
    record, (z, context) = assert_same(attn), latents()
    q, k, _ = attn.projected(z.flatten(2).mT, context)
    assert record.site.heads == 4
    torch.testing.assert_close(record.scores, q @ k.mT / math.sqrt(6))


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_grouped_queries_of_one_fused_projection(key_heads: int) -> None:
    class Self(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Grouped(key_heads, "qkv")

        def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
            x = z.flatten(2).mT
            return (x + self.attn(x, x)).mT.reshape(z.shape)

    torch.manual_seed(0)
    net, (z, context) = Self(), latents()
    expected = net(z, torch.ones(2), context)
    network = adapt(net, context_shape=(KEYS, WIDTH), channels=8)
    noise, records = network(z, 1, context, record=["attn"])
    torch.testing.assert_close(noise, expected, rtol=1e-5, atol=1e-5)
    q, k, _ = net.attn.projected(z.flatten(2).mT, z.flatten(2).mT)
    torch.testing.assert_close(records[0].scores, q @ k.mT / math.sqrt(6))


def test_ebca_moves_the_context_of_grouped_queries_down_the_same_weights() -> None:
    torch.manual_seed(0)
    grouped = Grouped(2)
    whole = Grouped(4)
    whole.load_state_dict(
        {
            name: value.unflatten(0, (2, -1)).repeat_interleave(2, 0).flatten(0, 1)
            if name.split(".")[0] in ("to_k", "to_v")
            else value
            for name, value in grouped.state_dict().items()
        }
    )
    z, context = latents()
    moved = []
    for attn in (grouped, whole):
        control = CheckedControl(MovingContext(torch.ones(2, KEYS), 0.1))
        adapted(attn)(z, 1, context, control=control)
        moved.append(control._moves["attn"][1])
    torch.testing.assert_close(*moved)
    assert not torch.allclose(moved[0], context, atol=1e-3)


# --- norms of all heads at once ---


class RMSNorm(nn.Module):
    """As many write it: one weight, under a name of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.gamma


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer norm": nn.LayerNorm,
    "without weights": lambda width: nn.LayerNorm(width, elementwise_affine=False),
    "rms": RMSNorm,
    "torch's rms": lambda width: nn.RMSNorm(width, elementwise_affine=False),
}


class Normed(CrossAttention):
    def __init__(self, norm: Callable[[int], nn.Module], width: int) -> None:
        super().__init__(8, WIDTH, 2, 6, 0.0)
        self.width, self.q_norm, self.k_norm = width, norm(width), norm(width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        assert context is not None
        q = self.q_norm(self.to_q(x).unflatten(-1, (-1, self.width))).flatten(-2)
        k = self.k_norm(self.to_k(context).unflatten(-1, (-1, self.width))).flatten(-2)
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in (q, k, self.to_v(context)))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("width", [6, 12], ids=["each head", "all heads"])
@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_each_head_and_of_all(norm: str, width: int) -> None:
    torch.manual_seed(0)
    attn = Normed(NORMS[norm], width)
    described = assert_same(attn, {Normed: layer(**PARTS, q_norm="q_norm", k_norm="k_norm")})
    assert torch.equal(assert_same(attn, [Normed]).scores, described.scores), "the usual names"


# --- masks ---


class Masked(CrossAttention):
    """Takes whatever `scaled_dot_product_attention` does."""

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        mask = mask[:, None, None] if mask is not None and mask.ndim == 2 and len(mask) == len(x) else mask
        return self.to_out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


SEEN = torch.rand(24, KEYS, generator=torch.Generator().manual_seed(0)) > 0.3


@pytest.mark.parametrize("mask", [SEEN, SEEN.float(), SEEN[None, None], SEEN[None, None, :1]])
def test_masks_that_do_not_differ_between_samples(mask: Tensor) -> None:
    torch.manual_seed(0)
    record = assert_same(Masked(8, WIDTH, 2, 6, 0.0), mask=mask)
    if mask.dtype == torch.bool:
        assert torch.equal(record.scores.isneginf(), ~mask.expand_as(record.scores))


@pytest.mark.parametrize("shape", [(2, KEYS), (3, 24, KEYS), (2, 1, 1, KEYS)])
def test_a_mask_of_other_samples_that_a_closure_holds_is_refused(shape: tuple[int, ...]) -> None:
    for kind in (Masked, CrossAttention):
        network = adapted(kind(8, WIDTH, 2, 6, 0.0), mask=torch.ones(shape, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"layer attn cannot be adapted: it got a mask of shape .* in the context"):
            network.sites(SIZE)


class Held(CrossAttention):
    """Its mask is its own affair."""

    def __init__(self, rows: int) -> None:
        super().__init__(8, WIDTH, 2, 6, 0.0)
        self.held = torch.arange(KEYS).expand(rows, -1) < 5

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, context, self.held)


class Deaf(CrossAttention):
    """Is given a context and does not read it."""

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize(
    ("attn", "message"),
    [
        (Held(1), r"layer attn cannot be adapted: its output is not that of .* a mask that is no argument"),
        (Held(2), r"layer attn cannot be adapted: it does not return \[batch, query, width\] alone"),
        (Held(3), r"layer attn cannot be adapted: it does not return"),
        (
            Deaf(8, None, 2, 6, 0.0),
            r"layer attn cannot be adapted: attention over the described projections fails \(Run",
        ),
    ],
)
def test_what_a_layer_does_on_its_own_is_refused(attn: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapted(attn).sites(SIZE)


def test_what_fails_in_the_trial_run_says_where() -> None:
    network = adapted(CrossAttention(8, WIDTH, 2, 6, 0.0), mask=torch.ones(KEYS, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"attn cannot be adapted: it fails on queries \[1, 24, 8\] .* \(IndexError"):
        network.sites(SIZE)
    narrow = adapt(Flat(CrossAttention(8, WIDTH, 2, 6, 0.0)), context_shape=(KEYS, 5), channels=8)
    with pytest.raises(ValueError, match=r"attn cannot be .* fails on queries \[1, 24, 8\] and a context \[1, 7, 5\]"):
        narrow.sites(SIZE)
    other = adapt(Flat(Grouped(2)), call=lambda net, z, t, c: net(z, c), context_shape=(KEYS, WIDTH), channels=8)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"Flat does not run with a latent \[1, 8, 4, 6\].*`call` says .*'context'"):
        other.sites(SIZE)


@pytest.mark.parametrize("registers", [1, 4, 5])
def test_tokens_that_are_no_pixels_are_refused(registers: int) -> None:
    with pytest.raises(ValueError, match=rf"The {24 + registers} queries of the layer attn fit no .*\(registers"):
        adapted(CrossAttention(8, WIDTH, 2, 6, 0.0), registers=registers).sites(SIZE)


# --- usual names ---


@pytest.mark.parametrize("style", STYLES)
def test_layers_of_usual_names_need_no_description(style: str) -> None:
    plain, described = foreign(style)
    (z, t, context), classes = inputs(), list(STYLES[style][1])
    expected = described.attention(z, t, context, resolution=None, kind=None)
    for layers in (None, classes):
        network = adapt(copy.deepcopy(plain), layers, context_shape=(7, 10))
        found = network.attention(z, t, context, resolution=None, kind=None)
        assert [record.site for record in found] == [record.site for record in expected]
        assert all(torch.equal(one.scores, other.scores) for one, other in zip(found, expected, strict=True))


def test_names_that_are_not_usual_are_asked_for() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask, self.say = nn.Linear(8, 8), nn.Linear(8, 8)

    net = Flat(Odd())
    for layers in ([Odd], ["attn"]):
        with pytest.raises(ValueError, match=r"parts of the layer attn \(Odd\) have no usual names. Say where"):
            adapt(net, layers, context_shape=(KEYS, WIDTH))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Flat holds no layer whose parts have usual names"):
        adapt(net, context_shape=(KEYS, WIDTH))


class NormedByItsBlock(CrossAttention):
    """Holds a norm of pixels that its block applies."""

    def __init__(self) -> None:
        super().__init__(8, WIDTH, 2, 6, 0.0)
        self.norm = nn.GroupNorm(2, 8)


def test_a_norm_in_a_layer_is_not_taken_for_its_own_until_said() -> None:
    torch.manual_seed(0)
    assert_same(NormedByItsBlock())
    with pytest.raises(ValueError, match=r"layer attn cannot be adapted \(RuntimeError: Expected weight"):
        adapted(NormedByItsBlock(), {NormedByItsBlock: layer(**PARTS, norm="norm")}).sites(SIZE)


def test_layers_that_are_not_there_or_no_layers_are_named() -> None:
    attn = CrossAttention(8, WIDTH, 2, 6, 0.0)
    for layers in (["atn", "attn"], {"attn": layer(**PARTS), "atn": layer(**PARTS)}):
        with pytest.raises(ValueError, match=r"Flat holds no layer atn; close to it: attn"):
            adapted(attn, layers)
    for layers in ([layer(**PARTS)], {"attn": "to_q"}, [("attn", layer(**PARTS))]):
        with pytest.raises(ValueError, match=r"layers holds .*; expected \{class or name: layer"):
            adapted(attn, layers)


def test_a_layer_that_was_refused_stays_as_it_was_for_the_next_adapt() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held, self.attn = Held(1), CrossAttention(8, WIDTH, 2, 6, 0.0)

        def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
            x = z.flatten(2).mT
            return (self.attn(x, context) + self.held(x, context)).mT.reshape(z.shape)

    net, (z, context) = Two(), latents()
    expected = net(z, torch.ones(2), context)
    with pytest.raises(ValueError, match="layer held cannot be adapted"):
        adapt(net, context_shape=(KEYS, WIDTH), channels=8).sites(SIZE)
    network = adapt(net, ["attn"], context_shape=(KEYS, WIDTH), channels=8)
    assert [site.name for site in network.sites(SIZE)] == ["attn"]
    torch.testing.assert_close(network(z, 1, context, record=["attn"])[0], expected)


def test_what_a_layer_gets_beside_its_context_is_named() -> None:
    class Extra(CrossAttention):
        def forward(self, x: Tensor, context: Tensor, grid: Any = None) -> Tensor:  # type: ignore[override]
            return super().forward(x, context)

    with pytest.raises(ValueError, match=r"layer attn .* it takes grid too\. If that is its context .* name the other"):
        adapted(Extra(8, WIDTH, 2, 6, 0.0), grid=SIZE).sites(SIZE)


class OfMaps(nn.Module):
    """Takes and returns feature maps, norms its input and adds it to its output, as U-Nets before ldm's do."""

    def __init__(self, fused: bool, convolutions: bool) -> None:
        super().__init__()
        self.convolutions, self.count = convolutions, 2
        self.pre = nn.GroupNorm(2, 8) if convolutions else nn.LayerNorm(8)
        self.theta, self.mix = self.part(8, 12), self.part(12, 8)
        self.phi_g = self.part(8, 24) if fused else nn.Linear(WIDTH, 24)

    def part(self, width: int, rows: int) -> nn.Module:
        return nn.Conv2d(width, rows, 1) if self.convolutions else nn.Linear(width, rows)

    def apply_to(self, part: nn.Module, maps: Tensor) -> Tensor:
        return part(maps).flatten(2).mT if self.convolutions else part(maps.flatten(2).mT)

    def forward(self, maps: Tensor, words: Tensor | None = None) -> Tensor:
        h = self.pre(maps) if self.convolutions else self.pre(maps.flatten(2).mT).mT.unflatten(-1, maps.shape[-2:])
        kv = self.apply_to(self.phi_g, h) if words is None else self.phi_g(words)
        parts = self.apply_to(self.theta, h), *kv.chunk(2, -1)
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in parts)
        rows = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return maps + self.apply_to(self.mix, rows.mT.unflatten(-1, maps.shape[-2:])).mT.reshape(maps.shape)


class MapNet(nn.Module):
    def __init__(self, convolutions: bool) -> None:
        super().__init__()
        self.look, self.read = OfMaps(True, convolutions), OfMaps(False, convolutions)

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.read(self.look(z), context)


@pytest.mark.parametrize("convolutions", [False, True])
def test_layers_of_feature_maps_that_add_their_input(convolutions: bool) -> None:
    torch.manual_seed(0)
    net, (z, context) = MapNet(convolutions), latents()
    expected = net(z, torch.ones(2), context)
    parts: Any = {"q": "theta", "kv": "phi_g", "out": "mix", "heads": "count", "norm": "pre", "context": "words"}
    with pytest.raises(ValueError, match=r"layer look cannot be adapted: .* a residual that residual=True"):
        adapt(net, {OfMaps: layer(**parts)}, context_shape=(KEYS, WIDTH), channels=8).sites(SIZE)
    network = adapt(net, {OfMaps: layer(**parts, residual=True)}, context_shape=(KEYS, WIDTH), channels=8)
    noise, records = network(z, 1, context, record=network.sites(z.shape))
    torch.testing.assert_close(noise, expected)
    assert [(record.site.kind, record.site.resolution) for record in records] == [("self", SIZE), ("cross", SIZE)]


class Tuned(nn.Linear):
    """A linear layer with a change of low rank beside it, as trainers put in its place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.load_state_dict(base.state_dict())
        self.down = nn.Parameter(torch.randn(2, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


@pytest.mark.parametrize("in_place", [False, True])
def test_a_fused_projection_that_is_fine_tuned_is_what_it_became(in_place: bool) -> None:
    plain, network = foreign("fused")
    z, t, context = inputs()
    sites = network.sites(z.shape)  # the change is nothing yet
    changes = []
    for net in (plain, network.net):
        torch.manual_seed(1)
        tuned = Tuned(net.first.in_proj)
        nn.init.normal_(tuned.up)
        if in_place:
            net.first.in_proj.forward = tuned.forward
        else:
            net.first.in_proj = tuned
        changes.append(tuned)
    expected = plain(z, torch.full((len(z),), t), context)
    found, _ = network(z, t, context, record=sites)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    found.sum().backward()
    expected.sum().backward()
    ours, theirs = changes[1].up.grad, changes[0].up.grad
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["theta", "phi_g", "mix"])
def test_a_convolution_that_is_fine_tuned_is_what_it_became(name: str) -> None:
    net, (z, context) = MapNet(convolutions=True), latents()
    parts: Any = {"q": "theta", "kv": "phi_g", "out": "mix", "heads": "count", "norm": "pre", "context": "words"}
    network = adapt(net, {OfMaps: layer(**parts, residual=True)}, context_shape=(KEYS, WIDTH), channels=8)
    sites = network.sites(z.shape)
    tuned = getattr(net.look, name)
    before, change = tuned.forward, nn.Conv2d(tuned.in_channels, tuned.out_channels, 1)
    tuned.forward = lambda maps: before(maps) + change(maps)
    expected = net(z, torch.ones(2), context)
    found, _ = network(z, 1, context, record=sites)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert change.weight.grad is not None
    assert change.weight.grad.abs().max() > 0


class Joined(Flat):
    """Puts tokens of its own before or behind the text."""

    def __init__(self, before: int, behind: int) -> None:
        super().__init__(CrossAttention(8, WIDTH, 2, 6, 0.0))
        self.before, self.behind = before, behind

    def forward(self, z: Tensor, t: Tensor, context: Tensor, **options: Any) -> Tensor:
        parts = context.new_ones(1, self.before, WIDTH), context, context.new_ones(1, self.behind, WIDTH)
        return super().forward(z, t, torch.cat([part.expand(len(z), -1, -1) for part in parts], 1))


def test_the_text_is_the_first_of_a_layers_keys() -> None:
    z, context = latents()
    network = adapt(Joined(0, 3), context_shape=(KEYS, WIDTH), channels=8)
    assert network(z, 1, context, record=["attn"])[1][0].scores.shape[-1] == KEYS + 3
    seen = (torch.arange(KEYS) < 4)[:, None]  # the others are padding, which the call leaves out
    masked = adapt(
        Joined(0, 3), None, lambda net, z, t, c: net(z, t, c * seen), context_shape=(KEYS, WIDTH), channels=8
    )
    assert masked.sites(SIZE)
    network = adapt(Joined(3, 0), context_shape=(KEYS, WIDTH), channels=8)
    with pytest.raises(
        ValueError, match=rf"^The layer attn cannot .* {KEYS + 3} keys and begins with others than the 7"
    ):
        network.sites(SIZE)


class Dropping(nn.Module):
    """torch's layer as it stands in a block, with dropout of its attention."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, dropout=dropout, kdim=WIDTH, vdim=WIDTH, batch_first=True)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.attn(x, context, context, need_weights=False)[0]


def test_dropout_that_recording_would_leave_out_is_refused_in_training_mode() -> None:
    z, context = latents()
    for dropout in (0.0, 0.5):
        net = Flat(Dropping(dropout))
        network = adapt(net, context_shape=(KEYS, WIDTH), channels=8)
        sites = network.sites(SIZE)
        assert all(module.training for module in net.modules())
        if dropout:
            with pytest.raises(
                ValueError, match=r"layer attn\.attn drops attention at random in training mode.* eval\(\)"
            ):
                network(z, 1, context, record=sites)
            net.eval()
        noise, _ = network(z, 1, context, record=sites)
        torch.testing.assert_close(noise, net(z, torch.ones(2), context))


def test_dropout_of_a_projection_is_the_layers_own() -> None:
    z, context = latents()
    attn = CrossAttention(8, WIDTH, 2, 6, 0.0)
    for name in ("to_k", "to_q"):
        setattr(attn, name, nn.Sequential(getattr(attn, name), nn.Dropout(0.5)))
        getattr(attn, name).weight = getattr(attn, name)[0].weight
    network = adapt(Flat(attn), context_shape=(KEYS, WIDTH), channels=8)
    first, second = (network(z, 1, context, record=["attn"])[0] for _ in range(2))
    assert (first - second).abs().max() > 0


def test_dropout_of_the_output_is_the_layers_own() -> None:
    z, context = latents()
    net = Flat(CrossAttention(8, WIDTH, 2, 6, 0.5))
    network = adapt(net, context_shape=(KEYS, WIDTH), channels=8)
    before = torch.get_rng_state()
    sites = network.sites(SIZE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    expected = net(z, torch.ones(2), context)
    torch.manual_seed(0)
    torch.testing.assert_close(network(z, 1, context, record=sites)[0], expected)


def test_threads_whose_first_calls_meet_leave_the_modes_alone() -> None:
    z, context = latents()
    for _ in range(5):
        net = Flat(CrossAttention(8, WIDTH, 2, 6, 0.0))
        network = adapt(net, context_shape=(KEYS, WIDTH), channels=8)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, network=network: network(z, 1, context, record=["attn"]), range(4)))
        assert all(module.training for module in net.modules())


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        ("file", {}, "net is a str; expected an nn.Module"),
        ({}, {}, "net is a dict; expected an nn.Module"),
        (nn.Linear(1, 1), {"context_shape": 77}, "context_shape is 77"),
        (nn.Linear(1, 1), {"context_shape": (77.0, 64)}, r"expected \(keys, width\) of the text"),
        (nn.Linear(1, 1), {"channels": None}, "channels None"),
    ],
)
def test_what_is_no_network_is_refused(net: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(net, **{"context_shape": (KEYS, WIDTH), **options})


class Biased(CrossAttention):
    """Its output and a bias on its scores begin as zero."""

    def __init__(self) -> None:
        super().__init__(8, WIDTH, 2, 6, 0.0)
        self.bias = nn.Parameter(torch.zeros(KEYS))
        for parameter in self.to_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        q, k, v = (
            part.unflatten(-1, (2, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v, self.bias).transpose(1, 2).flatten(2))


def test_a_layer_that_begins_as_zero_is_compared_too() -> None:
    z, context = latents()
    with pytest.raises(ValueError, match=r"layer attn cannot be adapted: its output is not that of softmax"):
        adapt(Flat(Biased()), context_shape=(KEYS, WIDTH), channels=8).sites(SIZE)
    attn = CrossAttention(8, WIDTH, 2, 6, 0.0)
    for parameter in attn.to_out.parameters():
        nn.init.zeros_(parameter)
    network = adapt(Flat(attn), context_shape=(KEYS, WIDTH), channels=8)
    held = attn.to_out[0](context.new_ones(1, 12)).sum()
    torch.testing.assert_close(network(z, 1, context, record=["attn"])[0], z)
    held.backward()
    assert not any(parameter.any() for parameter in attn.to_out.parameters())


def test_a_trial_under_autocast_leaves_what_comes_after_it_alone() -> None:
    z, context = latents()
    attn = CrossAttention(8, WIDTH, 2, 6, 0.0)
    nn.init.zeros_(attn.to_out[0].weight)
    network = adapt(Flat(attn), context_shape=(KEYS, WIDTH), channels=8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = Flat(copy.deepcopy(attn))(z, torch.ones(2), context)
        network.sites(z.shape)
        assert torch.equal(network(z, 1, context), expected)
