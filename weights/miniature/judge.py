"""The judge: a small classifier, independent of the generator, that reads which nouns a picture shows in which colours.

Seven convolutions lead to 8 x 8 maps of evidence. A noun's presence is the log-sum-exp of its evidence over the
picture (one good look is enough); an object's colour is read where the object is seen. It was trained on clean scenes
of several art styles (``train_judge``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .world import COLOURS, NOUNS, OBJECTS, Named

WEIGHTS = Path(__file__).with_name("judge.safetensors")
_LAYERS = (  # channels in, channels out, kernel, stride
    (3, 32, 5, 2),
    (32, 48, 3, 1),
    (48, 64, 3, 2),
    (64, 96, 3, 1),
    (96, 96, 3, 2),
    (96, 128, 3, 1),
    (128, 128, 3, 1),
)
_COLOURS = tuple(COLOURS)
_FIRST_OBJECT = len(NOUNS) - len(OBJECTS)


@dataclass(frozen=True)
class Reading:
    """What the judge sees: the nouns present, for each object among them the name that suits its colour best, and for
    each noun the centre (x, y) of what speaks for it, in fractions of the picture from its left and top."""

    present: frozenset[str]
    colours: dict[str, str]
    places: dict[str, tuple[float, float]] = field(default_factory=dict)


class Judge(nn.Module):
    """Pictures [B, 3, 64, 64] in [0, 1] -> logits of presence [B, 24] and of colour [B, 12, 11].

    The nouns are in the order of ``NOUNS``, the colours in that of ``OBJECTS`` and ``COLOURS``.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for channels, out, kernel, stride in _LAYERS:
            convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
            blocks += [convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*blocks)
        self.evidence = nn.Conv2d(_LAYERS[-1][1], len(NOUNS), 1)
        self.colour = nn.Conv2d(_LAYERS[-1][1], len(OBJECTS) * len(_COLOURS), 1)
        # Nothing is seen at first: 64 places of evidence -7 pool to about -3, the prior of a noun.
        nn.init.constant_(self.evidence.bias, -7.0)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        evidence, colour = self._look(images)
        return evidence.logsumexp(dim=-1), colour

    def _look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(evidence [B, noun, place], logits of colour)."""
        features = self.features(images * 2 - 1)
        evidence = self.evidence(features).flatten(2)
        colour = self.colour(features).flatten(2).unflatten(1, (len(OBJECTS), len(_COLOURS)))
        seen = evidence[:, _FIRST_OBJECT:].softmax(dim=-1)
        return evidence, torch.einsum("bop,bocp->boc", seen, colour)

    @torch.no_grad()
    def read(self, images: Tensor, batch_size: int = 64) -> list[Reading]:
        """Read pictures [B, 3, 64, 64] in [0, 1]; a noun is present when its probability exceeds one half.

        Raises:
            ValueError: the pictures have another shape.
        """
        if images.ndim != 4 or images.shape[1:] != (3, 64, 64):
            raise ValueError(f"the judge reads pictures [B, 3, 64, 64], got {list(images.shape)}")
        readings = []
        for start in range(0, len(images), batch_size):
            evidence, colour = self._look(images[start : start + batch_size].to(self.evidence.weight.device))
            presence, centres = evidence.logsumexp(dim=-1).tolist(), _centres(evidence).tolist()
            for logits, places, best in zip(presence, centres, colour.argmax(dim=-1).tolist(), strict=True):
                seen = {noun: (x, y) for noun, logit, (x, y) in zip(NOUNS, logits, places, strict=True) if logit > 0}
                colours = {noun: _COLOURS[c] for noun, c in zip(OBJECTS, best, strict=True) if noun in seen}
                readings.append(Reading(frozenset(seen), colours, seen))
        return readings


def _centres(evidence: Tensor) -> Tensor:
    """Means (x, y) of the places, weighted by the softmax of evidence [B, noun, place]: [B, noun, 2] in [0, 1]."""
    side = math.isqrt(evidence.shape[-1])
    at = (torch.arange(side, dtype=evidence.dtype, device=evidence.device) + 0.5) / side
    weights = evidence.softmax(dim=-1).unflatten(-1, (side, side))
    return torch.stack([weights.sum(dim=-2) @ at, weights.sum(dim=-1) @ at], dim=-1)


def satisfied(reading: Reading, named: Sequence[Named]) -> tuple[bool, bool]:
    """Whether a picture shows all named nouns, and shows them in all the colours named.

    >>> satisfied(Reading(frozenset({"car", "cat"}), {"car": "red"}), [("cat", None), ("car", "blue")])
    (True, False)
    """
    present = all(noun in reading.present for noun, _ in named)
    return present, present and all(colour in (None, reading.colours.get(noun)) for noun, colour in named)


def load_judge(path: Path = WEIGHTS) -> Judge:
    """The trained judge in float32 on the CPU, ready to read."""
    judge = Judge().float()  # whatever the default dtype is
    judge.load_state_dict(load_file(path))  # copies into float32 parameters
    return judge.eval()
