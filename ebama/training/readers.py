"""What the miniature's image-text judge and its captioner share: words, tokenizers, configurations, pictures, files.

Both are of transformers' own classes, so that the similarity metrics run through the code that the real CLIP and BLIP
run through. They know the miniature's words, the words of CLIP's 80 templates, and how the captioner ends its captions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertTokenizer, BlipConfig, CLIPConfig, CLIPTokenizer

from ebama.weights.files.tensors import write_tensors
from ebama.weights.loading import MINIATURE_FOLDER
from ebama.weights.miniature.judge import SIDE
from ebama.weights.miniature.world import COLOURS, NOUNS, Named, caption
from ebama.weights.tokenizer import clip_merges, clip_tokens
from ebama.weights.tokenizer import clip_tokenizer as full_tokenizer

from ..evaluation.judges.templates import TEMPLATES
from ..output.files import write_text
from ..output.reading import read_object
from .drawing.scenes import TRAINING, Composer, Scene
from .loop import TrainingConfig, options_parser, train
from .train_judge import HELD_OUT, pictures, soften

WORLD = replace(TRAINING, neglect=0.0, miscolour=0.0)
"""The U-Net's pictures with true captions."""
CONFIG = TrainingConfig(steps=4000, batch=32, lr=1.5e-3, warmup=200, flat=0.4)
BEGINNING, ENDING = "a picture of", "on a light background"
"""What the captions of the captioner begin and end in. Without the ending short captions would not reach the 10 tokens
that the metric's decoding demands, and the captioner would have to go on about things that are not there."""
PATCH, WIDTH, LAYERS, HEADS = 8, 96, 4, 4
HELD_OUT_SCENES = 640
REPORT = MINIATURE_FOLDER / "judges.json"

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_COLOURS = tuple(COLOURS)


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with only those merges that its words need: 791 pieces."""
    merges = _needed(clip_merges(), (*TEMPLATES, ENDING, *NOUNS, *COLOURS, "a and with"))
    vocabulary = {piece: i for i, piece in enumerate(clip_tokens(merges))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)  # type: ignore[arg-type]


def caption_tokenizer() -> BertTokenizer:
    """BERT's tokenizer for the captioner's 49 words; the last, [DEC], starts a caption."""
    words = ("a", "picture", "of", "and", "with", "on", "light", "background")
    vocabulary = {word: i for i, word in enumerate((*_SPECIAL, *words, *NOUNS, *COLOURS, "[DEC]"))}
    return BertTokenizer(vocab=vocabulary, bos_token="[DEC]", model_max_length=40)


def clip_config(tokenizer: CLIPTokenizer) -> CLIPConfig:
    """0.80 M parameters: 4 layers over 8 x 8 patches, 2 over words, all 96 wide."""
    text = {**_text_config(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    return CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=WIDTH)


def caption_config(tokenizer: BertTokenizer) -> BlipConfig:
    """0.79 M parameters: the same eye, 2 layers over words that look at its patches."""
    end = tokenizer.sep_token_id
    text = {**_text_config(tokenizer), "encoder_hidden_size": WIDTH, "eos_token_id": end, "sep_token_id": end}
    return BlipConfig(text_config=text, vision_config=_VISION, projection_dim=WIDTH)


_SIZES = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "projection_dim": WIDTH, "num_attention_heads": HEADS}
_VISION = {**_SIZES, "num_hidden_layers": LAYERS, "image_size": SIDE, "patch_size": PATCH}


def _text_config(tokenizer: CLIPTokenizer | BertTokenizer) -> dict[str, Any]:
    return {
        **_SIZES,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _needed(merges: Sequence[tuple[str, str]], texts: Sequence[str]) -> list[tuple[str, str]]:
    """The merges that make the tokens of the texts' words, and the tokens that those are made of, by rank."""
    parts = {"".join(pair): pair for pair in merges}
    words = set(re.findall("[a-z]+", " ".join(texts)))
    tokens = [token for word in words for token in full_tokenizer().tokenize(word)]
    needed = set()
    while tokens:
        if pair := parts.get(tokens.pop()):
            needed.add(pair)
            tokens += pair
    return [pair for pair in merges if pair in needed]


def description(named: Sequence[Named]) -> str:
    """The caption that the captioner learns: in the order of the world's nouns, as a picture has no first object.

    >>> description([("car", "red"), ("cat", None)])
    'a picture of a cat and a red car on a light background'
    """
    ordered = sorted(named, key=lambda pair: NOUNS.index(pair[0]))
    return f"{BEGINNING} {caption(ordered)} {ENDING}"


