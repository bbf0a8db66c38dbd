"""Scores of images: a protocol, and the embedded judge of the miniature's world."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from ebama.weights.miniature.judge import load_judge, satisfied
from ebama.weights.miniature.world import ANIMALS, COLOURS, NOUNS

from ...output.png import as_rgb
from ..benchmarks import BenchmarkPrompt

_PHRASE = re.compile(r"(?:an?|the) (?:(\w+) )?(\w+)")

Scores = dict[str, float | str | None]
"""A picture's scores by name; None where a score says nothing of its prompt."""


class Scorer(Protocol):
    """Scores pictures against their prompts; `name` says who judges, in a report's words."""

    name: str
    keys: tuple[str, ...]

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
        """The scores of each picture for its prompt, under `keys`."""
        ...


class JudgeScorer:
    """Presence (all objects of the prompt are there) and binding (there, each in its colour), 0 or 1 each.

    The judge knows the miniature's nouns and the colours of its objects, in prompts of phrases "a [colour] noun" joined
    by "and" or "with"; others get None, also where an animal has a colour or a noun comes twice.
    """

    name = "the miniature's judge"
    keys: tuple[str, ...] = ("presence", "binding")

    def __init__(self) -> None:
        self._judge = load_judge()

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
        """See the class."""
        scaled = [as_rgb(image).resize((64, 64), Image.Resampling.BICUBIC) for image in images]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in scaled]))
        readings = self._judge.read(pixels.permute(0, 3, 1, 2).float() / 255)
        scores: list[Scores] = []
        for reading, prompt in zip(readings, prompts, strict=True):
            named = _named(prompt.text)
            verdicts = [float(verdict) for verdict in satisfied(reading, named)] if named else [None, None]
            scores.append(dict(zip(self.keys, verdicts, strict=True)))
        return scores


def _named(prompt: str) -> list[tuple[str, str | None]]:
    """The objects and colours that a prompt names, if it names nothing that the judge does not know."""
    named: list[tuple[str, str | None]] = []
    for phrase in re.split(" and | with ", prompt.lower()):
        match = _PHRASE.fullmatch(phrase.strip())
        if match is None or match[2] not in NOUNS or match[1] not in (None, *COLOURS):
            return []
        named.append((match[2], match[1]))
    coloured_animal = any(noun in ANIMALS and colour is not None for noun, colour in named)
    return [] if coloured_animal or len({noun for noun, _ in named}) < len(named) else named
