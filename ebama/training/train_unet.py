"""Train the miniature's U-Net and token table, alone or with `torchrun --standalone --nproc-per-node 2 -m THIS`.

Its latents are those that the VAE's small encoder gives pictures of half the side (`vae.train_whole`), which cost a
fraction of the large encoder's.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebama.models import MINIATURE, VAE, TextEncoder, UNet
from ebama.samplers import NoiseSchedule
from ebama.weights.miniature.world import WORDS, Named
from ebama.weights.tokenizer import clip_tokenizer

from .drawing.scenes import UNITS, Composer, Scene
from .loop import checkpoint, options_parser, train
from .stages import STAGES, Stage
from .vae.train_small import load_small, to_tensor

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
        self.half_precision = False
        self.unet = UNet(MINIATURE.unet)
        # Only these rows are ever read; the full table is made when the weights are packed.
        self.text_encoder = TextEncoder(replace(MINIATURE.text, vocabulary=len(trained_tokens()) + 1))
        # Nothing is added by self-attention until its output projection learns: each position encodes its own token,
        # padding cannot carry the caption, and the U-Net must read each word where it stands.
        for attention in self._self_attention():
            for parameter in attention.get_submodule("out_proj").parameters():
                nn.init.zeros_(parameter)
        self.let_words_see_each_other(False)

    def _self_attention(self) -> list[nn.Module]:
        return [layer.get_submodule("self_attn") for layer in self.text_encoder.encoder["layers"].children()]

    def let_words_see_each_other(self, learn: bool) -> None:
        """Whether the text encoder's self-attention learns."""
        for attention in self._self_attention():
            attention.requires_grad_(learn)

    def forward(self, z: Tensor, t: Tensor, rows: Tensor, *, with_maps: bool) -> tuple[Tensor, list[Tensor]]:
        """Noise predicted for latents [B, 4, h, w] at timesteps [B] under captions given as table rows [B, 77].

        With maps also each cross-attention site's probabilities, mean over heads: [B, h, w, 77].
        """
        cross = [site for site in self.unet.sites(z.shape) if with_maps and site.kind == "cross"]
        # In bfloat16 the gradient of fused attention is slower than that of recorded attention.
        recorded = self.unet.sites(z.shape) if self.half_precision else cross
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half_precision):
            context = self.text_encoder(rows)
            if not recorded:
                return self.unet(z, t, context), []
            epsilon, records = self.unet(z, t, context, record=recorded)
        maps = [record for record in records if record.site in cross]
        return epsilon.float(), [map_.probabilities.mean(dim=1).unflatten(1, map_.site.resolution) for map_ in maps]


class Captions:
    """Captions -> rows of the trained table, [B, 77]; `dropout` is the share of captions left out."""

    def __init__(self, dropout: float) -> None:
        self.dropout = dropout
        self.tokenizer = clip_tokenizer()
        self.row = torch.full((MINIATURE.text.vocabulary,), len(trained_tokens()))
        self.row[torch.tensor(trained_tokens())] = torch.arange(len(trained_tokens()))
        self.article = self.row[self.tokenizer.convert_tokens_to_ids("a</w>")]

    def __call__(self, captions: list[str], rng: np.random.Generator) -> tuple[Tensor, list[bool]]:
        """Rows with dropout of captions and of articles, and which captions were kept."""
        kept = [bool(rng.random() >= self.dropout) for _ in captions]
        texts = [caption if keep else "" for caption, keep in zip(captions, kept, strict=True)]
        ids = self.tokenizer(texts, padding="max_length", max_length=MINIATURE.text.positions, return_tensors="pt")
        rows = self.row[ids["input_ids"]]
        dropped = torch.from_numpy(rng.random(rows.shape) < UNKNOWN)
        return torch.where((rows == self.article) & dropped, len(trained_tokens()), rows), kept


