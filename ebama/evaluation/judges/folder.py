"""Folders of transformers' models, complete or refused: what is missing in one would otherwise be made up.

transformers builds a tokenizer of two tokens where there is none, and prepares pictures as another model wants them
where nothing says how: every text then gets one vector, and every score is a number all the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers.utils import logging

from ebama.weights.errors import listed
from ebama.weights.files.regular import check_folder, is_there, read_json, remedy
from ebama.weights.files.tensors import open_tensors
from ebama.weights.layouts.folder import weight_names
from ebama.weights.tokenizer import as_read, check_words, stand_as_usual

from ...checks import is_number, short

Json = dict[str, Any]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
_ATTENTION = ("eager", "sdpa")  # transformers' own
_WEIGHT_FILE = r"(model|pytorch_model){variant}(-\d+-of-\d+)?\.(safetensors|bin)"
_SETTINGS = ("processor_config.json", "preprocessor_config.json")  # of transformers 5, which reads it first; of 4


@dataclass(frozen=True)
class Kind:
    """What the folder of a kind of model holds: `type` is config.json's, `model` the class there, `vocabulary` the
    files instead of tokenizer.json, `crops` whether pictures are cropped unless the settings say otherwise."""

    type: str
    model: str
    vocabulary: tuple[str, ...]
    word_end: str
    crops: bool


CLIP = Kind("clip", "CLIPModel", ("vocab.json", "merges.txt"), word_end="</w>", crops=True)
BLIP = Kind("blip", "BlipForConditionalGeneration", ("vocab.txt",), word_end="", crops=False)


def check(folder: Path, kind: Kind) -> None:
    """Raise ValueError, in one line, if the folder lacks a part of such a model; its weights are not read."""
    if not folder.is_dir() or not (folder / "config.json").exists():
        inside = sorted(folder.glob("snapshots/*/config.json")) or [folder] * folder.is_file()
        hint = f" Give {inside[-1].parent}." if inside else "" if folder.exists() else remedy(folder)
        raise ValueError(
            f"{folder} holds no config.json: expected the folder of a {kind.type.upper()} model in transformers' "
            f'layout, or "miniature".{hint}'
        )
    check_folder(folder)
    config = read_json(folder / "config.json")
    if (stored := config.get("model_type")) != kind.type:
        raise ValueError(f"{folder} holds a model of type {stored!r}; expected {kind.type!r}.")
    stored = str(config.get("architectures"))
    if (other := re.search(rf"{kind.type}For[a-z]{{1,40}}", stored, re.IGNORECASE)) and kind.model not in stored:
        raise ValueError(f"{folder} holds a {other[0]}; expected a {kind.model}.")
    check_settings(folder / "config.json", config)
    variant(folder)
    if _holds(folder, "adapter_config.json"):
        raise ValueError(f"{folder} holds an adapter beside the model; merge it into the weights, or take it out.")
    missing = [name for name in kind.vocabulary if not _holds(folder, name)]
    if missing and not _holds(folder, "tokenizer.json"):
        raise ValueError(
            f"{folder} holds no tokenizer: it lacks {' and '.join(missing)}; expected tokenizer.json, or "
            f"{' and '.join(kind.vocabulary)}."
        )
    image_settings(folder, kind)


def variant(folder: Path) -> str | None:
    """The variant of the weights, as fp16, where there is one alone; None for weights without a variant's name."""
    if _holds(folder, *_WEIGHTS):
        return None
    variants = [name for name, file in weight_names(folder, "text_encoder").items() if not file.startswith("diffusion")]
    if len(variants) > 1:
        raise ValueError(f"{folder} holds several variants of its weights, {', '.join(sorted(variants))}; keep one.")
    if not variants or not variants[0]:
        raise ValueError(f"{folder} holds no weights: expected {' or '.join(_WEIGHTS[:2])}.")
    return variants[0]


_MOST = {"layers": 1000, "labels": 100_000}
"""Of settings by the end of their name; of the others no network has more than ten million."""
_NOT_BELOW_ZERO = ("dim", "eps", "heads", "width")


