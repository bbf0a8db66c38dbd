"""The judge: a small network, independent of the generator, that reads what stands where in a picture, and its colour.

Seven convolutions see 8 x 8 places and say of each what has its middle there: nothing, one of the 24 nouns, or
something that is no object of this world, such as two blended or cut together, half of one, a pink horse. A place holds
one thing, so objects that share a place do not count twice (`ebama.training.train_judge`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from .reading import Reading, Sighting, distance, satisfied, surest
from .world import COLOURS, NOUNS, OBJECTS

__all__ = ["Judge", "Reading", "Sighting", "load_judge", "satisfied", "true_things"]

WEIGHTS = Path(__file__).with_name("judge.safetensors")
REFERENCE = Path(__file__).with_name("true_scenes.safetensors")
"""What the judge sees of true things: `Judge.describe`, which the distance to true scenes compares with."""
SIDE, PLACES = 64, 8
BROKEN = len(NOUNS)
"""The class of what is no object; the nouns come before it in their order, and nothing after it."""
NOTHING = BROKEN + 1
MIXED = "mixed"
"""The colour of an object that has two."""
PAINTS = (*COLOURS, MIXED)
CERTAINTY = 0.5
"""The probability that a noun must have in a place (others agree no better with labels.jsonl)."""
_LAYERS = (  # channels in, channels out, kernel, stride
    (3, 32, 5, 2),
    (32, 48, 3, 1),
    (48, 64, 3, 2),
    (64, 96, 3, 1),
    (96, 96, 3, 2),
    (96, 128, 3, 1),
    (128, 128, 3, 1),
)


class Judge(nn.Module):
    """Pictures [B, 3, 64, 64] in [0, 1] -> logits of what has its middle in a place [B, 26, 8, 8], and of its colour
    [B, 12, 8, 8]. The classes are the nouns, `BROKEN` and `NOTHING`; the colours are `PAINTS`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = _convolutions()
        self.things = nn.Conv2d(_LAYERS[-1][1], NOTHING + 1, 1)
        self.paints = nn.Conv2d(_LAYERS[-1][1], len(PAINTS), 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.body(images * 2 - 1)  # [B, width, 8, 8]
        return self.things(features), self.paints(features)

    @torch.no_grad()
    def read(self, images: Tensor, batch_size: int = 64) -> list[Reading]:
        """Read pictures [B, 3, 64, 64] in [0, 1].

        Raises:
            ValueError: the pictures have another shape.
        """
        if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"the judge reads pictures [B, 3, {SIDE}, {SIDE}], got {list(images.shape)}")
        readings = []
        for batch in images.split(batch_size):
            logits, paints = (part.cpu() for part in self(batch.to(self.things.weight.device)))
            for probabilities, paint in zip(logits.softmax(dim=1), paints.argmax(dim=1), strict=True):
                readings.append(_reading(_sightings(probabilities, paint)))
        return readings

    @torch.no_grad()
    def describe(self, images: Tensor) -> list[Tensor]:
        """Pictures as for `read` -> unit vectors of the things that it sees in each: [things, width]."""
        features = F.normalize(self.body(images * 2 - 1), dim=1)
        return [
            feature[:, [t.place[0] for t in reading.things], [t.place[1] for t in reading.things]].T
            for feature, reading in zip(features, self.read(images), strict=True)
        ]


def _convolutions() -> nn.Sequential:
    blocks: list[nn.Module] = []
    for channels, out, kernel, stride in _LAYERS:
        convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        blocks += [convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*blocks)


def _sightings(probabilities: Tensor, paint: Tensor) -> list[Sighting]:
    """The things of one picture, from probabilities [26, 8, 8] and the likeliest colours [8, 8], surest places first.

    There is a thing where the nouns and `BROKEN` have a probability of `CERTAINTY` together, and it is an object if one
    noun has that alone. A thing's neighbours may see it too, and the same noun two places away is the same thing.
    """
    something = 1 - probabilities[NOTHING]
    things: list[Sighting] = []
    for index in something.flatten().argsort(descending=True).tolist():
        row, column = place = divmod(index, PLACES)
        if float(something[place]) < CERTAINTY:
            break
        best = int(probabilities[:NOTHING, row, column].argmax())
        probability = float(probabilities[best, row, column])
        noun = NOUNS[best] if best != BROKEN and probability > CERTAINTY else None
        if any(distance(place, other.place) <= 1 + (noun == other.noun) for other in things):
            continue
        colour = PAINTS[int(paint[place])] if noun in OBJECTS else None
        things.append(Sighting(noun, colour, place, probability, _centre(probabilities[best], row, column)))
    return things


def _centre(evidence: Tensor, row: int, column: int) -> tuple[float, float]:
    """The mean (x, y) of a place [8, 8] and its neighbours, weighted by what they say, in fractions of the picture."""
    around = torch.zeros_like(evidence)
    window = slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2)
    around[window] = evidence[window] / evidence[window].sum()
    at = (torch.arange(PLACES, dtype=evidence.dtype, device="cpu") + 0.5) / PLACES
    return float(around.sum(dim=0) @ at), float(around.sum(dim=1) @ at)


def _reading(things: Sequence[Sighting]) -> Reading:
    best = surest(things)
    colours = {noun: thing.colour for noun, thing in best.items() if thing.colour is not None}
    return Reading(frozenset(best), colours, tuple(things))


def load_judge(path: Path = WEIGHTS) -> Judge:
    """The trained judge in float32 on the CPU, ready to read."""
    judge = Judge().float()  # whatever the default dtype is
    judge.load_state_dict(load_file(path))  # copies into float32 parameters
    return judge.eval()


def true_things() -> tuple[Tensor, float]:
    """What the judge sees of true things [M, width], and how far other true ones are from the nearest of these
    (`ebama.training.reference`).
    """
    stored = load_file(REFERENCE)
    return stored["things"].float(), float(stored["unit"])
