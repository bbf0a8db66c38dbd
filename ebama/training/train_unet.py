"""Train the miniature's U-Net and token table, alone or with `torchrun --standalone --nproc-per-node 2 -m THIS`.

Five stages. In the first the network only learns to predict noise. In so short a training its cross-attention maps
stay diffuse, though, and guidance by attention needs maps that say where a word's object is. So the second stage goes
on with a further loss, which draws the maps of a noun and of its colour to where the object is drawn (as TokenCompose
does to Stable Diffusion: Wang et al. 2024). Until then every position of the text encodes its own token only. In the
third the text encoder's self-attention learns too, and more captions are wrong; in the fourth still more, enough for
plain sampling to lose an object in a third of its pictures. The fifth makes up for what was rare until then: one object
alone, without a colour.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebama.models import MINIATURE, VAE, TextEncoder, UNet
from ebama.samplers import NoiseSchedule
from ebama.weights.miniature.world import WORDS, Named
from ebama.weights.tokenizer import clip_tokenizer

from .drawing.scenes import TRAINING, Composer, Scene, SceneConfig
from .loop import TrainingConfig, checkpoint, options_parser, train
from .train_vae import to_tensor


@dataclass(frozen=True)
class Stage:
    """A part of the training; its state and its log are `STATE/NAME.pt` and `STATE/NAME.jsonl`.

    ``grounding`` is the weight of the further loss; ``contextual`` says whether the words may learn to see each other.
    """

    name: str
    title: str
    world: SceneConfig
    config: TrainingConfig
    grounding: float = 0.05
    contextual: bool = True


# One size for each sprite: the fewer things there are to learn, the sooner they are learnt.
_SIMPLE = replace(TRAINING, counts=(0.3, 0.65, 0.05), longest=((28, 28), (28, 28), (22, 22)))
# Pairs of coloured objects are learnt last.
_PAIRS = replace(_SIMPLE, counts=(0.15, 0.8, 0.05), pairs=(0.2, 0.3, 0.5))
_PLAIN = replace(_PAIRS, counts=(0.35, 0.6, 0.05), plain=0.7, neglect=0.5)
_later = partial(TrainingConfig, batch=8, lr=3e-4, warmup=100, flat=0.3)

STAGES = (
    Stage("unet", "noise alone", _SIMPLE, TrainingConfig(6850, batch=8), grounding=0.0, contextual=False),
    Stage("unet_grounded", "noise and grounding", _PAIRS, _later(7800, lr=6e-4, flat=0.5, seed=1), contextual=False),
    Stage("unet_contextual", "words in context", replace(_PAIRS, neglect=0.3), _later(4500, flat=0.4, seed=2)),
    Stage("unet_noisier", "more wrong captions", replace(_PAIRS, neglect=0.45), _later(1900, seed=4)),
    Stage("unet_plain", "objects without a colour", _PLAIN, _later(3000, seed=5)),
)
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
        if not with_maps:
            return self.unet(z, t, self.text_encoder(rows)), []
        sites = [site for site in self.unet.sites(z.shape) if site.kind == "cross"]
        epsilon, records = self.unet(z, t, self.text_encoder(rows), record=sites)
        return epsilon, [record.probabilities.mean(dim=1).unflatten(1, record.site.resolution) for record in records]


class Captions:
    """Captions -> rows of the trained table, [B, 77]."""

    def __init__(self) -> None:
        self.tokenizer = clip_tokenizer()
        self.row = torch.full((MINIATURE.text.vocabulary,), len(trained_tokens()))
        self.row[torch.tensor(trained_tokens())] = torch.arange(len(trained_tokens()))
        self.article = self.row[self.tokenizer.convert_tokens_to_ids("a</w>")]

    def __call__(self, captions: list[str], rng: np.random.Generator) -> tuple[Tensor, list[bool]]:
        """Rows with dropout of captions and of articles, and which captions were kept."""
        kept = [bool(rng.random() >= DROPOUT) for _ in captions]
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
    composer, captions, schedule = Composer(stage.world), Captions(), NoiseSchedule()
    network.let_words_see_each_other(stage.contextual)

    def loss(network: nn.Module, step: int, worker: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([config.seed, 1, step, worker])
        scenes = [composer.compose(rng) for _ in range(config.batch)]
        with torch.no_grad():
            z = vae.encode(to_tensor([scene.image for scene in scenes])).mean * vae.scale
        t = torch.from_numpy(rng.integers(0, len(schedule.alphas_cumprod), len(z)))
        noise = torch.from_numpy(rng.standard_normal(z.shape, np.float32))
        rows, kept = captions([scene.caption for scene in scenes], rng)
        epsilon, maps = network(schedule.add_noise(z, noise, t), t, rows, with_maps=grounding > 0)
        errors = (epsilon - noise).square().mean(dim=(1, 2, 3))
        alpha = schedule.alphas_cumprod[t].float()
        snr = alpha / (1 - alpha)
        value = (errors * (MIN_SNR / snr).clamp(max=1)).mean()
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
    """Train on fresh scenes without end; the averaged networks stay in `STATE/NAME.pt`, a file for each stage."""
    options = steps_parser(main.__doc__).parse_args()
    vae = VAE(MINIATURE.vae).eval().requires_grad_(False)
    vae.load_state_dict(torch.load(options.state / "vae_final.pt", weights_only=True)["vae"])
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.manual_seed(0)
    network = Denoiser()
    for stage, steps in zip(STAGES, options.steps, strict=True):
        train_stage(replace(stage, config=replace(stage.config, steps=steps)), network, vae, options.state)


if __name__ == "__main__":
    main()
