"""Train the miniature's VAE of factor 8: `python -m ebama.training.vae.train_whole`, one worker.

It gives pictures of 128 x 128 the same latents as a VAE of factor 4 (`train_small`) gives them at half the side, so
the U-Net, which learns those latents, need not learn anew. Two stages:

1. Its decoder learns to draw the whole picture from the small encoder's latents. That encoder learns too, but stays
   near what it was: its latents had lost much of the backgrounds' tints.
2. The latents are fixed, the U-Net learns them, and the decoder goes on.

In both its own encoder learns to give the same latents for the whole picture. One step in four sees whole pictures, the
others windows around objects, as the flat rest teaches little. The decoder gets latents with a little noise, since the
U-Net's are never exact. Networks run in bfloat16.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebama.models import MINIATURE, VAE

from ..drawing.scenes import SIDE, SIMPLE, UNITS, VARIED, Composer, Scene, pick
from ..loop import TrainingConfig, checkpoint, options_parser, save, train
from .train_small import load_small, reconstruction_loss, to_tensor

LATENTS_CONFIG = TrainingConfig(steps=2500, batch=8, lr=2e-3, warmup=100, flat=0.5, ema=0.99, seed=2)
CONFIG = TrainingConfig(steps=5000, batch=8, lr=2e-3, warmup=100, flat=0.4, ema=0.99, seed=3)
WORLDS = (SIMPLE, SIMPLE, SIMPLE, VARIED)
WHOLE = 4  # one step in so many sees whole pictures
WINDOW = 8  # latents along the side of a window
NOISE = 0.2  # largest standard deviation of the noise on the latents
DISTANCE = 0.5  # weight of the encoder's squared distance from the small encoder's latents
NEAR = 0.3  # weight of the small encoder's squared distance from what its latents were
Corners: TypeAlias = Sequence[tuple[int, int, int]]
"""Sample, row and column where a window begins."""


class Doubling(nn.Module):
    """The VAE of factor 8 behind the encoder of the small one, which sees pictures of half the side."""

    def __init__(self, small: VAE) -> None:
        super().__init__()
        self.small = small
        self.vae = VAE(MINIATURE.vae)

    def let_latents_change(self, change: bool) -> None:
        """Whether the small encoder learns, too."""
        for part in (self.small.encoder, self.small.quant_conv):
            part.requires_grad_(change)

    def forward(
        self, small: Tensor, large: Tensor | None, noise: Tensor, corners: Corners | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Pictures of half the side, whole ones if the encoder of factor 8 shall see them, noise on the latents, and
        corners if only windows are to be drawn -> (small encoder's latents, encoder's latents, drawn pictures).
        """
        with torch.autocast("cpu", torch.bfloat16):
            z = self.small.encode(small).mean.float()
            y = self.vae.decode((z if corners is None else windows(z, corners, WINDOW)) + noise)
            own = None if large is None else self.vae.encode(large).mean.float()
        return z, own, y.float()


def windows(x: Tensor, corners: Corners, size: int) -> Tensor:
    """Square windows of [B, C, h, w]: [corners, C, size, size]."""
    return torch.stack([x[i, :, row : row + size, column : column + size] for i, row, column in corners])


def corner(scene: Scene, rng: np.random.Generator) -> tuple[int, int]:
    """Row and column of the first latent of a window around one of a scene's objects, more or less."""
    left, top, right, bottom = pick(rng, scene.drawn).box
    factor, last = MINIATURE.vae.factor, MINIATURE.sample_size - WINDOW
    middles = ((a + b) / 2 / factor - WINDOW / 2 + rng.uniform(-1.5, 1.5) for a, b in ((top, bottom), (left, right)))
    row, column = (int(np.clip(round(middle), 0, last)) for middle in middles)
    return row, column


def train_stage(name: str, network: Doubling, before: VAE | None, config: TrainingConfig, state: Path) -> float:
    """Train in place and leave the averaged weights in the network; returns the seconds that it took.

    The small encoder learns only where there is one `before` it, whose latents it stays near.
    """
    network.let_latents_change(before is not None)
    makers = {side: [Composer(world, side) for world in WORLDS] for side in (UNITS, SIDE)}
    factor, channels = MINIATURE.vae.factor, MINIATURE.vae.latent_channels

    def draw(side: int, seed: Sequence[int], count: int) -> tuple[list[Scene], Tensor]:
        rng = np.random.default_rng(seed)
        scenes = [makers[side][i % len(WORLDS)].compose(rng) for i in range(count)]
        return scenes, to_tensor([scene.image for scene in scenes])

    def loss(network: nn.Module, step: int, worker: int) -> tuple[Tensor, dict[str, float]]:
        seed, whole = [config.seed, step, worker], step % WHOLE == 0
        rng = np.random.default_rng([*seed, 1])
        count = config.batch * (1 if whole else 2)
        (_, small), (scenes, large) = (draw(side, seed, count) for side in (UNITS, SIDE))
        corners, shape = None, (count, channels, MINIATURE.sample_size, MINIATURE.sample_size)
        if not whole:
            corners = [(i, *corner(scene, rng)) for i, scene in enumerate(scenes) for _ in range(2)]
            shape = (len(corners), channels, WINDOW, WINDOW)
        noise = rng.standard_normal(shape, np.float32)
        noise *= NOISE * rng.random((len(noise), 1, 1, 1), np.float32)
        z, own, y = network(small, large if whole else None, torch.from_numpy(noise), corners)
        if corners is not None:
            large = windows(large, [(i, factor * row, factor * column) for i, row, column in corners], factor * WINDOW)
        value, figures = reconstruction_loss(y, large)
        if not whole:
            figures = {f"window_{key}": figure for key, figure in figures.items()}
        if before is not None:
            with torch.no_grad():
                target = before.encode(small).mean
            moved = F.mse_loss(z, target)
            value, figures["moved"] = value + NEAR * moved, moved.item()
        if own is not None:
            distance = F.mse_loss(own, z.detach())
            value, figures["distance"] = value + DISTANCE * distance, distance.item()
        return value, figures

    train(name, network, loss, config, state)
    trained = checkpoint(state, name)
    network.load_state_dict(trained["averaged"])
    return float(trained["seconds"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both stages: the small encoder stays in `STATE/latents_final.pt`, the VAE in `STATE/vae_final.pt`."""
    parser = options_parser(main.__doc__)
    steps = [LATENTS_CONFIG.steps, CONFIG.steps]
    parser.add_argument("--steps", type=int, nargs=2, default=steps, help="of the two stages (default: %(default)s)")
    options = parser.parse_args(arguments)
    state, (first, second) = options.state, options.steps
    torch.manual_seed(LATENTS_CONFIG.seed)
    small = load_small(state, "vae_half_final")
    network = Doubling(copy.deepcopy(small))
    seconds = train_stage("vae_latents", network, small, replace(LATENTS_CONFIG, steps=first), state)
    save({"vae": network.small.state_dict(), "seconds": seconds}, state / "latents_final.pt")
    seconds += train_stage("vae", network, None, replace(CONFIG, steps=second), state)
    save({"vae": network.vae.state_dict(), "seconds": seconds}, state / "vae_final.pt")


if __name__ == "__main__":
    main()
