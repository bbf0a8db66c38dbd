"""Train the miniature's captioner, a tiny BLIP: `python -m ebama.training.train_captioner`.

One thread and about twenty minutes; resumable. It says "a picture of", what is there in the order of the world's nouns,
and "on a light background". It is no BLIP: it knows 24 nouns and 11 colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration

from ebama.weights.miniature.judge import SIDE

from . import readers
from .drawing.scenes import Scene
from .readers import ReaderJudge

_PREFIX = 4  # tokens that are given: [DEC] a picture of


class CaptioningJudge(ReaderJudge):
    """The model and its help, under one forward."""

    def __init__(self) -> None:
        tokenizer = readers.caption_tokenizer()
        super().__init__(BlipForConditionalGeneration(readers.caption_config(tokenizer)), tokenizer)

    def forward(self, pixels: Tensor, scenes: Sequence[Scene], _: object) -> tuple[Tensor, dict[str, float]]:
        """The loss: cross-entropy of the captions' words after the prefix, and the help's."""
        captions = [readers.description(scene.named) for scene in scenes]
        encoded = self.tokenizer(captions, padding=True, return_tensors="pt")
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        ids[:, 0] = self.tokenizer.bos_token_id
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :_PREFIX] = -100
        output = self.model(pixel_values=pixels, input_ids=ids, attention_mask=mask, labels=labels)
        return output.loss + self.reader(output.last_hidden_state, scenes), {}


@torch.no_grad()
def measure(captioner: Any) -> dict[str, float]:
    """`exact`: share of the held-out scenes whose caption is right word for word, decoded as the metric does."""
    tokenizer = readers.caption_tokenizer()
    right: list[bool] = []
    for scenes, pixels in readers.held_out():
        prefix = torch.tensor(tokenizer([readers.BEGINNING] * len(scenes))["input_ids"])
        output = captioner.generate(pixel_values=pixels, input_ids=prefix, num_beams=3, max_length=30, min_length=10)
        said = tokenizer.batch_decode(output, skip_special_tokens=True)
        right += [text == readers.description(scene.named) for text, scene in zip(said, scenes, strict=True)]
    return {"exact": round(sum(right) / len(right), 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, store captioner/ (float16) and its part of judges.json, measured on what is stored."""
    processor = {"image_processor_type": "BlipImageProcessor", "size": {"height": SIDE, "width": SIDE}}
    readers.train_and_store("captioner", "captioner", CaptioningJudge, measure, processor, arguments)


if __name__ == "__main__":
    main()
