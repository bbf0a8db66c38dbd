"""U-Net, VAE and attention by themselves: sites, records, early stop, control, errors, cost."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ebama.models import (
    MINIATURE,
    SD_V1,
    VAE,
    AttentionCall,
    Control,
    Site,
    TextEncoder,
    UNet,
    UNetConfig,
    VAEConfig,
)

SMALL = UNetConfig(
    widths=(16, 32, 32, 32),
    attention=(True, True, True, False),
    heads=(4,) * 4,
    blocks=2,
    context_width=24,
    norm_groups=8,
)


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights that no part of the output is blind to."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * noise)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def unet() -> UNet:
    return randomised(UNet(SMALL))


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 32, 32, generator=generator), torch.randn(2, 77, 24, generator=generator)


def test_sites_are_listed_in_execution_order_before_anything_runs(unet: UNet) -> None:
    sites = unet.sites((1, 4, 64, 64))
    cross = [site for site in sites if site.kind == "cross"]
    assert len(sites) == 32
    assert [site.resolution[0] for site in cross] == [64, 64, 32, 32, 16, 16, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    assert cross[4].name == "down_blocks.2.attentions.0.transformer_blocks.0.attn2"
    assert cross[-1].name == "up_blocks.3.attentions.2.transformer_blocks.0.attn2"
    assert sites[0].kind == "self"
    assert all(site.heads == 4 for site in sites)


def test_sites_of_a_latent_that_is_not_square(unet: UNet) -> None:
    assert {site.resolution for site in unet.sites((32, 64))} == {(32, 64), (16, 32), (8, 16), (4, 8)}


@pytest.mark.slow
def test_attention_equals_the_full_forward_bit_for_bit(unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, context = inputs
    for resolution, kind in itertools.product((16, 32), ("cross", "self")):
        wanted = [s for s in unet.sites(z.shape) if s.resolution == (resolution, resolution) and s.kind == kind]
        _, full = unet(z, 301, context, record=wanted)
        stopped = unet.attention(z, 301, context, resolution=resolution, kind=kind)
        assert [r.site for r in stopped] == wanted
        assert all(torch.equal(a.scores, b.scores) for a, b in zip(full, stopped, strict=True))


@pytest.mark.slow
def test_recording_leaves_the_output_alone(unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, context = inputs
    epsilon, records = unet(z, 7, context, record=unet.sites(z.shape))
    assert len(records) == 32
    torch.testing.assert_close(epsilon, unet(z, 7, context), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradient_of_the_early_stop_is_the_full_forwards(
    unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor], checkpoint: bool
) -> None:
    z, context = inputs
    wanted = [s for s in unet.sites(z.shape) if s.resolution == (16, 16) and s.kind == "cross"]
    a, b = (z.clone().requires_grad_(True) for _ in range(2))
    (expected,) = torch.autograd.grad(unet(a, 5, context, record=wanted)[1].mean_probabilities().square().sum(), a)
    stopped = unet.attention(b, 5, context, checkpoint=checkpoint)
    (found,) = torch.autograd.grad(stopped.mean_probabilities().square().sum(), b)
    assert expected.abs().max() > 0
    assert ((found - expected).norm() / expected.norm()).item() < 1e-6


def test_scores_are_qk_over_root_d_with_dimensions_kept_apart(
    unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    z, context = inputs
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    record = unet.attention(z, 5, context, sites=[name])[name]
    layer = unet.get_submodule(name)
    assert record.scores.shape == (2, 4, 16, 77)
    seen: list[torch.Tensor] = []
    handle = layer.to_q.register_forward_hook(lambda module, args, output: seen.append(output))
    unet(z, 5, context)
    handle.remove()
    query, key = seen[0].double(), layer.to_k(context).double()
    for sample, head in itertools.product(range(2), range(4)):
        part = slice(8 * head, 8 * head + 8)
        expected = query[sample, :, part] @ key[sample, :, part].T / 8**0.5
        torch.testing.assert_close(record.scores[sample, head].double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(record.probabilities.sum(-1), torch.ones(2, 4, 16))


def test_means_are_uniform_over_sites_and_heads(unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    records = unet.attention(*inputs[:1], 5, inputs[1])
    maps = torch.stack([record.scores for record in records])  # [site, B, head, query, key]
    assert maps.shape[0] == 5
    torch.testing.assert_close(records.mean_scores().flatten(1, 2), maps.mean(dim=(0, 2)))
    torch.testing.assert_close(records.mean_probabilities().flatten(1, 2), maps.softmax(-1).mean(dim=(0, 2)))
    mixed = unet.attention(inputs[0], 5, inputs[1], resolution=None)
    with pytest.raises(ValueError, match="one resolution"):
        mixed.mean_scores()


def test_mean_over_sites_of_different_kinds_is_refused(unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Maps over 64 pixels and maps over 64 tokens have one shape, but no common meaning."""
    records = unet.attention(inputs[0], 5, inputs[1][:, :64], resolution=8, kind=None)
    assert {record.scores.shape[-2:] for record in records} == {(64, 64)}
    with pytest.raises(ValueError, match="one kind"):
        records.mean_probabilities()


