"""The stages of the U-Net's training.

In the first the network only learns to predict noise. In so short a training its cross-attention maps stay diffuse,
though, and guidance by attention needs maps that say where a word's object is. So the second stage goes on with a
further loss, which draws the maps of a noun and of its colour to where the object is drawn (as TokenCompose does to
Stable Diffusion: Wang et al. 2024). Until then every position of the text encodes its own token only. In the third the
text encoder's self-attention learns too, and more captions are wrong; in the fourth still more, enough for plain
sampling to lose an object in a third of its pictures. The fifth makes up for what was rare until then: one object
alone, without a colour. The sixth goes on with both for far longer, by one worker in larger batches and in bfloat16,
and leaves out more captions.

The shipped weights saw the latents of `train_unet` in the sixth stage only; before, those that the small encoder gave
before it changed a little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from .drawing.scenes import SIMPLE, SceneConfig
from .loop import TrainingConfig


@dataclass(frozen=True)
class Stage:
    """A part of the training; its state and its log are `STATE/NAME.pt` and `STATE/NAME.jsonl`.

    ``grounding`` is the weight of the further loss; ``contextual`` says whether the words may learn to see each other;
    ``dropout`` is the share of captions left out, for classifier-free guidance; ``half`` runs the networks in bfloat16
    (autocast), which is twice as fast on processors that multiply such matrices. Where SNR < 1 the squared error of the
    noise is multiplied by SNR^-``early``; 1 would weigh there as the squared error of the picture does.
    """

    name: str
    title: str
    world: SceneConfig
    config: TrainingConfig
    grounding: float = 0.05
    contextual: bool = True
    dropout: float = 0.1
    half: bool = False
    early: float = 0.0


# Pairs of coloured objects are learnt last.
_PAIRS = replace(SIMPLE, counts=(0.15, 0.8, 0.05), pairs=(0.2, 0.3, 0.5))
_PLAIN = replace(_PAIRS, counts=(0.35, 0.6, 0.05), plain=0.7, neglect=0.5)
_LONG = replace(_PAIRS, counts=(0.42, 0.54, 0.04), plain=0.5, neglect=0.5)
_later = partial(TrainingConfig, batch=8, lr=3e-4, warmup=100, flat=0.3)

STAGES = (
    Stage("unet", "noise alone", SIMPLE, TrainingConfig(6850, batch=8), grounding=0.0, contextual=False),
    Stage("unet_grounded", "noise and grounding", _PAIRS, _later(7800, lr=6e-4, flat=0.5, seed=1), contextual=False),
    Stage("unet_contextual", "words in context", replace(_PAIRS, neglect=0.3), _later(4500, flat=0.4, seed=2)),
    Stage("unet_noisier", "more wrong captions", replace(_PAIRS, neglect=0.45), _later(1900, seed=4)),
    Stage("unet_plain", "objects without a colour", _PLAIN, _later(3000, seed=5)),
    Stage(
        "unet_long",
        "larger batches",
        _LONG,
        TrainingConfig(8500, batch=16, lr=4e-4, warmup=200, flat=0.5, seed=6),
        dropout=0.15,
        half=True,
    ),
    Stage(
        "unet_alone",
        "objects alone",
        replace(_LONG, counts=(0.62, 0.36, 0.02), plain=0.8),
        TrainingConfig(1500, batch=16, lr=2e-4, warmup=50, flat=0.4, seed=7),
        dropout=0.15,
        half=True,
    ),
    Stage(
        "unet_early",
        "what the first calls decide",  # the first 1,500 steps of the weights that ship had early = 0.5
        replace(_LONG, counts=(0.55, 0.43, 0.02), plain=0.7),
        TrainingConfig(4000, batch=16, lr=2e-4, warmup=50, flat=0.6, seed=8),
        dropout=0.15,
        half=True,
        early=0.7,
    ),
)
