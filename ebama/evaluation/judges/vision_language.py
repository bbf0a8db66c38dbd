"""CLIP models and BLIP captioners from local folders, in transformers' classes: pictures, texts -> vectors, captions.

Everything runs in float32. Nothing is ever downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipForConditionalGeneration, CLIPModel

from ebama.weights.errors import listed
from ebama.weights.files.mapped import is_finite
from ebama.weights.files.regular import is_there, read_json
from ebama.weights.fingerprint import fingerprint
from ebama.weights.loading import MINIATURE_FOLDER
from ebama.weights.tokenizer import clip_tokenizer_class

from ...output.png import as_rgb
from . import folder as folders
from . import open_clip
from .transformers_names import DTYPE, BertTokenizer, BlipImageProcessorPil, CLIPImageProcessorPil

EMBEDDED = "miniature"
"""The name of the miniature's own models, in place of a folder."""
PREFIX = "a picture of "
"""The beginning of all BLIP captions, which is taken off."""
_OF_A_LAYER = re.compile(r"\.layers?\.\d+\.")
DECODING: dict[str, Any] = {
    "num_beams": 3,
    "max_length": 30,
    "min_length": 10,
    "repetition_penalty": 1.0,
    "do_sample": False,
    "length_penalty": 1.0,
    "early_stopping": False,
    "num_return_sequences": 1,
}
"""Beam search as in LAVIS' `blip_caption`; the lengths count tokens, those of the prefix among them."""


class _Model:
    """A model in float32 with what prepares its texts and pictures. `name` says which, in a report's words."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any, name: str) -> None:
        self.name = name
        self._model = model.eval().float()
        for key, weight in self._model.state_dict().items():
            if weight.is_floating_point() and not is_finite(weight.cpu().contiguous()):
                raise ValueError(f"{name} has weights that are NaN or infinite, e.g. {key}; download it again.")
        self._tokenizer = tokenizer
        self._processor = processor

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures as the folder's settings say, on the model's device."""
        pixels = self._processor(images=[as_rgb(image) for image in images], return_tensors="pt")["pixel_values"]
        prepared: Tensor = pixels.to(self._model.device)
        return prepared


class Clip(_Model):
    """A CLIP model: unit vectors of pictures and texts. `name` says which, in a report's words."""

    def __init__(self, model: CLIPModel, tokenizer: Any, processor: Any, name: str) -> None:
        super().__init__(model, tokenizer, processor, name)
        self._positions = model.text_model.embeddings.position_embedding.num_embeddings

    @classmethod
    def open(cls, folder: str | Path, device: str = "cpu") -> Clip:
        """Open a folder of transformers or open_clip, or "miniature". Raises ValueError, in one line, if it holds no
        CLIP model."""
        path = clip_folder(folder)
        model: Any
        if _is_open_clip(path):
            model, tokenizer, processor = open_clip.read(path)
        else:
            model = _read(path, CLIPModel)
            described = model.config
            processor = folders.read_processor(
                path, folders.CLIP, CLIPImageProcessorPil, described.vision_config.image_size
            )
            tokenizer = folders.read_tokenizer(
                path, folders.CLIP, clip_tokenizer_class(), described.text_config.vocab_size
            )
            _check_end(path, tokenizer, described.text_config)
        name = "the miniature's image-text judge" if str(folder) == EMBEDDED else _name("CLIP", path, model)
        return cls(model.to(device), tokenizer, processor, name)

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors [n, D] of pictures, prepared as the folder's settings say."""
        features = self._model.get_image_features(pixel_values=self._pixels(images))
        return _unit_vectors(features)

    @torch.no_grad()
    def texts(self, texts: Sequence[str], *, cut: bool = False) -> Tensor | None:
        """Unit vectors [n, D] of texts; None if one has more tokens than the model has positions and is not to be cut.

        OpenAI's tokenizer refuses long texts too, which ends the published programs.
        """
        if not cut and not self.fit(texts):
            return None
        encoded = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._positions, return_tensors="pt"
        ).to(self._model.device)
        features = self._model.get_text_features(**encoded)
        return _unit_vectors(features)

    def fit(self, texts: Sequence[str]) -> bool:
        """Whether the model has a position for each token of each text."""
        return all(len(ids) <= self._positions for ids in self._tokenizer(list(texts))["input_ids"])

    def ensemble(self, texts: Sequence[str], *, cut: bool = False) -> Tensor | None:
        """The unit vector [D] of several texts: normalised mean of their unit vectors; None as in `texts`."""
        vectors = self.texts(texts, cut=cut)
        return None if vectors is None else F.normalize(vectors.mean(dim=0), dim=-1)


def _unit_vectors(features: Any) -> Tensor:
    """CLIP's vectors, each of length 1. transformers 4 gives the tensor itself."""
    return F.normalize((features if isinstance(features, Tensor) else features.pooler_output).float(), dim=-1)


