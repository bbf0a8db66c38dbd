"""Train the miniature's U-Net and token table, alone or with `torchrun --standalone --nproc-per-node 2 -m THIS`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ebama.models import MINIATURE, VAE, TextEncoder, UNet
from ebama.samplers import NoiseSchedule

from ..tokenizer import clip_tokenizer
from .scenes import TRAINING, Composer
from .train_vae import to_tensor
from .training import STATE, TrainingConfig, train
from .world import WORDS

WORLD = replace(TRAINING, counts=(0.3, 0.65, 0.05), longest=((28, 28), (28, 28), (22, 22)))
"""One size for each sprite: the fewer things there are to learn, the sooner they are learnt."""
CONFIG = TrainingConfig(steps=6850, batch=8)
DROPOUT = 0.1  # captions left out, for classifier-free guidance
UNKNOWN = 0.05  # articles replaced by the row that unknown words share, so that the row learns to mean nothing
MIN_SNR = 5.0  # loss weights min(SNR, 5) / SNR: Hang et al. 2023, Efficient Diffusion Training via Min-SNR


@cache
def trained_tokens() -> tuple[int, ...]:
    """Ids of the token rows that are trained, in the order of the trained table; one row for unknown words follows."""
    tokenizer = clip_tokenizer()
    words = tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in WORDS])
    assert isinstance(words, list)
    return tuple(sorted({*tokenizer.all_special_ids, *words}))


class Denoiser(nn.Module):
    """U-Net and text encoder under one forward, as data parallel training wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet(MINIATURE.unet)
        # Only these rows are ever read; the full table is made when the weights are packed.
        self.text_encoder = TextEncoder(replace(MINIATURE.text, vocabulary=len(trained_tokens()) + 1))
        make_local(self.text_encoder)

    def forward(self, z: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Noise predicted for latents [B, 4, h, w] at timesteps [B] under captions given as table rows [B, 77]."""
        epsilon: Tensor = self.unet(z, t, self.text_encoder(rows))
        return epsilon


def make_local(text_encoder: TextEncoder) -> None:
    """Switch the text encoder's self-attention off: every position then encodes its own token only.

    Padding cannot carry the caption, so that the U-Net must read each word where it stands.
    """
    for layer in text_encoder.encoder.layers:
        assert isinstance(layer.self_attn, nn.Module)
        for parameter in layer.self_attn.parameters():
            nn.init.zeros_(parameter).requires_grad_(False)


class Captions:
    """Captions -> rows of the trained table, [B, 77]."""

    def __init__(self) -> None:
        self.tokenizer = clip_tokenizer()
        self.row = torch.full((MINIATURE.text.vocabulary,), len(trained_tokens()))
        self.row[torch.tensor(trained_tokens())] = torch.arange(len(trained_tokens()))
        self.article = self.row[self.tokenizer.convert_tokens_to_ids("a</w>")]

    def __call__(self, captions: list[str], rng: np.random.Generator) -> Tensor:
        """Rows with dropout of captions and of articles."""
        kept = ["" if rng.random() < DROPOUT else caption for caption in captions]
        ids = self.tokenizer(kept, padding="max_length", max_length=MINIATURE.text.positions, return_tensors="pt")
        rows = self.row[ids["input_ids"]]
        dropped = torch.from_numpy(rng.random(rows.shape) < UNKNOWN)
        return torch.where((rows == self.article) & dropped, len(trained_tokens()), rows)


def main() -> None:
    """Train on fresh scenes without end; the averaged networks stay in `STATE/unet.pt`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--steps", type=int, default=CONFIG.steps)
    options = parser.parse_args()
    config = replace(CONFIG, steps=options.steps)
    vae = VAE(MINIATURE.vae).eval().requires_grad_(False)
    vae.load_state_dict(torch.load(options.state / "vae_final.pt", weights_only=True)["vae"])
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    composer, captions, schedule = Composer(WORLD), Captions(), NoiseSchedule()

    def loss(network: nn.Module, step: int, worker: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([config.seed, 1, step, worker])
        scenes = [composer.compose(rng) for _ in range(config.batch)]
        with torch.no_grad():
            z = vae.encode(to_tensor([scene.image for scene in scenes])).mean * vae.scale
        t = torch.from_numpy(rng.integers(0, len(schedule.alphas_cumprod), len(z)))
        noise = torch.from_numpy(rng.standard_normal(z.shape, np.float32))
        epsilon = network(schedule.add_noise(z, noise, t), t, captions([scene.caption for scene in scenes], rng))
        errors = (epsilon - noise).square().mean(dim=(1, 2, 3))
        alpha = schedule.alphas_cumprod[t].float()
        snr = alpha / (1 - alpha)
        value = (errors * (MIN_SNR / snr).clamp(max=1)).mean()
        parts = {"mse": errors.mean().item()}
        for quarter in range(4):
            if (inside := t // 250 == quarter).any():
                parts[f"mse_{250 * quarter}"] = errors[inside].mean().item()
        return value, parts

    torch.manual_seed(config.seed)
    train("unet", Denoiser(), loss, config, options.state)


if __name__ == "__main__":
    main()
