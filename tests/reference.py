"""A small random model, and what the tests of single methods derive once more: samplers and layers, in plain loops."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from ebama import Pipeline, Result
from ebama.methods import Choice, Method
from ebama.models import VAE, StableDiffusionConfig, TextConfig, TextEncoder, UNet, UNetConfig, VAEConfig
from ebama.models.attention import AttentionResult
from ebama.prompt import Parsed, parse
from ebama.weights import StableDiffusion, clip_tokenizer

Network = TypeVar("Network", bound=nn.Module)

TINY = StableDiffusionConfig(
    unet=UNetConfig(widths=(8, 16), attention=(True, True), heads=(2, 2), blocks=1, context_width=16, norm_groups=4),
    vae=VAEConfig(widths=(8, 8), blocks=1, norm_groups=4),
    text=TextConfig(width=16, mlp_width=16, layers=1, heads=2),
    sample_size=16,
    name="tiny",
)
"""Attention at the latent's own size, three sites, and at half of it, four."""

TINY_V2 = replace(
    TINY,
    unet=replace(TINY.unet, heads=(1, 2), linear_projections=True),
    text=replace(TINY.text, layers=2, activation="gelu", pad_token=0),
    name="tiny-v2",
)
TINY_V2_V = replace(TINY_V2, unet=replace(TINY_V2.unet, upcast_attention=True), prediction="v", name="tiny-v2-v")
TINY_XL = StableDiffusionConfig(
    unet=UNetConfig(
        widths=(8, 16),
        attention=(False, True),
        heads=(2, 4),
        blocks=1,
        depth=(1, 2),
        context_width=40,
        norm_groups=4,
        linear_projections=True,
        vector_width=20 + 6 * 4,
    ),
    vae=VAEConfig(widths=(8, 8), blocks=1, norm_groups=4, scale=0.13025, upcast=True),
    text=TextConfig(width=16, mlp_width=16, layers=2, heads=2, output_layer=-2, final_norm=False),
    text_2=TextConfig(
        width=24,
        mlp_width=16,
        layers=3,
        heads=3,
        activation="gelu",
        output_layer=-2,
        final_norm=False,
        projection_width=20,
        pad_token=0,
    ),
    sample_size=32,
    name="tiny-xl",
    zero_empty_prompt=True,
)
"""Their parts in small; in the last one the maps are half the latent's size, as in Stable Diffusion XL."""