class Captioner(_Model):
    """A BLIP captioning model, used as LAVIS does. `name` says which, in a report's words."""

    @classmethod
    def open(cls, folder: str | Path, device: str = "cpu") -> Captioner:
        """Open a transformers folder, or "miniature". Raises ValueError, in one line, if it holds no BLIP captioner."""
        path = captioner_folder(folder)
        model = _read(path, BlipForConditionalGeneration)
        described = model.config
        processor = folders.read_processor(
            path, folders.BLIP, BlipImageProcessorPil, described.vision_config.image_size
        )
        tokenizer = folders.read_tokenizer(path, folders.BLIP, BertTokenizer, described.text_config.vocab_size)
        _check_separator(path, tokenizer, described.text_config)
        name = "the miniature's captioner" if str(folder) == EMBEDDED else _name("BLIP", path, model)
        return cls(model.to(device), tokenizer, processor, name)

    @torch.no_grad()
    def captions(self, images: Sequence[Image.Image]) -> list[str]:
        """A caption for each picture, without the prefix that all begin with."""
        prefix = torch.tensor(self._tokenizer([PREFIX] * len(images))["input_ids"], device=self._model.device)
        # The model puts its start token first and leaves the separator at the end out.
        tokens = self._model.generate(
            pixel_values=self._pixels(images), input_ids=prefix, return_dict_in_generate=False, **DECODING
        )
        texts = self._tokenizer.batch_decode(tokens[:, 1:], skip_special_tokens=True)
        return [text.removeprefix(PREFIX) for text in texts]


def _name(kind: str, folder: Path, model: nn.Module) -> str:
    """Folder and weights: scores of two models are never taken for those of one."""
    return f"{kind} model {folder.resolve().name} ({fingerprint(model)[:8]})"


def clip_folder(folder: str | Path) -> Path:
    """The folder of a CLIP model, or "miniature"; raises ValueError, in one line, if it plainly holds none."""
    return Path(folder) if _is_open_clip(Path(folder)) else _folder(folder, folders.CLIP, "clip")


def _is_open_clip(folder: Path) -> bool:
    """Whether only open_clip's layout is there; many folders have both, and timm's a config.json of its own."""
    config = folder / "config.json"
    return is_there(folder / open_clip.CONFIG) and not (is_there(config) and "model_type" in read_json(config))


def captioner_folder(folder: str | Path) -> Path:
    """The folder of a BLIP captioner, or "miniature"; raises ValueError, in one line, if it plainly holds none."""
    return _folder(folder, folders.BLIP, "captioner")


def _folder(folder: str | Path, kind: folders.Kind, embedded: str) -> Path:
    """The folder itself, once it is sure that it holds a model of the kind."""
    path = MINIATURE_FOLDER / embedded if str(folder) == EMBEDDED else Path(folder)
    folders.check(path, kind)
    return path


def _read(path: Path, kind: Any) -> Any:
    """The model of transformers' class `kind`, whole: tensors that are missing are an error of one line."""
    folders.check_weights(path, kind)
    options: dict[str, Any] = {DTYPE: torch.float32, "output_loading_info": True}
    model, report = folders.call(path, kind.from_pretrained, variant=folders.variant(path), **options)
    if missing := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
        message = f"{path} lacks {len(missing)} of the model's tensors, e.g. {missing[0]}"
        if wrapped := [key for key in report["unexpected_keys"] if key.endswith(f".{missing[0]}")]:
            message += f"; it has {listed(wrapped[:1])}: save the model without the module around it"
        raise ValueError(f"{message}.")
    if more := sorted(key for key in report["unexpected_keys"] if _OF_A_LAYER.search(key)):
        raise ValueError(f"{path} holds more layers than its config.json describes, e.g. {listed(more[:1])}.")
    for part in (model.config, model.config.text_config, model.config.vision_config):
        part.return_dict, part.output_hidden_states, part.output_attentions = True, False, False
    return model


def _check_end(path: Path, tokenizer: Any, config: Any) -> None:
    """Raise ValueError unless texts end in the token where CLIP reads their vector; 2 stands for the largest id."""
    last = tokenizer("a")["input_ids"][-1]
    end = max(tokenizer.get_vocab().values()) if config.eos_token_id == 2 else config.eos_token_id
    if last != end:
        raise ValueError(f"{path} holds a tokenizer whose texts end in id {last}; its model reads them at id {end}.")


def _check_separator(path: Path, tokenizer: Any, config: Any) -> None:
    """Raise ValueError unless captions end in the tokenizer's separator, and are filled up with its padding."""
    if config.bos_token_id in (config.sep_token_id, config.pad_token_id):
        raise ValueError(
            f"{path}: text_config.bos_token_id is {config.bos_token_id}, which ends or fills captions; expected the id "
            "that begins them."
        )
    for name in ("sep_token_id", "pad_token_id"):
        if (stored := getattr(config, name)) != (known := getattr(tokenizer, name)):
            raise ValueError(
                f"{path} holds a tokenizer whose {name} is {known}; its model's text_config says {stored}."
            )
