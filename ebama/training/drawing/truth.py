"""What a judge is to say of pictures: of galleries by what was drawn, of labelled pictures by what a person saw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ebama.weights.miniature.judge import BROKEN, NOTHING, PAINTS, PLACES, SIDE, Judge
from ebama.weights.miniature.world import NOUNS

from ...evaluation.judges.agreement import Label
from ...evaluation.judges.scorer import asked_for
from .galleries import Gallery, Thing

_SEEN = 0.2  # the probability that a noun needs somewhere to be placed there


def truth(galleries: Sequence[Gallery]) -> tuple[Tensor, Tensor]:
    """Indices [B, 8, 8] of the class of what has its middle in a place, and of its colour; -100 (ignored) where either
    cannot be told. The places around a middle may say either class.
    """
    things = torch.full((len(galleries), PLACES, PLACES), NOTHING)
    paints = torch.full((len(galleries), PLACES, PLACES), -100)
    for row, gallery in enumerate(galleries):
        middles = [middle(thing) for thing in gallery.things]
        for y, x in middles:
            things[row, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = -100
        for thing, (y, x) in zip(gallery.things, middles, strict=True):
            things[row, y, x] = BROKEN if thing.noun is None else NOUNS.index(thing.noun)
            if thing.colour is not None:
                paints[row, y, x] = PAINTS.index(thing.colour)
    return things, paints


def middle(thing: Thing) -> tuple[int, int]:
    """The place (row, column) of a thing's middle."""
    left, top, right, bottom = thing.box
    return (top + bottom) * PLACES // (2 * SIDE), (left + right) * PLACES // (2 * SIDE)


@torch.no_grad()
def labelled_truth(judge: Judge, pixels: Tensor, labels: Sequence[Label]) -> tuple[Tensor, Tensor]:
    """Classes and colours [B, 8, 8] of pictures [B, 3, 64, 64], as `truth` gives those of galleries.

    An object that the prompt asks for is where the judge sees its noun best, as what the person saw: the noun, or
    `BROKEN`. The judge is believed about all that nobody asked for.
    """
    probabilities = judge(pixels)[0].softmax(dim=1)
    things = torch.full((len(pixels), PLACES, PLACES), NOTHING)
    paints = torch.full((len(pixels), PLACES, PLACES), -100)
    for row, (label, reading) in enumerate(zip(labels, judge.read(pixels), strict=True)):
        named = asked_for(label["prompt"])
        centres = {t.place: BROKEN if t.noun is None else NOUNS.index(t.noun) for t in reading.things}
        colours = {}
        for (noun, colour), state, right in zip(named, label["objects"], label["colours"], strict=True):
            evidence = probabilities[row, NOUNS.index(noun)]
            y, x = divmod(int(evidence.argmax()), PLACES)
            if float(evidence[y, x]) < _SEEN:
                continue
            if state == "absent":
                centres[y, x] = -100
                continue
            centres[y, x] = NOUNS.index(noun) if state == "whole" else BROKEN
            if right and colour is not None:
                colours[y, x] = PAINTS.index(colour)
        for y, x in centres:
            things[row, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = -100
        for (y, x), kind in centres.items():
            things[row, y, x] = kind
        for (y, x), index in colours.items():
            paints[row, y, x] = index
    return things, paints