class CountingUNet(UNet):
    """Notes every call and how many rows it had."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        self.calls: list[tuple[str, int]] = []

    def forward(self, z: Tensor, *args: Any, **options: Any) -> Any:
        self.calls.append(("predict", len(z)))
        return super().forward(z, *args, **options)

    def attention(self, z: Tensor, *args: Any, **options: Any) -> Any:
        self.calls.append(("attention", len(z)))
        return super().attention(z, *args, **options)


FEW: dict[str, dict[str, Any]] = {
    "ane": {"thresholds": ((0, 0.5),), "max_refinements": 2},
    "conform": {"refined_calls": (0,), "max_refinements": 2},
    "divide-and-bind": {"thresholds": ((0, 0.2),), "max_refinements": (2, 2)},
    "attention-regulation": {"iterations": 2},
    "initno": {"max_rounds": 1, "iterations": 1, "final_iterations": 1, "max_refinements": 1},
    "self-cross": {"max_rounds": 1, "iterations": 1, "final_iterations": 1, "max_refinements": 1},
    "boxdiff": {"max_refinements": 2},
    "layout-guidance": {"max_rounds": 2},
    "bounded-attention": {"max_rounds": 1, "guided_steps": 1, "mask_interval": 1},
}
"""Options with which a method is quick, in the tests of every method."""


def randomise(network: Network, seed: int = 0, sharpness: float = 1.0) -> Network:
    """Every weight, norm and bias random: nothing stays at the 0 or 1 at which a mistake could hide.

    Nothing of what it held before is left, so that the same seed gives the same network in every process. `sharpness`
    scales queries and keys.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.requires_grad_(False).named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            scale = sharpness if ".to_q" in name or ".to_k" in name else 1.0
            parameter.copy_(scale * noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(noise / 10 + (1.0 if name.endswith("weight") else 0.0))
    return network.eval()


def random_model(config: StableDiffusionConfig, sharpness: float = 1.0) -> StableDiffusion:
    """A model of random weights whose U-Net counts its calls."""
    unet, vae, text_encoder = CountingUNet(config.unet), VAE(config.vae), TextEncoder(config.text)
    networks = randomise(unet, 0, sharpness), randomise(vae, 1), randomise(text_encoder, 2)
    text_encoder_2 = randomise(TextEncoder(config.text_2), 3) if config.text_2 else None
    return StableDiffusion(*networks, clip_tokenizer(), config, text_encoder_2=text_encoder_2)


@cache
def model() -> StableDiffusion:
    """Queries and keys are large, so that attention is far from even."""
    return random_model(TINY, sharpness=1.5)


def run(prompt: str | Sequence[str], method: str | Choice | Method, *, sample_size: int = 16, **options: Any) -> Result:
    defaults: dict[str, Any] = {"steps": 2, "sampler": "ddim", "output": "latent", "progress": False, "parser": "rules"}
    sd = replace(model(), config=replace(TINY, sample_size=sample_size))
    return Pipeline(sd)(prompt, method=method, **(defaults | options))


def rows_of(prompt: str | Sequence[str], method: str | Choice | Method, **options: Any) -> list[int]:
    """The rows of every call of the U-Net that a run makes, of PNDM one more than its steps; all are predictions."""
    unet = model().unet
    assert isinstance(unet, CountingUNet)
    unet.calls.clear()
    run(prompt, method, **({"sampler": "pndm"} | options))
    assert {kind for kind, _ in unet.calls} == {"predict"}
    return [rows for _, rows in unet.calls]


def passes(prompts: Sequence[str], method: Choice | Method, **options: Any) -> dict[str, int]:
    """Samples of all predictions, attention passes and backwards of a run with PNDM."""
    unet = model().unet
    assert isinstance(unet, CountingUNet)
    unet.calls.clear()
    backwards = 0
    grad = torch.autograd.grad

    def counting(outputs: Tensor, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal backwards
        backwards += len(inputs)
        return grad(outputs, inputs, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", counting)
        run(prompts, method, **({"sampler": "pndm"} | options))
    total = {"predictions": 0, "attention": 0, "backwards": backwards}
    for kind, rows in unet.calls:
        total["predictions" if kind == "predict" else "attention"] += rows
    return total


def reading(prompt: str) -> Parsed:
    return parse(prompt, clip_tokenizer(), "rules", groups=())


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noise(seed: int, size: int = 16) -> Tensor:
    return normal(4, size, size, seed=seed)[None]


def relative(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert expected.norm() > 0
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def assert_batch_is_one_by_one(prompts: Sequence[str], method: Choice | Method, tolerance: float = 1e-4) -> None:
    """Two seeds of several prompts at once against each prompt on its own, at one seed and the other in turn."""
    together = run(prompts, method, seeds=[3, 4])
    for p, prompt in enumerate(prompts):
        sample = 2 * p + p % 2
        one = run(prompt, method, seeds=[3 + p % 2])
        assert relative(together.latents[sample : sample + 1], one.latents) <= tolerance
        assert together.metadata[sample] == one.metadata[0]


# --- samplers ---

Denoise = Callable[[Tensor, int, int], Tensor]
"""(z, t, i) -> epsilon."""
Move = Callable[[Tensor, int, int], Tensor]
"""(z, t, i) -> z before model call i."""


def transfer(x: Tensor, e: Tensor, t: int, stride: int) -> Tensor:
    """The deterministic step from t to t - stride."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    a, b = float(abar[t]), float(abar[max(t - stride, 0)])
    return math.sqrt(b / a) * x - (b - a) * e / (a * math.sqrt(1 - b) + math.sqrt(a * (1 - a) * b))


def ddim(denoise: Denoise, z: Tensor, steps: int, move: Move = lambda z, t, i: z) -> Tensor:
    stride = 1000 // steps
    for i in range(steps):
        t = 1 + (steps - 1 - i) * stride
        z = move(z, t, i)
        z = transfer(z, denoise(z, t, i), t, stride)
    return z


def pndm(denoise: Denoise, z: Tensor, steps: int, move: Move = lambda z, t, i: z) -> Tensor:
    """As `skip_prk_steps`: the second call repeats the second timestep, from the first call's latent."""
    stride = 1000 // steps
    times = [1 + i * stride for i in reversed(range(steps))]
    times.insert(1, times[1])
    first, history = z, []
    for i, t in enumerate(times):
        z = move(z, t, i)
        e = denoise(z, t, i)
        first = z if i == 0 else first
        if i == 1:
            z = transfer(first, (history[0] + e) / 2, times[0], stride)
            continue
        history.append(e)
        h = history[::-1]
        if len(h) == 2:
            e = (3 * h[0] - h[1]) / 2
        elif len(h) == 3:
            e = (23 * h[0] - 16 * h[1] + 5 * h[2]) / 12
        elif len(h) > 3:
            e = (55 * h[0] - 59 * h[1] + 37 * h[2] - 9 * h[3]) / 24
        z = transfer(z, e, t, stride)
    return z


# --- layers ---


class Plain(nn.Module):
    """Stands in for an attention layer: `compute(layer, name, x, context) -> (out, next context)` for one row."""

    def __init__(self, layer: Any, name: str, compute: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.layer, self.name, self.compute, self.heads = layer, name, compute, layer.heads

    def forward(self, x: Tensor, context: Tensor | None = None, **_: Any) -> AttentionResult:
        assert len(x) == 1
        out, context = self.compute(self.layer, self.name, x[0], x[0] if context is None else context[0])
        return AttentionResult(out[None], None, context[None])


def plain_unet(cross: Any, own: Any = None) -> UNet:
    """The tiny network in float64 whose cross-attention is `cross` and self-attention `own`, for one row at a time."""
    unet = copy.deepcopy(model().unet).double()
    for name, module in list(unet.named_modules()):
        for layer, compute in (("attn2", cross), ("attn1", own)):
            if hasattr(module, layer) and compute is not None:
                setattr(module, layer, Plain(getattr(module, layer), f"{name}.{layer}", compute))
    return unet


def maps_of(layer: Any, x: Tensor, context: Tensor) -> list[Tensor]:
    """Probabilities [query, key] of each head."""
    q, k = x @ layer.to_q.weight.T, context @ layer.to_k.weight.T
    width = q.shape[1] // layer.heads
    parts = [slice(h * width, (h + 1) * width) for h in range(layer.heads)]
    return [torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width), dim=1) for part in parts]


def out_of(layer: Any, maps: Sequence[Tensor], context: Tensor) -> Tensor:
    """The layer's output [query, width] from a map for each head and the context of the values."""
    v = context @ layer.to_v.weight.T
    width = v.shape[1] // layer.heads
    heads = [map_ @ v[:, h * width : (h + 1) * width] for h, map_ in enumerate(maps)]
    return torch.cat(heads, dim=1) @ layer.to_out[0].weight.T + layer.to_out[0].bias


# --- diffusers ---


def their_unet(config: UNetConfig, sample_size: int = 16, number_width: int | None = None) -> Any:
    """A network of that shape as diffusers builds it; skips where diffusers is missing."""
    diffusers = pytest.importorskip("diffusers")
    attends = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
    down = tuple(attends[flag] for flag in config.attention)
    return diffusers.UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        transformer_layers_per_block=config.depth,
        cross_attention_dim=config.context_width,
        attention_head_dim=config.heads,
        norm_num_groups=config.norm_groups,
        use_linear_projection=config.linear_projections,
        upcast_attention=config.upcast_attention,
        addition_embed_type="text_time" if config.vector_width else None,
        addition_time_embed_dim=number_width,
        projection_class_embeddings_input_dim=config.vector_width,
    ).eval()


def their_tiny_unet() -> Any:
    """The tiny network as diffusers builds it, with the same weights."""
    unet = their_unet(TINY.unet)
    unet.load_state_dict(model().unet.state_dict())
    return unet


def their_scheduler(name: str, steps: int | None = None) -> Any:
    """Stable Diffusion v1's, set to `steps` if given."""
    diffusers = pytest.importorskip("diffusers")
    common = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "set_alpha_to_one": False,
    }
    scheduler = (
        diffusers.DDIMScheduler(**common, clip_sample=False)
        if name == "ddim"
        else diffusers.PNDMScheduler(**common, skip_prk_steps=True)
    )
    if steps is not None:
        scheduler.set_timesteps(steps)
    return scheduler
