"""The networks, whole sampling runs and the pipeline against diffusers and transformers, at small size and full."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import normal, randomise, relative, their_scheduler, their_unet
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ebama.models import SD_V1, VAE, StableDiffusionConfig, TextConfig, TextEncoder, UNet, UNetConfig, VAEConfig
from ebama.models.text import quick_gelu
from ebama.models.transformer import GEGLU
from ebama.pipeline import Pipeline
from ebama.samplers import DDIM, PNDM
from ebama.weights import StableDiffusion, clip_tokenizer, load

diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-4
THREE_LEVELS = UNetConfig(
    widths=(16, 32, 48), attention=(True, True, False), heads=(2, 4, 6), blocks=2, context_width=24, norm_groups=8
)
TWO_LEVELS = UNetConfig(
    widths=(16, 32), attention=(True, True), heads=(4, 4), blocks=1, context_width=24, norm_groups=8
)
DEEP = UNetConfig(
    widths=(16, 32), attention=(False, True), heads=(2, 4), blocks=1, depth=2, context_width=24, norm_groups=4
)
SMALL_VAE = VAEConfig(widths=(8, 16, 32), blocks=2, norm_groups=4)
PLAIN_VAE = VAEConfig(widths=(8, 16), blocks=1, norm_groups=4, mid_attention=False, scale=0.5)
SMALL_TEXT = TextConfig(width=24, mlp_width=48, layers=2, heads=3)
unets = pytest.mark.parametrize("config", [THREE_LEVELS, TWO_LEVELS, DEEP], ids=["three levels", "two levels", "deep"])


def their_vae(config: VAEConfig) -> nn.Module:
    levels = len(config.widths)
    return diffusers.AutoencoderKL(
        in_channels=config.image_channels,
        out_channels=config.image_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        mid_block_add_attention=config.mid_attention,
        scaling_factor=config.scale,
    ).eval()


def their_text_encoder(config: TextConfig) -> nn.Module:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
        )
    ).eval()


def pair(theirs: nn.Module, ours: nn.Module, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """Both with the same random weights; neither has a name that the other lacks."""
    ours.load_state_dict(randomise(theirs, seed).state_dict(), strict=True)
    return theirs, ours.eval()


# --- networks ---


@pytest.mark.slow
@unets
@torch.no_grad()
def test_unet(config: UNetConfig) -> None:
    theirs, ours = pair(their_unet(config), UNet(config))
    z, context = normal(2, 4, 16, 8), normal(2, 77, 24, seed=2)
    for t in (1, 481, 981):
        assert relative(ours(z, t, context), theirs(z, t, context).sample) <= TOLERANCE


@torch.no_grad()
def test_unet_at_a_timestep_of_its_own_for_each_sample() -> None:
    theirs, ours = pair(their_unet(TWO_LEVELS), UNet(TWO_LEVELS))
    z, t, context = normal(2, 4, 8, 8), torch.tensor([3, 700]), normal(2, 5, 24, seed=2)
    assert relative(ours(z, t, context), theirs(z, t, context).sample) <= TOLERANCE


@pytest.mark.slow
@torch.no_grad()
def test_unet_with_every_site_recorded() -> None:
    """The way through explicit scores computes what the fused way does."""
    theirs, ours = pair(their_unet(THREE_LEVELS), UNet(THREE_LEVELS))
    z, context = normal(1, 4, 16, 16), normal(1, 77, 24, seed=2)
    epsilon, records = ours(z, 481, context, record=ours.sites(z.shape))
    assert len(records) == 2 * (2 * 2 + 1 + 2 * 3)
    assert relative(epsilon, theirs(z, 481, context).sample) <= TOLERANCE


@pytest.mark.parametrize("config", [SMALL_VAE, PLAIN_VAE], ids=["attention", "plain"])
@torch.no_grad()
def test_vae(config: VAEConfig) -> None:
    theirs, ours = pair(their_vae(config), VAE(config))
    x = normal(2, 3, 32, 16).tanh()
    found, expected = ours.encode(x), theirs.encode(x).latent_dist
    assert relative(found.mean, expected.mean) <= TOLERANCE
    assert relative(found.logvar, expected.logvar) <= TOLERANCE
    z = normal(2, 4, 8, 4)
    assert relative(ours.decode(z), theirs.decode(z).sample) <= TOLERANCE
    assert ours.scale == theirs.config.scaling_factor


@torch.no_grad()
def test_vae_clamps_the_log_variance() -> None:
    theirs, ours = pair(their_vae(PLAIN_VAE), VAE(PLAIN_VAE))
    for network in (theirs, ours):
        network.quant_conv.weight *= 1e3
    x = normal(1, 3, 16, 16)
    found, expected = ours.encode(x).logvar, theirs.encode(x).latent_dist.logvar
    assert (found.min(), found.max()) == (-30, 20)
    assert relative(found, expected) <= TOLERANCE


def token_ids() -> Tensor:
    ids = torch.full((2, 77), 49407)
    ids[:, :5] = torch.tensor([[49406, 320, 5496, 6902, 49407], [49406, 49407, 49407, 49407, 49407]])
    return ids


# --- what outputs cannot show: norms and activations by attribute, full size by names and shapes ---


@pytest.fixture(scope="module")
def full_size() -> dict[str, tuple[nn.Module, nn.Module]]:
    with torch.device("meta"):
        return {
            "unet": (their_unet(SD_V1.unet, 64), UNet(SD_V1.unet)),
            "vae": (their_vae(SD_V1.vae), VAE(SD_V1.vae)),
            "text": (their_text_encoder(SD_V1.text), TextEncoder(SD_V1.text)),
        }


@pytest.mark.slow
def test_full_size_names_and_shapes(full_size: dict[str, tuple[nn.Module, nn.Module]]) -> None:
    for theirs, ours in full_size.values():
        shapes = [{name: tuple(w.shape) for name, w in network.state_dict().items()} for network in (theirs, ours)]
        assert shapes[0] == shapes[1]


def test_full_size_parameter_counts(full_size: dict[str, tuple[nn.Module, nn.Module]]) -> None:
    def count(network: nn.Module, part: str = "") -> int:
        return sum(p.numel() for name, p in network.named_parameters() if part in f".{name}")

    for i in range(2):  # theirs, ours
        unet, vae, text = (full_size[name][i] for name in ("unet", "vae", "text"))
        assert (count(unet), count(vae), count(text)) == (859_520_964, 83_653_863, 123_060_480)
        assert [count(unet, f".{b}_block") for b in ("down", "mid", "up")] == [249_612_480, 97_038_080, 510_795_840]
        parts = [".encoder.", ".decoder.", ".quant_conv.", ".post_quant_conv."]
        assert [count(vae, part) for part in parts] == [34_163_592, 49_490_179, 72, 20]
        assert count(text, ".layers.11.") == 7_087_872


def test_norms_of_the_full_size(full_size: dict[str, tuple[nn.Module, nn.Module]]) -> None:
    found: Counter[tuple[str, str, float]] = Counter()
    for component, (theirs, ours) in full_size.items():
        for name, norm in ours.named_modules():
            if isinstance(norm, nn.GroupNorm | nn.LayerNorm):
                reference: Any = theirs.get_submodule(name)
                assert (type(norm), norm.eps) == (type(reference), reference.eps), name
                if isinstance(norm, nn.GroupNorm):
                    assert norm.num_groups == reference.num_groups == 32
                found[component, type(norm).__name__, norm.eps] += 1
                entry = component == "unet" and ".attentions." in name and isinstance(norm, nn.GroupNorm)
                assert norm.eps == (1e-6 if entry or component == "vae" else 1e-5), name
    assert found == {
        ("unet", "GroupNorm", 1e-5): 45,
        ("unet", "GroupNorm", 1e-6): 16,
        ("unet", "LayerNorm", 1e-5): 48,
        ("vae", "GroupNorm", 1e-6): 52,
        ("text", "LayerNorm", 1e-5): 25,
    }


def test_text_activations_of_the_full_size(full_size: dict[str, tuple[nn.Module, nn.Module]]) -> None:
    theirs, ours = full_size["text"]
    assert [type(layer.mlp.activation_fn).__name__ for layer in theirs.encoder.layers] == ["QuickGELUActivation"] * 12
    assert [layer.mlp.activation for layer in ours.encoder["layers"]] == [quick_gelu] * 12


@torch.no_grad()
def test_gelu_is_the_exact_one() -> None:
    from diffusers.models.activations import GEGLU as TheirGEGLU

    theirs, ours = pair(TheirGEGLU(3, 4).double(), GEGLU(3, 4).double())
    x = 2 * normal(5, 3).double()
    value, gate = (x @ ours.proj.weight.T + ours.proj.bias).split(4, dim=-1)
    expected = value.clone()
    for i in range(5):
        for j in range(4):
            expected[i, j] *= float(gate[i, j]) * (1 + math.erf(float(gate[i, j]) / math.sqrt(2))) / 2
    assert relative(ours(x), expected) < 1e-12
    assert relative(ours(x), theirs(x)) < 1e-12


# --- whole runs ---


@pytest.mark.slow
@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("name", ["ddim", "pndm"])
@torch.no_grad()
def test_trajectory(name: str, steps: int) -> None:
    """Both networks, both samplers and classifier-free guidance of 7.5; every latent on the way is compared."""
    theirs, ours = pair(their_unet(TWO_LEVELS), UNet(TWO_LEVELS))
    z, contexts = normal(1, 4, 8, 8), normal(2, 77, 24, seed=2)

    def guided(epsilons: Tensor) -> Tensor:
        return epsilons[:1] + 7.5 * (epsilons[1:] - epsilons[:1])

    scheduler, expected, x = their_scheduler(name, steps), [], z
    for t in scheduler.timesteps:
        expected.append(x)
        x = scheduler.step(guided(theirs(torch.cat([x, x]), t, contexts).sample), t, x).prev_sample

    found: list[Tensor] = []

    def keep(z: Tensor, t: int, i: int) -> Tensor:
        assert t == int(scheduler.timesteps[i])
        found.append(z)
        return z

    sampler = DDIM(steps) if name == "ddim" else PNDM(steps)
    final = sampler.sample(lambda z, t: guided(ours(torch.cat([z, z]), t, contexts)), z, before_step=keep)
    assert len(found) == len(expected) == steps + (name == "pndm")
    assert max(relative(a, b) for a, b in zip([*found, final], [*expected, x], strict=True)) <= TOLERANCE


@pytest.mark.slow
def test_from_their_folder_to_their_pipelines_latents(tmp_path: Path) -> None:
    config = StableDiffusionConfig(TWO_LEVELS, SMALL_VAE, SMALL_TEXT, sample_size=16, name="theirs")
    theirs = diffusers.StableDiffusionPipeline(
        vae=randomise(their_vae(config.vae), 1),
        text_encoder=randomise(their_text_encoder(config.text), 2),
        tokenizer=clip_tokenizer(),
        unet=randomise(their_unet(config.unet), 3),
        scheduler=their_scheduler("pndm"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path / "theirs")
    prompts, latents = ["a purple crown and a blue suitcase", "a cat and a frog"], normal(2, 4, 16, 16)
    arguments: dict[str, Any] = {"latents": latents, "negative_prompt": "blurry"}
    expected = theirs(
        prompts,
        num_inference_steps=10,
        guidance_scale=7.5,
        output_type="latent",
        **(arguments | {"negative_prompt": ["blurry"] * 2}),
    ).images

    sd = load(tmp_path / "theirs")
    assert sd.config == config
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Pipeline(sd)(
            prompts, method="sd", steps=10, output="latent", progress=False, parser="rules", **arguments
        )
    assert relative(found.latents, expected) <= TOLERANCE
    pictures = Pipeline(sd).decode(expected)
    pixels = (theirs.vae.decode(expected / theirs.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1) * 255
    for picture, wanted in zip(pictures, pixels.detach(), strict=True):
        got = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(64, 64, 3)
        assert (got.permute(2, 0, 1) - wanted).abs().max() <= 0.51


@pytest.mark.slow
def test_attend_and_excite() -> None:
    """Their pipeline: 25 calls of PNDM, 22 of them guided, refined at 0, 10 and 20."""
    theirs = diffusers.StableDiffusionAttendAndExcitePipeline(
        vae=randomise(their_vae(PLAIN_VAE), 1),
        text_encoder=randomise(their_text_encoder(SMALL_TEXT), 2),
        tokenizer=clip_tokenizer(),
        unet=randomise(their_unet(TWO_LEVELS), 3),
        scheduler=their_scheduler("pndm"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.unet.requires_grad_(False)
    prompts, latents = ["a purple crown and a blue suitcase", "a cat and a frog"], normal(2, 4, 16, 16)
    expected = [
        theirs(
            prompt,
            positions,
            height=32,
            width=32,
            attn_res=(16, 16),
            num_inference_steps=24,
            max_iter_to_alter=22,
            latents=latent[None],
            output_type="latent",
        ).images
        for prompt, positions, latent in zip(prompts, ([3, 7], [2, 5]), latents, strict=True)
    ]
    unet, vae, text = UNet(TWO_LEVELS), VAE(PLAIN_VAE), TextEncoder(SMALL_TEXT)
    networks = ((unet, theirs.unet), (vae, theirs.vae), (text, theirs.text_encoder))
    for ours, network in networks:
        ours.load_state_dict(network.state_dict())
        ours.eval().requires_grad_(False)
    config = StableDiffusionConfig(TWO_LEVELS, PLAIN_VAE, SMALL_TEXT, sample_size=16)
    pipeline = Pipeline(StableDiffusion(unet, vae, text, clip_tokenizer(), config))
    options: dict[str, Any] = {"steps": 24, "latents": latents, "output": "latent", "progress": False}
    found = pipeline(prompts, method="ane+guided_steps=22", parser="rules", **options)
    plain = pipeline(prompts, method="sd", parser="rules", **options)
    assert relative(found.latents, torch.cat(expected)) <= TOLERANCE
    assert relative(plain.latents, torch.cat(expected)) > 100 * TOLERANCE
