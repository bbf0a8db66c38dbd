"""Train the miniature's image-text judge, a tiny CLIP: `python -m ebama.training.train_clip`.

One thread and about twenty minutes; resumable. The texts are the scenes' captions in CLIP's 80 templates, as the
similarity metrics ask for them, and in the captioner's words. It is no CLIP: it knows 24 nouns and 11 colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPModel

from ebama.weights.miniature.judge import SIDE
from ebama.weights.miniature.world import ANIMALS, COLOURS, OBJECTS, Named, caption

from ..evaluation.judges.templates import published
from . import readers
from .drawing.scenes import Scene, pick
from .readers import CONFIG, ReaderJudge

PLAIN = 0.25
"""Share of texts without a template: half of them captions alone, half as the captioner says them."""


class ImageTextJudge(ReaderJudge):
    """The model and its help, under one forward."""

    def __init__(self) -> None:
        tokenizer = readers.clip_tokenizer()
        super().__init__(CLIPModel(readers.clip_config(tokenizer)), tokenizer)

    def forward(
        self, pixels: Tensor, scenes: Sequence[Scene], rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The contrastive loss and the help's; the share of pictures that are most similar to their own text."""
        encoded = self.tokenizer(texts(scenes, rng), padding=True, return_tensors="pt")
        output = self.model(**encoded, pixel_values=pixels, return_loss=True)
        loss = output.loss + self.reader(output.vision_model_output.last_hidden_state, scenes)
        right = output.logits_per_image.argmax(dim=1) == torch.arange(len(scenes))
        return loss, {"retrieval": right.float().mean().item()}


def texts(scenes: Sequence[Scene], rng: np.random.Generator) -> list[str]:
    """A text for each scene."""

    def text(scene: Scene) -> str:
        draw = rng.random()
        if draw < PLAIN / 2:
            return scene.caption
        if draw < PLAIN:
            return readers.description(scene.named).removeprefix(f"{readers.BEGINNING} ")
        return pick(rng, published(scene.caption))

    return [text(scene) for scene in scenes]


@torch.no_grad()
def measure(clip: Any) -> dict[str, float]:
    """What the model reaches on the held-out scenes.

    `retrieval`: share of pictures most similar to their own caption among the 32 of their batch; `replaced`: more
    similar to it than to the same with one noun or colour replaced; `swapped`: than with the two colours swapped.
    """
    tokenizer = readers.clip_tokenizer()

    def compare(pixels: Tensor, captions: Sequence[str]) -> Tensor:
        encoded = tokenizer(list(captions), padding=True, return_tensors="pt")
        similarities: Tensor = clip(**encoded, pixel_values=pixels).logits_per_image
        return similarities

    rng = np.random.default_rng(CONFIG.seed)
    hits: dict[str, list[bool]] = {"retrieval": [], "replaced": [], "swapped": []}
    for scenes, pixels in readers.held_out():
        captions = [scene.caption for scene in scenes]
        best = compare(pixels, captions).argmax(dim=1).tolist()
        hits["retrieval"] += [captions[i] == own for i, own in zip(best, captions, strict=True)]
        for row, scene in enumerate(scenes):
            wrong = {"replaced": caption(_replaced(scene.named, rng))}
            if len(scene.named) == 2 and len({colour for _, colour in scene.named} - {None}) == 2:
                (first, a), (second, b) = scene.named
                wrong["swapped"] = caption([(first, b), (second, a)])
            scores = compare(pixels[row : row + 1], [scene.caption, *wrong.values()])[0].tolist()
            for key, score in zip(wrong, scores[1:], strict=True):
                hits[key].append(scores[0] > score)
    return {key: round(sum(right) / len(right), 4) for key, right in hits.items()}


def _replaced(named: Sequence[Named], rng: np.random.Generator) -> list[Named]:
    """One noun, or one colour if there is any and a coin says so, replaced by another of its kind."""
    coloured = [pair for pair in named if pair[1]]
    if coloured and rng.random() < 0.5:
        noun, colour = changed = pick(rng, coloured)
        wrong: Named = noun, pick(rng, [other for other in COLOURS if other != colour])
    else:
        noun, colour = changed = pick(rng, named)
        nouns = {noun for noun, _ in named}
        wrong = pick(rng, [other for other in (OBJECTS if noun in OBJECTS else ANIMALS) if other not in nouns]), colour
    return [wrong if pair == changed else pair for pair in named]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, store clip/ (float16) and its part of judges.json, measured on what is stored."""
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
    }
    readers.train_and_store("clip", "image_text", ImageTextJudge, measure, processor, arguments)


if __name__ == "__main__":
    main()
