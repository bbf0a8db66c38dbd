"""Networks of Stable Diffusion 2.x and XL against diffusers and transformers: random weights, small; names, full."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reference import TINY_V2, TINY_V2_V, TINY_XL, randomise, relative, their_unet
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ebama.models import (
    SD_V2,
    SD_V2_V,
    SDXL,
    VAE,
    Attention,
    Context,
    Request,
    Site,
    StableDiffusionConfig,
    TextConfig,
    TextEncoder,
    UNet,
    UNetConfig,
    adapt,
    layer,
    sinusoids,
)

pytest.importorskip("diffusers")

TOLERANCE = 1e-5
DEEP_XL = UNetConfig(
    widths=(16, 32, 48),
    attention=(False, True, True),
    heads=(2, 4, 6),
    depth=(1, 2, 3),
    context_width=40,
    norm_groups=8,
    linear_projections=True,
    vector_width=20 + 6 * 4,
)
SIZES = torch.tensor([[1024.0, 768, 0, 16, 1024, 1024], [512, 512, 64, 0, 1024, 768]])


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(theirs: Any, ours: nn.Module) -> tuple[Any, Any]:
    """Both with the same random weights; neither has a name that the other lacks."""
    ours.load_state_dict(_names(randomise(theirs).state_dict()), strict=True)
    return theirs, ours.eval().requires_grad_(False)


def _names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("text_model."): weight for name, weight in weights.items() if "position_ids" not in name}


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [TINY_V2.unet, TINY_V2_V.unet, TINY_XL.unet, DEEP_XL], ids=["v2", "v2-v", "xl", "deep xl"]
)
@torch.no_grad()
def test_unet(config: UNetConfig) -> None:
    theirs, ours = pair(their_unet(config, number_width=4), UNet(config))
    z, context, options = noise(2, 4, 16, 8), noise(2, 77, config.context_width, seed=2), {}
    if config.vector_width:
        pooled = noise(2, 20, seed=3)
        options = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": SIZES}}
    for t in (1, 481, 981):
        expected = theirs(z, t, context, **options).sample
        given = Context.of(context, torch.cat([pooled, sinusoids(SIZES, 4).flatten(1)], 1)) if options else context
        assert relative(ours(z, t, given), expected) <= TOLERANCE
        recorded, _ = ours(z, t, given, record=ours.sites(z.shape))
        assert relative(recorded, expected) <= TOLERANCE


@pytest.mark.slow
@torch.no_grad()
def test_their_xl_network_adapted() -> None:
    """diffusers' own module as a `Network`: the vector reaches it, and its maps are ours."""
    from diffusers.models.attention_processor import Attention as TheirAttention

    config = TINY_XL.unet
    theirs, ours = pair(their_unet(config, number_width=4), UNet(config))

    def call(net: Any, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        assert isinstance(context, Context)
        # The numbers of the vector are sinusoids already; theirs makes them of sizes, which are given here.
        conditions = {"text_embeds": context.vector[:, :20], "time_ids": SIZES[: len(z)]}
        return net(z, t, context.tokens, added_cond_kwargs=conditions).sample  # type: ignore[no-any-return]

    parts = layer(q="to_q", k="to_k", v="to_v", out="to_out.0", heads="heads")
    network = adapt(theirs, {TheirAttention: parts}, call, context_shape=(77, config.context_width), vector_width=44)
    z, pooled = noise(2, 4, 8, 8), noise(2, 20, seed=3)
    vector = torch.cat([pooled, sinusoids(SIZES, 4).flatten(1)], 1)
    context = Context.of(noise(2, 77, config.context_width, seed=2), vector)
    assert relative(network(z, 481, context), ours(z, 481, context)) <= TOLERANCE
    sites = ours.sites(z.shape)
    assert [(site.kind, site.resolution) for site in network.sites(z.shape)] == [(s.kind, s.resolution) for s in sites]
    for found, expected in zip(network.attention(z, 481, context, 4), ours.attention(z, 481, context, 4), strict=True):
        assert relative(found.scores, expected.scores) <= TOLERANCE


def their_text_encoder(config: TextConfig) -> nn.Module:
    settings = CLIPTextConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        hidden_act=config.activation,
        projection_dim=config.projection_width or 512,
        eos_token_id=49407,
    )
    return (CLIPTextModelWithProjection if config.projection_width else CLIPTextModel)(settings).eval()