def grounding_loss(maps: Sequence[Tensor], scenes: Sequence[Scene], kept: Sequence[bool]) -> Tensor:
    """(1 - share of a map's mass inside its object's box)^2, mean over sites and words, from maps [B, h, w, 77] each.

    The words are the nouns and colours of the captions that were kept and tell the truth.
    """
    words = [
        (sample, position, drawn.box)
        for sample, scene in enumerate(scenes)
        if kept[sample] and scene.noise == "clean"
        for positions, drawn in zip(word_positions(scene.named), scene.drawn, strict=True)
        for position in positions
    ]
    if not words:
        return torch.stack([map_.sum() for map_ in maps]).sum() * 0
    samples, positions, boxes = zip(*words, strict=True)
    inside = torch.zeros(len(words), 1, *scenes[0].image.shape[:2])
    for mask, (left, top, right, bottom) in zip(inside, boxes, strict=True):
        mask[:, top:bottom, left:right] = 1
    losses = []
    for map_ in maps:
        found = map_[list(samples), :, :, list(positions)]  # [words, h, w]
        masses = (found * F.adaptive_avg_pool2d(inside, (found.shape[1], found.shape[2]))[:, 0]).sum(dim=(1, 2))
        losses.append((1 - masses / found.sum(dim=(1, 2))).square().mean())
    return torch.stack(losses).mean()


def word_positions(named: Sequence[Named]) -> list[list[int]]:
    """Positions of each object's noun and colour in the caption's 77 tokens (every word is one token).

    >>> word_positions([("cat", None), ("bench", "orange")])  # a cat and a orange bench
    [[2], [5, 6]]
    """
    positions, start = [], 1
    for _, colour in named:
        last = start + (2 if colour else 1)
        positions.append(list(range(start + 1, last + 1)))
        start = last + 2  # after "and" or "with"
    return positions


def train_stage(stage: Stage, network: Denoiser, vae: VAE, state: Path) -> None:
    """Train the network on fresh scenes of a stage's world and leave the averaged weights in it."""
    config, grounding = stage.config, stage.grounding
    composer, captions, schedule = Composer(stage.world, UNITS), Captions(stage.dropout), NoiseSchedule()
    network.let_words_see_each_other(stage.contextual)
    network.half_precision = stage.half

    def loss(network: nn.Module, step: int, worker: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([config.seed, 1, step, worker])
        scenes = [composer.compose(rng) for _ in range(config.batch)]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=stage.half):
            z = vae.encode(to_tensor([scene.image for scene in scenes])).mean.float() * vae.scale
        t = torch.from_numpy(rng.integers(0, len(schedule.alphas_cumprod), len(z)))
        noise = torch.from_numpy(rng.standard_normal(z.shape, np.float32))
        rows, kept = captions([scene.caption for scene in scenes], rng)
        epsilon, maps = network(schedule.add_noise(z, noise, t), t, rows, with_maps=grounding > 0)
        errors = (epsilon - noise).square().mean(dim=(1, 2, 3))
        alpha = schedule.alphas_cumprod[t].float()
        snr = alpha / (1 - alpha)
        value = (errors * (MIN_SNR / snr).clamp(max=1) * snr.clamp(max=1) ** -stage.early).mean()
        parts = {"mse": errors.mean().item()}
        for quarter in range(4):
            if (inside := t // 250 == quarter).any():
                parts[f"mse_{250 * quarter}"] = errors[inside].mean().item()
        if grounding:
            grounded = grounding_loss(maps, scenes, kept)
            parts["grounding"] = grounded.item()
            value = value + grounding * grounded
        return value, parts

    train(stage.name, network, loss, config, state)
    network.load_state_dict(checkpoint(state, stage.name)["averaged"])


def steps_parser(description: str | None) -> ArgumentParser:
    """The options of this program and of the whole recipe: how long each stage is."""
    parser = options_parser(description)
    steps = [stage.config.steps for stage in STAGES]
    parser.add_argument("--steps", type=int, nargs=len(steps), default=steps, help="of each stage of the U-Net")
    return parser


def main() -> None:
    """Train on fresh scenes; the averaged networks stay in `STATE/NAME.pt`, a file for each stage.

    The training goes on with the last stage that has one, so earlier ones may be missing.
    """
    options = steps_parser(main.__doc__).parse_args()
    vae = load_small(options.state)
    torch.manual_seed(0)
    network = Denoiser()
    begun = [i for i, stage in enumerate(STAGES) if (options.state / f"{stage.name}.pt").is_file()]
    for stage, steps in list(zip(STAGES, options.steps, strict=True))[max(begun, default=0) :]:
        train_stage(replace(stage, config=replace(stage.config, steps=steps)), network, vae, options.state)


if __name__ == "__main__":
    main()
