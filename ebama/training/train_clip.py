"""Train the miniature's image-text judge, a tiny CLIP: `python -m ebama.training.train_clip`.

One thread and about twenty minutes; resumable. The texts are the scenes' captions in CLIP's 80 templates, as the
similarity metrics ask for them, and in the captioner's words. It is no CLIP: it knows 24 nouns and 11 colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPModel

from ebama.weights.miniature.world import COLOURS, NOUNS, OBJECTS, Named, caption

from ..evaluation.judges.templates import TEMPLATES, published
from . import readers
from .drawing.scenes import SIDE, Composer, Scene
from .readers import CONFIG, ReaderJudge

PLAIN = 0.25
"""Share of texts without a template: half of them captions alone, half as the captioner says them."""


class ImageTextJudge(ReaderJudge):
    """The model and its help, under one forward."""

    def __init__(self) -> None:
        tokenizer = readers.clip_tokenizer()
        super().__init__(CLIPModel(readers.clip_config(tokenizer)), tokenizer)

    def forward(self, pixels: Tensor, texts: Sequence[str], scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """The loss, and the similarities [B, B] of pictures and texts."""
        encoded = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        found = self.model(**encoded, pixel_values=pixels, return_loss=True)
        loss = found.loss + self.reader(found.vision_model_output.last_hidden_state, scenes)
        return loss, found.logits_per_image


def texts(scenes: Sequence[Scene], rng: np.random.Generator) -> list[str]:
    """A text for each scene."""
    found = []
    for scene in scenes:
        draw = float(rng.random())
        if draw < PLAIN / 2:
            found.append(scene.caption)
        elif draw < PLAIN:
            found.append(readers.description(scene.named).removeprefix(f"{readers.BEGINNING} "))
        else:
            found.append(published(scene.caption)[int(rng.integers(len(TEMPLATES)))])
    return found


@torch.no_grad()
def measure(clip: Any) -> dict[str, float]:
    """What the model reaches on the held-out scenes.

    `retrieval`: share of pictures most similar to their own caption among the 32 of their batch; `replaced`: more
    similar to it than to the same with one noun or colour replaced; `swapped`: than with the two colours swapped.
    """
    tokenizer = readers.clip_tokenizer()

    def compare(pixels: Tensor, captions: Sequence[str]) -> Tensor:
        found: Tensor = clip(
            **tokenizer(list(captions), padding=True, return_tensors="pt"), pixel_values=pixels
        ).logits_per_image
        return found

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
    return {key: round(sum(found) / len(found), 4) for key, found in hits.items()}


def _replaced(named: Sequence[Named], rng: np.random.Generator) -> list[Named]:
    """One noun, or one colour if there is any and a coin says so, replaced by another of its kind."""
    changed = list(named)
    coloured = [i for i, (_, colour) in enumerate(named) if colour]
    if coloured and rng.random() < 0.5:
        at = coloured[int(rng.integers(len(coloured)))]
        noun, colour = named[at]
        others = [other for other in COLOURS if other != colour]
        changed[at] = (noun, others[int(rng.integers(len(others)))])
        return changed
    at = int(rng.integers(len(named)))
    noun, colour = named[at]
    pool = OBJECTS if noun in OBJECTS else NOUNS[: len(NOUNS) - len(OBJECTS)]
    choices = [other for other in pool if other not in {each for each, _ in named}]
    changed[at] = (choices[int(rng.integers(len(choices)))], colour)
    return changed


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, store clip/ (float16) and its part of judges.json, measured on what is stored."""
    composer = Composer(readers.WORLD)

    def loss(network: nn.Module, step: int, worker: int) -> tuple[Tensor, dict[str, float]]:
        scenes, pixels, rng = readers.draw(composer, CONFIG.seed, step, worker)
        value, similarity = network(pixels, texts(scenes, rng), scenes)
        right = similarity.argmax(dim=1) == torch.arange(len(scenes))
        return value, {"retrieval": right.float().mean().item()}

    torch.manual_seed(CONFIG.seed)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
    }
    readers.train_and_store("clip", "image_text", ImageTextJudge(), loss, measure, processor, arguments)


if __name__ == "__main__":
    main()
