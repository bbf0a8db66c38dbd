"""The similarities of the paper's Table 1, computed as Attend-and-Excite's published metrics do (docs/metrics.md)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from PIL import Image
from torch import Tensor

from ..benchmarks import BenchmarkPrompt
from . import templates
from .scorer import Scorer, Scores
from .vision_language import Captioner, Clip, captioner_folder, clip_folder

CORRECTED = " corrected"
"""The ending of the corrected variants' names."""


class ImageTextSimilarity:
    """`full`, a picture's similarity to its prompt, and `min`, the smaller one of those to the prompt's halves.

    The published metrics skip prompts without "and" or "with", for both: these get None, as do those too long for
    CLIP. With `corrected` also "full corrected" and "min corrected", which read every prompt: no letter of a word is
    lost, `min` takes all the parts that the prompt has, and what is too long is cut.
    """

    def __init__(self, clip: Clip, texts: PromptVectors | None = None, *, corrected: bool = False) -> None:
        self.name = clip.name
        self.keys: tuple[str, ...] = ("full", "min")
        if corrected:
            self.keys += ("full" + CORRECTED, "min" + CORRECTED)
        self._clip = clip
        self._texts = texts or PromptVectors(clip)

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
        """See the class."""
        scores: list[Scores] = []
        for vector, prompt in zip(self._clip.images(images), prompts, strict=True):
            values = self._full_and_min(vector, prompt.text, templates.halves(prompt.text), corrected=False)
            if len(self.keys) > len(values):
                values += self._full_and_min(vector, prompt.text, templates.parts(prompt.text), corrected=True)
            scores.append(dict(zip(self.keys, values, strict=True)))
        return scores

    def _full_and_min(
        self, vector: Tensor, prompt: str, parts: Sequence[str] | None, *, corrected: bool
    ) -> list[float | None]:
        if parts is None:
            return [None, None]
        full, *halves = [self._texts.similarity(vector, text, corrected=corrected) for text in (prompt, *parts)]
        known = [value for value in halves if value is not None]
        return [full, min(known) if len(known) == len(halves) else None]


class TextCaptionSimilarity:
    """`t-c`, the similarity of a prompt (in the templates) and the picture's caption (alone), and the `caption` itself.

    With `corrected` also "t-c corrected", where no letter of the prompt's words is lost and what is too long is cut.
    """

    def __init__(
        self, clip: Clip, captioner: Captioner, texts: PromptVectors | None = None, *, corrected: bool = False
    ) -> None:
        self.name = f"{captioner.name}, its captions compared by {clip.name}"
        self.keys: tuple[str, ...] = ("t-c", "t-c" + CORRECTED, "caption") if corrected else ("t-c", "caption")
        self._clip = clip
        self._captioner = captioner
        self._texts = texts or PromptVectors(clip)

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
        """See the class."""
        scores: list[Scores] = []
        for caption, prompt in zip(self._captioner.captions(images), prompts, strict=True):
            vectors = self._clip.texts([caption], cut=True)  # at most 30 tokens of BLIP's: never too long for CLIP
            assert vectors is not None
            similarities = {
                key: self._texts.similarity(vectors[0], prompt.text, corrected=key.endswith(CORRECTED))
                for key in self.keys[:-1]
            }
            scores.append({**similarities, "caption": caption})
        return scores


class PromptVectors:
    """Texts -> the unit vectors of their 80 templates; each is computed once, for all scorers that share this."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._known: dict[tuple[str, ...], Tensor | None] = {}

    def __call__(self, text: str, *, corrected: bool) -> Tensor | None:
        """The vector [D]; None if the text is too long for CLIP (the corrected variant cuts it)."""
        texts = tuple(templates.corrected(text) if corrected else templates.published(text))
        key = (*texts, str(corrected))
        if key not in self._known:
            self._known[key] = self._clip.ensemble(texts, cut=corrected)
            if self._known[key] is None:
                warnings.warn(f"{text[:60]!r} is too long for {self._clip.name} and gets no similarity.", stacklevel=2)
        return self._known[key]

    def similarity(self, vector: Tensor, text: str, *, corrected: bool) -> float | None:
        """Of a vector [D] and a text; None if the text is too long."""
        other = self(text, corrected=corrected)
        return None if other is None else float(torch.dot(vector, other))


def check(clip: str | None, captioner: str | None) -> None:
    """Raise ValueError, in one line, if a folder holds no such model, or if nobody would compare the captions."""
    if clip is None:
        raise ValueError("--blip needs --clip too: a CLIP model compares the captions with the prompts.")
    clip_folder(clip)
    if captioner is not None:
        captioner_folder(captioner)


def similarities(clip: str, captioner: str | None, prompts: Iterable[str], device: str = "cpu") -> list[Scorer]:
    """The scorers of a CLIP folder and, if there is one, a BLIP folder; either may be "miniature".

    The corrected variants are among their scores if one of the prompts needs them. Raises ValueError as `Clip.open`.
    """
    opened = Clip.open(clip, device)
    corrected = any(
        templates.differ(text) or not opened.fit(templates.published(text)) for text in dict.fromkeys(prompts)
    )
    texts = PromptVectors(opened)
    scorers: list[Scorer] = [ImageTextSimilarity(opened, texts, corrected=corrected)]
    if captioner is not None:
        scorers.append(TextCaptionSimilarity(opened, Captioner.open(captioner, device), texts, corrected=corrected))
    return scorers