@pytest.mark.parametrize(
    "config", [TINY_V2.text, TINY_XL.text, TINY_XL.text_2], ids=["openclip H", "clip L", "openclip bigG"]
)
@torch.no_grad()
def test_text_encoder(config: TextConfig) -> None:
    theirs, ours = pair(their_text_encoder(config), TextEncoder(config))
    ids = torch.full((2, 77), 0 if config.pad_token == 0 else 49407)
    ids[:, :5] = torch.tensor([[49406, 320, 5496, 6902, 49407], [49406, 49407, *[config.pad_token or 49407] * 3]])
    expected = theirs(input_ids=ids, output_hidden_states=True)
    encoding = ours.encode(ids)
    contexts = expected.last_hidden_state if config.final_norm else expected.hidden_states[-2]
    assert relative(encoding.context, contexts) <= TOLERANCE
    assert torch.equal(ours(ids), encoding.context)
    if config.projection_width:
        assert relative(encoding.pooled, expected.text_embeds) <= TOLERANCE
        assert len(ours.sites(77)) == config.layers  # the pooled vector reads the last layer
    else:
        assert encoding.pooled is None


def test_scores_that_overflow_half_precision() -> None:
    """QK^T / sqrt(d) of about 1e5, beyond the 65504 of float16, as the larger model of 2.1 makes them."""
    torch.manual_seed(0)
    x = torch.randn(1, 6, 8)
    site, request = Site("site", "self", (2, 3), 2), Request(frozenset({"site"}))
    results = []
    for upcast, dtype in (
        (False, torch.float32),
        (True, torch.float16),
        (True, torch.bfloat16),
        (False, torch.float16),
    ):
        layer = Attention(8, 2, upcast=upcast).requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        for weight in (layer.to_q.weight, layer.to_k.weight):
            weight.copy_(200 * torch.randn(8, 8, generator=generator))
        layer.to_v.weight.copy_(torch.randn(8, 8, generator=generator))
        results.append(layer.to(dtype)(x.to(dtype), site=site, request=request))
    exact, *upcast_results, overflowing = results
    for result in upcast_results:
        assert result.record is not None
        assert result.record.scores.dtype == torch.float32
        assert result.record.scores.isfinite().all()
        assert result.out is not None
        assert result.out.isfinite().all()
    assert relative(results[1].record.scores, exact.record.scores) < 1e-2
    assert not overflowing.out.isfinite().all()


# --- full size, on the meta device ---

COUNTS = {
    SD_V2: {"unet": 865_910_724, "text": 340_387_840, "vae": 83_653_863},
    SD_V2_V: {"unet": 865_910_724, "text": 340_387_840, "vae": 83_653_863},
    SDXL: {"unet": 2_567_463_684, "text": 123_060_480, "text_2": 694_659_840, "vae": 83_653_863},
}


@pytest.mark.slow
@pytest.mark.parametrize("config", COUNTS, ids=lambda config: config.name)
def test_full_size(config: StableDiffusionConfig) -> None:
    with torch.device("meta"):
        ours: dict[str, nn.Module] = {
            "unet": UNet(config.unet),
            "vae": VAE(config.vae),
            "text": TextEncoder(config.text),
        }
        theirs = {
            "unet": their_unet(config.unet, config.sample_size, config.number_width or None),
            "text": their_text_encoder(config.text),
        }
        if config.text_2 is not None:
            ours["text_2"], theirs["text_2"] = TextEncoder(config.text_2), their_text_encoder(config.text_2)
    assert {name: sum(p.numel() for p in network.parameters()) for name, network in ours.items()} == COUNTS[config]
    for name, network in theirs.items():
        shapes = [
            {key: tuple(weight.shape) for key, weight in _names(weights).items()}
            for weights in (network.state_dict(), ours[name].state_dict())
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_sites_of_the_full_size() -> None:
    with torch.device("meta"):
        xl, v2 = UNet(SDXL.unet), UNet(SD_V2_V.unet)
    cross = [site for site in xl.sites((128, 128)) if site.kind == "cross"]
    assert len(xl.sites((128, 128))) == 2 * len(cross) == 140
    assert [sum(site.resolution == (side, side) for site in cross) for side in (64, 32, 16)] == [10, 60, 0]
    assert {site.heads for site in cross if site.resolution == (32, 32)} == {20}
    guiding = [site for site in v2.sites((96, 96)) if (site.kind, site.resolution) == ("cross", (24, 24))]
    assert [site.heads for site in guiding] == [20] * 5
