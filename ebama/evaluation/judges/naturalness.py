"""How natural the miniature's pictures look, whatever they show: things' distance to true ones, background texture.

What binds by breaking pictures shows here. A distance of whole pictures' features would say most of all how many things
there are, so this one is of the things. Both are scores of single pictures, so a method's mean has an interval over
prompts and a paired difference as every score does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ebama.weights.miniature.judge import load_judge, true_things

from ..benchmarks import BenchmarkPrompt
from .scorer import Scores, as_pixels

_NEAR = 24 / 255  # a pixel of the background is this near to the picture's median colour
_WINDOW = 5  # pixels over which a background may drift


class NaturalnessScorer:
    """`distance`: of the things that the miniature's judge sees in a picture, whole or broken, to the nearest
    things of true scenes in its features, a mean over the picture's; as a multiple of what other true scenes have after
    the miniature's VAE, so that 1 is the best that its pictures can be. None where there is nothing.
    `texture`: `background_texture`, in levels of 255; None without a background.
    """

    name = "the miniature's judge's features of things; the background's pixels"
    keys: tuple[str, ...] = ("distance", "texture")

    def __init__(self) -> None:
        self._judge, (self._true, self._unit) = load_judge(), true_things()

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
        """See the class."""
        pixels = as_pixels(images)
        distances = [mean_distance(things, self._true) / self._unit for things in self._judge.describe(pixels)]
        values = zip(distances, background_texture(pixels).tolist(), strict=True)
        return [
            {key: None if math.isnan(value) else value for key, value in zip(self.keys, pair, strict=True)}
            for pair in values
        ]


def mean_distance(things: Tensor, true: Tensor) -> float:
    """How far things [N, D] are from their nearest true ones [M, D], on average; NaN without any."""
    return float(torch.cdist(things, true).amin(dim=1).mean())


def background_texture(pixels: Tensor) -> Tensor:
    """Root mean square of what is left of the background when slow drifts are taken away.

    Args:
        pixels: [B, 3, h, w] in [0, 1]; the background is what has about the median colour, a margin around objects left
            out.

    Returns:
        [B] in levels of 255; NaN for a picture without such pixels.
    """
    smooth = F.avg_pool2d(pixels, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
    median = smooth.flatten(2).median(dim=-1).values[..., None, None]
    object_ = ((smooth - median).abs().amax(dim=1, keepdim=True) > _NEAR).float()
    background = F.max_pool2d(object_, _WINDOW, 1, _WINDOW // 2) == 0  # [B, 1, h, w]
    squares = ((pixels - smooth) * 255).square().mean(dim=1, keepdim=True) * background
    return (squares.sum(dim=(1, 2, 3)) / background.sum(dim=(1, 2, 3))).sqrt()
