"""Scores of images: a protocol, and the embedded judges of the miniature's world."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ebama.weights.miniature.judge import SIDE, Reading, load_judge, satisfied
from ebama.weights.miniature.world import ANIMALS, COLOURS, NOUNS

from ...output.png import as_rgb
from ...prompt.alignment import find_all
from ..benchmarks import BenchmarkPrompt, Boxes

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
    """Presence (all objects of the prompt are there) and binding (there, each in its colour), 0 or 1 each, and how many
    `extras` nobody asked for.

    With `boxes` also placement (there, each that has a box in it: the centre of what the judge takes it by) and both
    together; of prompts with boxes alone.

    The judge knows the miniature's nouns and the colours of its objects, in prompts of phrases "a [colour] noun" joined
    by "and" or "with"; others get None, also where an animal has a colour or a noun comes twice.
    """

    name = "the miniature's judge"
    keys: tuple[str, ...] = ("presence", "binding", "extras")

    def __init__(self, boxes: bool = False) -> None:
        self._judge = load_judge()
        if boxes:
            self.keys += ("placement", "placement and binding")

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
        """See the class."""
        readings = self._judge.read(as_pixels(images))
        scores: list[Scores] = []
        for reading, prompt in zip(readings, prompts, strict=True):
            values: dict[str, float] = {}
            if named := asked_for(prompt.text):
                present, bound = satisfied(reading, named)
                values = {"presence": present, "binding": bound, "extras": reading.extras(named)}
                if (placed := _placed(reading, named, prompt.boxes)) is not None:
                    values |= {"placement": present and placed, "placement and binding": bound and placed}
            scores.append({key: float(values[key]) if key in values else None for key in self.keys})
        return scores


def as_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of any size as the miniature's judge sees them: [B, 3, 64, 64] in [0, 1]."""
    scaled = [as_rgb(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image) for image in scaled])).permute(0, 3, 1, 2).float() / 255


def _placed(reading: Reading, named: Sequence[tuple[str, str | None]], boxes: Boxes) -> bool | None:
    """Whether every noun that has a box is seen in it; None if none has one, or one is of something else."""
    nouns = [next((noun for noun, _ in named if find_all(word, noun)), None) for word, _ in boxes]
    if not nouns or None in nouns:
        return None
    centres = [reading.places.get(noun) for noun in nouns if noun]
    return all(at is not None and box.holds(*at) for at, (_, box) in zip(centres, boxes, strict=True))


def asked_for(prompt: str) -> list[tuple[str, str | None]]:
    """The objects and colours that a prompt names, if it names nothing that the judge does not know."""
    named: list[tuple[str, str | None]] = []
    for phrase in re.split(" and | with ", prompt.lower()):
        match = _PHRASE.fullmatch(phrase.strip())
        if match is None or match[2] not in NOUNS or match[1] not in (None, *COLOURS):
            return []
        named.append((match[2], match[1]))
    coloured_animal = any(noun in ANIMALS and colour is not None for noun, colour in named)
    return [] if coloured_animal or len({noun for noun, _ in named}) < len(named) else named