def check_settings(file: Path, settings: object, name: str = "") -> None:
    """Raise ValueError for a number with which only building the network would take forever, and for an implementation
    of attention or of quantised layers by others, whose code transformers would fetch and import."""
    if isinstance(settings, Mapping):
        if "transformers_weights" in settings:
            raise ValueError(f"{file}: transformers_weights names other weights than those here; take it out.")
        for name_of_quantised in ("quantization_config", "compression_config"):
            if settings.get(name_of_quantised):
                raise ValueError(f"{file}: {name_of_quantised} is of a quantised model; save it in floating point.")
        for key, value in settings.items():
            check_settings(file, value, name if name.endswith("attn_implementation") else str(key))
    elif isinstance(settings, int | float) and settings < 0 and name.rpartition("_")[2] in _NOT_BELOW_ZERO:
        raise ValueError(f"{file}: {listed([name])} is {settings}; expected a number of at least 0.")
    elif isinstance(settings, int) and settings > (most := _MOST.get(name.rpartition("_")[2], 10_000_000)):
        raise ValueError(f"{file}: {listed([name])} is {settings:,}; expected at most {most:,}.")
    elif isinstance(settings, str) and name.endswith("attn_implementation") and settings not in _ATTENTION:
        raise ValueError(f"{file}: {name} is {short(settings)}; expected {' or '.join(_ATTENTION)}, or leave it out.")


def check_weights(folder: Path, model: Any) -> None:
    """Raise ValueError for files that hold more than weights, or weights as whole numbers, whose scale is elsewhere;
    and if config.json describes more weights, of transformers' class `model`, than the files have bytes: memory would
    be asked for weights that are nowhere."""
    pattern = _WEIGHT_FILE.format(variant=rf"\.{re.escape(name)}" if (name := variant(folder)) else "")
    files = [path for path in sorted(folder.iterdir()) if re.fullmatch(pattern, path.name)]
    stored = sum(path.stat().st_size for path in files)
    with in_one_line(f"{folder} could not be read by transformers"):
        for path in files:
            for key, entry in open_tensors(path, meta=True).entries.items():
                if not entry.dtype.is_floating_point and not key.endswith("position_ids"):
                    raise ValueError(f"{path.name} has {listed([key])} of {entry.dtype}; expected floating point.")
    with in_one_line(f"{folder} could not be read by transformers"), quiet(), torch.device("meta"):
        config = model.config_class.from_pretrained(folder)
        _check_no_nulls(config, read_json(folder / "config.json"))
        check_size("config.json", model(config), stored)


def check_size(file: str, described: nn.Module, stored: int) -> None:
    """Raise ValueError if the network that `file` describes has more weights than its files have bytes."""
    if (weights := sum(weight.numel() for weight in described.parameters())) > stored:
        raise ValueError(f"{file} describes {weights:,} weights; its files hold {stored:,} bytes.")


def _check_no_nulls(config: Any, settings: Json) -> None:
    """Raise ValueError for a null where transformers' class has a number: it would be used as it is."""
    for part in ("text_config", "vision_config"):
        usual = type(getattr(config, part))()
        for name, value in (settings.get(part) or {}).items():
            if value is None and is_number(getattr(usual, name, None)):
                raise ValueError(f"config.json: {part}.{name} is null; expected a number, as {getattr(usual, name)}.")


def _holds(folder: Path, *names: str) -> bool:
    """Whether a file of one of these names is there; CheckpointError for one that leads nowhere."""
    found = [is_there(folder / name) for name in names]
    return any(found)


def image_settings(folder: Path, kind: Kind) -> Json:
    """How pictures are prepared, from the file of either version. Raises ValueError, which names what is missing."""
    for name in _SETTINGS:
        if _holds(folder, name):
            settings = read_json(folder / name)
            if name == _SETTINGS[1] or settings.get("image_processor") is not None:
                return _checked(folder / name, settings.get("image_processor", settings), kind)
    raise ValueError(
        f"{folder} holds no {_SETTINGS[1]} (nor {_SETTINGS[0]} with an image_processor), which says how pictures are "
        "prepared."
    )