def test_row_major_maps(unet: UNet) -> None:
    z = torch.zeros(1, 4, 32, 64)
    z[:, :, :, 40:] = 3.0
    maps = unet.attention(z, 5, torch.zeros(1, 77, 24), resolution=(8, 16), kind="self").mean_scores()
    assert maps.shape == (1, 8, 16, 128)


@pytest.mark.parametrize("wanted", [[], ["no.such.site"]])
def test_a_selection_without_sites_lists_those_there_are(
    unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor], wanted: list[str]
) -> None:
    with pytest.raises(
        ValueError, match=r"mid_block\.attentions\.0\.transformer_blocks\.0\.attn1 \(self, 4x4, 4 heads\)"
    ):
        unet(*inputs[:1], 5, inputs[1], record=wanted)


def test_a_resolution_without_sites_lists_those_there_are(
    unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    with pytest.raises(ValueError, match="16x16"):
        unet.attention(inputs[0], 5, inputs[1], resolution=17)


@pytest.mark.parametrize(
    ("z", "context"), [((1, 3, 64, 64), (1, 77, 24)), ((1, 4, 60, 64), (1, 77, 24)), ((2, 4, 64, 64), (1, 77, 24))]
)
def test_shapes_that_do_not_fit(unet: UNet, z: tuple[int, ...], context: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        unet(torch.zeros(z), 5, torch.zeros(context))


@pytest.mark.slow
def test_timesteps_per_sample(unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, context = inputs
    both = unet(z, torch.tensor([3, 700]), context)
    for i, t in enumerate((3, 700)):
        torch.testing.assert_close(both[i : i + 1], unet(z[i : i + 1], t, context[i : i + 1]), rtol=1e-4, atol=1e-5)


class _Log(Control):
    def __init__(self) -> None:
        self.sites: list[str] = []

    def probabilities(self, call: AttentionCall, probabilities: torch.Tensor) -> torch.Tensor:
        self.sites.append(call.site.name)
        return probabilities


class _Mask(Control):
    """Hides every key but one from cross-attention."""

    def edits_maps(self, site: Site) -> bool:
        return site.kind == "cross"

    def scores(self, call: AttentionCall, scores: torch.Tensor) -> torch.Tensor:
        hidden = torch.full_like(scores, float("-inf"))
        hidden[..., 3] = 0
        return scores + hidden


class _Replace(Control):
    """Gives cross-attention another context, for keys and values or from the second site on."""

    def __init__(self, context: torch.Tensor, later: bool) -> None:
        self.context, self.later = context, later

    def edits_maps(self, site: Site) -> bool:
        return False

    def contexts(self, site: Site, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (context, context) if self.later or site.kind == "self" else (self.context, self.context)

    def next_context(self, call: AttentionCall) -> torch.Tensor:
        return self.context if self.later and call.site.kind == "cross" else call.context


@pytest.mark.slow
def test_control_sees_every_site_and_may_change_nothing(unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, context = inputs
    log = _Log()
    torch.testing.assert_close(unet(z, 5, context, control=log), unet(z, 5, context), rtol=1e-4, atol=1e-5)
    assert log.sites == [site.name for site in unet.sites(z.shape)]


@pytest.mark.slow
def test_control_rewrites_scores(unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, context = inputs
    only = context[:, 3:4].expand(-1, 77, -1)  # the same key everywhere: what hiding all others must give
    torch.testing.assert_close(unet(z, 5, context, control=_Mask()), unet(z, 5, only), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_control_rewrites_contexts(unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, context = inputs
    other = context.flip(2)  # not of dimension 1: the order of keys changes nothing
    torch.testing.assert_close(unet(z, 5, context, control=_Replace(other, False)), unet(z, 5, other))
    later = unet(z, 5, context, control=_Replace(other, True))
    assert not torch.allclose(later, unet(z, 5, other), atol=1e-3)
    assert not torch.allclose(later, unet(z, 5, context), atol=1e-3)


class _Elsewhere(Control):
    """Another context at one site only."""

    def __init__(self, at: str, other: torch.Tensor) -> None:
        self.at, self.other, self.seen = at, other, dict[str, torch.Tensor]()

    def contexts(self, site: Site, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen[site.name] = context
        return (self.other, context) if site.name == self.at else (context, context)


@pytest.mark.slow
def test_a_context_replaced_at_one_site_is_not_the_next_ones(
    unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    z, context = inputs
    cross = [site.name for site in unet.sites(z.shape) if site.kind == "cross"]
    control = _Elsewhere(cross[0], context * 0)
    assert not torch.allclose(unet(z, 5, context, control=control), unet(z, 5, context), atol=1e-3)
    assert all(torch.equal(control.seen[name], context) for name in cross)


def test_records_are_sliced(unet: UNet, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
    records = unet.attention(*inputs[:1], 5, inputs[1], resolution=16)
    some = records[1:3]
    assert [record.site for record in some] == [records[1].site, records[2].site]
    expected = torch.cat([records[1].scores, records[2].scores], dim=1).mean(dim=1).unflatten(1, (16, 16))
    torch.testing.assert_close(some.mean_scores(), expected)


@pytest.mark.slow
def test_cost_is_what_the_architecture_says() -> None:
    """GMAC of a full-size call and of one that stops at the last 16x16 site, by torch's own counter on meta tensors."""
    with torch.device("meta"):
        unet, z, t, context = UNet(SD_V1.unet), torch.empty(1, 4, 64, 64), torch.tensor(5), torch.empty(1, 77, 768)
        with FlopCounterMode(display=False) as full:
            unet(z, t, context)
        with FlopCounterMode(display=False) as stopped:
            unet.attention(z, t, context)
    assert full.get_total_flops() / 2e9 == pytest.approx(401.637, abs=1e-3)
    # 204.30 counts all of the last block; its value and output products and its feed-forward are not run.
    assert 0.48 < stopped.get_total_flops() / full.get_total_flops() < 0.509


def test_full_size_parameter_counts() -> None:
    with torch.device("meta"):
        networks = UNet(SD_V1.unet), VAE(SD_V1.vae), TextEncoder(SD_V1.text)
    counts = [(len(n.state_dict()), sum(p.numel() for p in n.parameters())) for n in networks]
    assert counts == [(686, 859_520_964), (248, 83_653_863), (196, 123_060_480)]


def test_vae_shapes_and_sampling() -> None:
    vae, factor = randomised(VAE(MINIATURE.vae)), MINIATURE.vae.factor
    posterior = vae.encode(torch.rand(2, 3, 16 * factor, 8 * factor) * 2 - 1)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 4, 16, 8)
    draws = [posterior.sample(torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert vae.decode(draws[0]).shape == (2, 3, 16 * factor, 8 * factor)
    with pytest.raises(ValueError, match=f"multiples of {factor}"):
        vae.encode(torch.zeros(1, 3, 63, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (30, 32, 32, 32)}, "heads"),
        ({"heads": (4,)}, "4 levels"),
        ({"blocks": 0}, "blocks is 0"),
        ({"norm_groups": 5}, "norm_groups"),
    ],
)
def test_unet_configs_that_cannot_be_built(change: dict[str, object], message: str) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_vae_config_that_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="norm_groups"):
        VAEConfig(widths=(16, 24), norm_groups=16)