def prepared(images: Tensor) -> Tensor:
    """Pictures [B, 3, 64, 64] in [0, 1] as both models take them: in [-1, 1]."""
    return images * 2 - 1


class ReaderJudge(nn.Module):
    """A model of transformers with its tokenizer and, while it is trained, its `PatchReader`.

    Its forward takes pictures [B, 3, 64, 64], their scenes and what further chance is drawn from, and returns the loss
    and figures for the log.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer, self.reader = model, tokenizer, PatchReader()


class PatchReader(nn.Module):
    """A help in training that is thrown away: every patch says which noun and which colour it shows.

    Without it both models take very long to find that pictures consist of objects.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.noun = nn.Linear(WIDTH, len(NOUNS) + 1)
        self.colour = nn.Linear(WIDTH, len(_COLOURS))

    def forward(self, hidden: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """Cross-entropies of noun (or background) and colour, summed, from the eye's last layer [B, 1 + 64, 96]."""
        features = self.norm(hidden[:, 1:])
        noun, colour = shown(scenes)
        loss = F.cross_entropy(self.noun(features).flatten(0, 1), noun.flatten())
        return loss + F.cross_entropy(self.colour(features).flatten(0, 1), colour.flatten())


def shown(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Noun (24: none) and colour (-100: none) at the centre of every patch, [B, 64] each."""
    across = SIDE // PATCH
    noun = torch.full((len(scenes), across, across), len(NOUNS))
    colour = torch.full((len(scenes), across, across), -100)
    centres = torch.arange(across) * PATCH + PATCH // 2
    for row, scene in enumerate(scenes):
        for drawn in scene.drawn:
            left, top, right, bottom = drawn.box
            inside = ((centres >= top) & (centres < bottom))[:, None] & ((centres >= left) & (centres < right))
            noun[row][inside] = NOUNS.index(drawn.noun)
            colour[row][inside] = -100 if drawn.colour is None else _COLOURS.index(drawn.colour)
    return noun.flatten(1), colour.flatten(1)


def held_out() -> Iterator[tuple[list[Scene], Tensor]]:
    """Scenes that no training drew, with their pictures as the models take them, in batches of 32."""
    composer = Composer(WORLD, SIDE)
    for step in range(HELD_OUT, HELD_OUT + HELD_OUT_SCENES // 32):
        rng = np.random.default_rng([CONFIG.seed, step])
        scenes = [composer.compose(rng) for _ in range(32)]
        yield scenes, prepared(pictures(scenes))


def train_and_store(
    name: str,
    section: str,
    make: Callable[[], ReaderJudge],
    measure: Callable[[Any], dict[str, float]],
    processor: Mapping[str, Any],
    arguments: Sequence[str] | None,
) -> None:
    """Train a judge, store its model in the folder `name`, and measure it for its `section` of judges.json."""
    parser = options_parser(f"Train the miniature's {name}; store it in float16, and its figures.")
    state = parser.parse_args(arguments).state
    composer = Composer(WORLD, SIDE)

    def loss(network: nn.Module, step: int, worker: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([CONFIG.seed, step, worker])
        scenes = [composer.compose(rng) for _ in range(CONFIG.batch)]
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        result: tuple[Tensor, dict[str, float]] = network(prepared(soften(pictures(scenes), generator)), scenes, rng)
        return result

    torch.manual_seed(CONFIG.seed)
    trained = train(name, make(), loss, CONFIG, state)
    if trained is None:  # a worker beside the first
        return
    judge = trained.network
    assert isinstance(judge, ReaderJudge)
    folder = MINIATURE_FOLDER / name
    store(folder, judge.model, judge.tokenizer, processor)
    stored = type(judge.model).from_pretrained(folder, dtype=torch.float32).eval()
    figures = {
        "parameters": sum(p.numel() for p in stored.parameters()),
        "samples": trained.samples,
        "seconds": round(trained.seconds),
        "held_out_scenes": HELD_OUT_SCENES,
        **measure(stored),
    }
    write_text(REPORT, json.dumps({**read_object(REPORT), section: figures}, indent=2) + "\n")
    print(figures)


def store(folder: Path, model: Any, tokenizer: Any, processor: Mapping[str, Any]) -> None:
    """Write a model's folder as transformers reads it, weights in float16, whole or not at all."""
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state = {key: value.half() for key, value in model.state_dict().items() if value.is_floating_point()}
    write_tensors(partial / "model.safetensors", state, {"format": "pt"})
    (partial / "config.json").write_text(model.config.to_json_string(), encoding="utf-8")
    pictures_ = {"resample": 3, "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **processor}
    (partial / "preprocessor_config.json").write_text(json.dumps(pictures_, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