def _checked(file: Path, settings: object, kind: Kind) -> Json:
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: image_processor is {settings!r}; expected settings by name.")
    settings = {name: value for name, value in settings.items() if value is not None}  # null: as is usual
    if wrong := [name for name, value in settings.items() if name.startswith("do_") and not isinstance(value, bool)]:
        raise ValueError(f"{file}: {listed(wrong[:1])} is {short(settings[wrong[0]])}; expected true or false.")
    needed: dict[str, Callable[[object], bool]] = {}
    if settings.get("do_resize", True):
        needed |= {"size": _is_size, "resample": lambda value: type(value) is int and 0 <= value <= 5}
    if settings.get("do_center_crop", kind.crops):
        needed |= {"crop_size": _is_size}
    if settings.get("do_normalize", True):
        needed |= {"image_mean": _are_three, "image_std": lambda value: _are_three(value) and min(value) > 0}  # type: ignore[call-overload]
    if settings.get("do_rescale", True) and "rescale_factor" in settings:
        needed |= {"rescale_factor": lambda value: type(value) in (int, float) and 0 < value < math.inf}  # type: ignore[operator]
    if missing := [name for name in needed if name not in settings]:
        raise ValueError(f"{file} lacks {', '.join(missing)}; without it, how pictures are prepared is not known.")
    if wrong := [name for name, fits in needed.items() if not fits(settings[name])]:
        raise ValueError(f"{file}: {wrong[0]} is {short(settings[wrong[0]])}, with which no picture can be prepared.")
    return settings


def _is_size(value: object) -> bool:
    sides = list(value.values()) if isinstance(value, Mapping) else [value]
    return bool(sides) and all(type(side) is int and 0 < side <= 4096 for side in sides)


def _are_three(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(is_number, value))


def read_processor(folder: Path, kind: Kind, processor: Any, side: int) -> Any:
    """What prepares pictures, of transformers' class `processor`, for a model that takes `side` x `side` pixels."""
    settings = image_settings(folder, kind)
    return check_processor(folder, lambda: processor.from_dict(settings), side)


def check_processor(folder: Path, make: Callable[[], Any], side: int) -> Any:
    """What prepares pictures, once it has prepared one for a model that takes `side` x `side` pixels."""
    probe = Image.new("RGB", (side + 9, side + 5))
    with in_one_line(f"{folder}: pictures cannot be prepared as its settings say"), quiet(), np.errstate(all="ignore"):
        read = make()
        pixels = read(images=[probe], return_tensors="pt")["pixel_values"]
    if not pixels.isfinite().all():
        raise ValueError(f"{folder} prepares pictures as values that are NaN or infinite; expected other settings.")
    height, width = pixels.shape[-2:]
    if (height, width) != (side, side):
        raise ValueError(f"{folder} prepares pictures of {height}x{width} pixels; its model takes {side}x{side}.")
    return read


def read_tokenizer(folder: Path, kind: Kind, tokenizer: Any, vocabulary: int) -> Any:
    """The tokenizer, of transformers' class `tokenizer`, of a model whose table has `vocabulary` rows."""
    opened: AbstractContextManager[tuple[Path, Json]] = as_read(folder) if kind is CLIP else nullcontext((folder, {}))
    with opened as (files, options):
        read = call(files, tokenizer.from_pretrained, **options)
    if kind is CLIP and read.pad_token is None:  # which token it is makes no difference: it is masked
        read.pad_token = read.eos_token
    tokens: dict[str, int] = read.get_vocab()
    last = max(tokens.values(), default=-1)
    # A few rows may be spare: BLIP's own tokens, a table rounded up.
    if last >= vocabulary or len(tokens) < vocabulary - max(2, vocabulary // 100):
        raise ValueError(
            f"{folder} holds a tokenizer of {len(tokens)} tokens, the last with id {last}; its model has a vocabulary "
            f"of {vocabulary}."
        )
    with quiet():
        check_words(folder, read, kind.word_end)
    stand_as_usual(read)
    return read


def call(folder: Path, opener: Callable[..., Any], **options: Any) -> Any:
    """Read a part of a folder with transformers; any failure as one line."""
    with in_one_line(f"{folder} could not be read by transformers"), quiet():
        return opener(str(folder), local_files_only=True, **options)


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Within this context any error is a ValueError of one line that says `what` could not be done, and why."""
    try:
        yield
    except Exception as error:  # whatever the libraries below raise: OSError, KeyError, SafetensorError, ...
        raise ValueError(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if text.startswith("Weights only load failed"):
        return "its pickle holds more than weights; save them alone, as model.safetensors"
    return f"it lacks {text}" if isinstance(error, KeyError) else text


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and reports of transformers while it reads."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
