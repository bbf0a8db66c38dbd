"""A second opinion on presence and binding, of another make than the judge's: what the miniature's captioner says.

The captioner is a transformer that writes sentences and has seen true scenes alone, the judge a convolutional detector
that learnt from broken things, too. What pleases both is not drawn for the one.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ebama.weights.miniature.judge import Reading, satisfied

from ..benchmarks import BenchmarkPrompt
from .scorer import JudgeScorer, Scores, asked_for
from .vision_language import EMBEDDED, Captioner

_ENDING = " on a light background"


class SecondJudgeScorer:
    """`second presence` (the caption names all the prompt's objects) and `second binding` (each in its colour besides),
    0 or 1 each, and whether `judges agree`: whether the first judge's binding is the same.

    Prompts that the first judge does not know get None.
    """

    name = "the miniature's captioner"
    keys: tuple[str, ...] = ("second presence", "second binding", "judges agree")

    def __init__(self) -> None:
        self._first, self._captioner = JudgeScorer(), Captioner.open(EMBEDDED)

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
        """See the class."""
        firsts, captions = self._first(images, prompts), self._captioner.captions(images)
        scores: list[Scores] = []
        for first, caption, prompt in zip(firsts, captions, prompts, strict=True):
            named = asked_for(prompt.text)
            present, bound = satisfied(stated(caption), named)
            values = (float(present), float(bound), float(bound == first["binding"]))
            scores.append(dict(zip(self.keys, values if named else (None, None, None), strict=True)))
        return scores


def stated(caption: str) -> Reading:
    """What a caption of the captioner's says is there; nothing, if it is no sentence about the world.

    >>> stated("a cat and a red car on a light background").colours
    {'car': 'red'}
    """
    named = asked_for(caption.removesuffix(_ENDING))
    return Reading(frozenset(noun for noun, _ in named), {noun: colour for noun, colour in named if colour})
