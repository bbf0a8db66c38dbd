"""CLIP models in open_clip's layout, OpenAI's own weights among them, as transformers' classes."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from ebama.weights.files.regular import check_folder, read_json
from ebama.weights.files.tensors import Entry, open_tensors
from ebama.weights.layouts.openclip import split
from ebama.weights.tokenizer import VOCABULARY, clip_tokenizer

from ...checks import short
from .folder import check_processor, check_settings, check_size, in_one_line
from .transformers_names import CLIPImageProcessorPil

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

_KNOWN = {
    "model_cfg": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"},
    "vision_cfg": {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# OpenAI's statistics of pixels, which a configuration need not repeat.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_RENAMES = {
    r"visual\.(class_embedding)": r"vision_model.embeddings.\1",
    r"visual\.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    r"visual\.conv1\.": "vision_model.embeddings.patch_embedding.",
    r"visual\.ln_pre\.": "vision_model.pre_layrnorm.",
    r"visual\.ln_post\.": "vision_model.post_layernorm.",
    r"visual\.proj": "visual_projection.weight",
    r"token_embedding\.": "text_model.embeddings.token_embedding.",
    r"positional_embedding": "text_model.embeddings.position_embedding.weight",
    r"ln_final\.": "text_model.final_layer_norm.",
    r"text_projection": "text_projection.weight",
    r"visual\.transformer\.resblocks\.": "vision_model.encoder.layers.",
    r"transformer\.resblocks\.": "text_model.encoder.layers.",
}
_RENAMES_IN_LAYERS = {
    ".attn.": ".self_attn.",
    ".ln_": ".layer_norm",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
_IGNORED = {"attn_mask", "input_resolution", "context_length", "vocab_size"}


def read(folder: Path) -> tuple[CLIPModel, CLIPTokenizer, CLIPImageProcessorPil]:
    """The model in a folder, its tokenizer (OpenAI's) and what prepares pictures.

    Raises ValueError, in one line, for what is damaged, missing, or no plain CLIP of two transformers.
    """
    path = folder / CONFIG
    check_folder(folder)
    settings = read_json(path)
    check_settings(path, settings)
    with in_one_line(f"{path} describes no CLIP model"):
        described, prepared = settings["model_cfg"], settings.get("preprocess_cfg", {})
        side = described["vision_cfg"]["image_size"]
        config = _config(described)
        processor = check_processor(folder, lambda: _processor(prepared, side), side)
        with torch.device("meta"):
            network = CLIPModel(config)
    file = next((folder / name for name in WEIGHTS if (folder / name).exists() or (folder / name).is_symlink()), None)
    if file is None:
        raise ValueError(f"{folder} holds no weights: expected {' or '.join(WEIGHTS)} beside {CONFIG}.")
    entries = dict(_renamed(open_tensors(file).entries))
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    for key, shape in expected.items():
        if key not in entries or entries[key].shape != shape:
            stored = list(entries[key].shape) if key in entries else "missing"
            raise ValueError(f"{file} does not fit {CONFIG}: {key} is {stored}, expected {list(shape)}.")
        if not entries[key].dtype.is_floating_point:
            raise ValueError(f"{file}: {key} is in {entries[key].dtype}; expected floating point.")
    if more := entries.keys() - expected.keys():
        raise ValueError(f"{file} does not fit {CONFIG}: there is no place for {sorted(more)[0]}.")
    check_size(CONFIG, network, file.stat().st_size)
    model = CLIPModel(config)
    model.load_state_dict({key: entry.read() for key, entry in entries.items()})
    return model, copy.deepcopy(clip_tokenizer()), processor  # a judge pads, which changes it


def _config(described: Mapping[str, Any]) -> CLIPConfig:
    vision, text = described["vision_cfg"], described["text_cfg"]
    for name, part in (("model_cfg", described), ("vision_cfg", vision), ("text_cfg", text)):
        if unknown := part.keys() - _KNOWN[name]:
            raise ValueError(f"it has {name}.{sorted(unknown)[0]}, which transformers' CLIP cannot do.")
    if text["vocab_size"] != VOCABULARY:
        raise ValueError(f"it has a vocabulary of {text['vocab_size']}; expected OpenAI's {VOCABULARY}.")
    activation = "quick_gelu" if described.get("quick_gelu") else "gelu"

    def tower(part: Mapping[str, Any], heads: int) -> dict[str, Any]:
        return {
            "hidden_size": part["width"],
            "intermediate_size": int(part["width"] * part.get("mlp_ratio", 4.0)),
            "num_hidden_layers": part["layers"],
            "num_attention_heads": heads,
            "hidden_act": activation,
        }

    return CLIPConfig(
        projection_dim=described["embed_dim"],
        vision_config={
            **tower(vision, vision["width"] // vision.get("head_width", 64)),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        text_config={
            **tower(text, text["heads"]),
            "max_position_embeddings": text["context_length"],
            "vocab_size": VOCABULARY,
            "bos_token_id": VOCABULARY - 2,
            "eos_token_id": VOCABULARY - 1,
        },
    )


def _processor(prepared: Mapping[str, Any], side: int) -> CLIPImageProcessorPil:
    for name, known in {"resize_mode": ("shortest", "squash"), "size": (side, [side, side])}.items():
        if (value := prepared.get(name)) is not None and value not in known:
            raise ValueError(f"preprocess_cfg.{name} is {short(value)}; expected {known[0]}.")
    squash = prepared.get("resize_mode") == "squash"
    return CLIPImageProcessorPil(
        size={"height": side, "width": side} if squash else {"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(prepared.get("mean", _MEAN)),
        image_std=list(prepared.get("std", _STD)),
        resample=_FILTERS[prepared.get("interpolation", "bicubic")],
    )


def _renamed(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    """The tensors under transformers' names; those of unknown names keep theirs."""
    for key, entry in entries.items():
        if (plain := key.removeprefix("module.")) in _IGNORED:  # of several GPUs
            continue
        for name, part in split(plain, entry):
            renamed = next((re.sub(f"^{old}", new, name) for old, new in _RENAMES.items() if re.match(old, name)), name)
            if ".encoder.layers." in renamed:
                for old, new in _RENAMES_IN_LAYERS.items():
                    renamed = renamed.replace(old, new)
            yield renamed, part
