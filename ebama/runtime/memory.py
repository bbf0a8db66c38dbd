"""A memory budget: how many samples run at once, and whether activations are kept, so that a run fits.

What a pass holds at its peak is measured, once for a pipeline, on a small latent, and grows with samples and pixels:
fused attention holds no map. Maps that a trace or a method asks for, and what the kernels of a device take besides,
are not in it; `MARGIN` is left for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ebama.models.attention import Site
from ebama.models.conditions import with_tokens
from ebama.weights import StableDiffusion

from .usage import peak

MARGIN = 1.25
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Footprint:
    """Bytes for each pixel of a latent: of one row of a noise prediction, of one sample of a guided pass with its
    gradient, of the same with checkpointing, and of one decoded picture; `scratch` comes once on top."""

    prediction: float
    guided: float
    checkpointed: float
    decoded: float
    scratch: float


@dataclass(frozen=True)
class Split:
    """How a run is cut: samples at once, checkpointing of the guided pass or not, latents decoded at once."""

    batch_size: int
    checkpoint: bool
    decode_size: int


def parse(text: str | float) -> int:
    """Bytes that a number, or a text such as "6GB", "6 GiB" or "800M", means (units are powers of 1024).

    Raises ValueError for anything else.
    """
    shown = str(text)[:80]
    match = re.fullmatch(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([kmgt]?)i?b?\s*", shown.lower())
    size = float(match[1]) * _UNITS[match[2]] if match else 0
    if size < 1:
        raise ValueError(f"memory is {shown!r}; expected a size such as '6GB' or '800MB', or a number of bytes.")
    return int(size)


def footprint(sd: StableDiffusion, guiding: int | None) -> Footprint:
    """Measure a model on the smallest latent whose guidance works: two passes forward and two back, and a decode.

    `guiding` is the side of the maps that guidance reads at the model's own size, where the guided pass stops; None for
    the gradient of a noise prediction over the text, through the whole network, as null-text optimisation takes it.
    """
    factor = sd.config.unet.factor
    side = factor * max(math.ceil(sd.config.sample_size / 4 / factor), 2)
    like = next(sd.text_encoder.parameters())
    z = like.new_ones(1, sd.config.unet.in_channels, side, side)
    context = sd.condition([""])
    known = [weight for part in (sd.unet, sd.vae) if isinstance(part, nn.Module) for weight in part.parameters()]

    @torch.no_grad()
    def predict() -> object:
        return sd.unet(z, 500, context)

    @torch.no_grad()
    def decode() -> object:
        return sd.vae.decode(z.to(next(sd.vae.parameters())))

    def guided(checkpoint: bool) -> object:
        with torch.enable_grad():
            if guiding is None:
                moving = z.new_zeros(context.shape).requires_grad_(True)
                loss = sd.unet(z, 500, with_tokens(context, moving), checkpoint=checkpoint).square().sum()
            else:
                moving = z.detach().requires_grad_(True)
                sites = _nearest(sd.unet.sites(z.shape), guiding * side // sd.config.sample_size)
                records = sd.unet.attention(moving, 500, context, sites=sites, checkpoint=checkpoint)
                loss = records.mean_scores().sum() + records.mean_probabilities().square().sum()
            return torch.autograd.grad(loss, moving)

    pixels = side * side
    return Footprint(
        prediction=peak(predict, known) / pixels,
        guided=peak(lambda: guided(False), known) / pixels,
        checkpointed=peak(lambda: guided(True), known) / pixels,
        decoded=peak(decode, known) / pixels,
        scratch=2.0 * max(weight.nbytes for weight in known),  # a layer's weights in the order that a kernel likes
    )


def _nearest(sites: Sequence[Site], side: int) -> list[Site]:
    """The cross-attention sites whose maps are nearest to a square of that side."""
    cross = [site for site in sites if site.kind == "cross"]
    nearest = min(
        {site.resolution for site in cross}, key=lambda at: abs(at[0] - side) + abs(at[1] - side), default=None
    )
    return [site for site in cross if site.resolution == nearest]


def split(
    needs: Footprint, budget: int, held: int, *, pixels: int, rows: int, gradient: bool, wanted: int, least: int = 1
) -> Split:
    """The quickest way that fits: as many samples at once as `wanted` if they do, checkpointing only if one does not.

    Args:
        budget, held: bytes that may be taken in all, and those that are (weights, libraries).
        pixels: of a latent. rows: of a noise prediction, for each sample. gradient: whether samples are guided by one.
        wanted, least: samples at once, at most and at least.

    Raises:
        ValueError: not even the least fits; says what it needs and what else can be lowered.
    """
    free = budget - held - needs.scratch

    def most(per_pixel: float) -> int:
        return int(free / (MARGIN * per_pixel * pixels)) if per_pixel else wanted

    decode = most(needs.decoded)
    for checkpoint in (False, True):
        guided = needs.checkpointed if checkpoint else needs.guided
        count = most(max(rows * needs.prediction, guided if gradient else 0))
        if count >= least and decode >= 1:
            return Split(min(count, wanted), checkpoint and gradient, min(decode, wanted))
    smallest = max(least * max(rows * needs.prediction, needs.checkpointed if gradient else 0), needs.decoded)
    required = held + needs.scratch + MARGIN * smallest * pixels
    raise ValueError(
        f"memory={gibibytes(budget)} is too little: {gibibytes(held)} are taken already and the smallest run needs "
        f"{gibibytes(required)}. Take a smaller latent, bfloat16 weights, or a larger budget."
    )


def advice(batch_size: int, checkpoint: bool, budget: int | None) -> str:
    """One line for a run that ran out of memory: what to lower."""
    steps = [
        *([f"batch_size (it was {batch_size})"] if batch_size > 1 else []),
        *(["the activations that guidance keeps (checkpoint=True)"] if not checkpoint else []),
        "the weights' precision (dtype bfloat16)",
        "the latent's size",
    ]
    chosen = "memory='6GB' chooses the first two" if budget is None else f"memory was {gibibytes(budget)}"
    return f"Memory ran out. Lower {', or '.join(steps)}; {chosen} to fit."


def gibibytes(size: float) -> str:
    """A size to read."""
    return f"{size / 2**30:.2f} GiB"
