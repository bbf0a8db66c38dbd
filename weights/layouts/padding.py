"""The token that fills short texts, which the text encoders of Stable Diffusion do not agree on.

OpenAI's CLIP is given the token that ends a text. OpenCLIP is given token 0, which is also "!" inside of a word;
folders therefore name "!" as their tokenizer's padding, and transformers then takes each "!" that is typed for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ebama.models import TextConfig

from ..files.regular import is_there, read_json

OPENCLIP_PADDING = 0


def is_openclip(text: TextConfig) -> bool:
    """Whether a text encoder is OpenCLIP's, which has the exact gelu where OpenAI's has its approximation."""
    return text.activation == "gelu"


def padding_of(text: TextConfig) -> int | None:
    """The padding of such a text encoder, where no file says it; None for the token that ends a text."""
    return OPENCLIP_PADDING if is_openclip(text) else None


def padding(folder: Path, default: int | None) -> int | None:
    """The id of the token with which a `tokenizer/` folder fills short texts; None for the one that ends a text, or one
    of its own beside the vocabulary; `default` where the folder does not say."""
    token, ends = _padding(folder)
    return default if token is None else None if ends else _id(folder, token)


def borrowed_padding(folder: Path) -> str | None:
    """The token with which a `tokenizer/` folder fills short texts, if it is one that texts are made of."""
    token, ends = _padding(folder)
    return None if token is None or ends or _id(folder, token) is None else token


def _padding(folder: Path) -> tuple[str | None, bool]:
    """The token that fills short texts, and whether it ends a text; special_tokens_map.json wins over
    tokenizer_config.json, as in transformers."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        values = read_json(folder / name) if is_there(folder / name) else {}
        if (token := _content(values.get("pad_token"))) is not None:
            return token, token == (_content(values.get("eos_token")) or "<|endoftext|>")
    return None, False


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _id(folder: Path, token: str) -> int | None:
    vocabulary: Any = {}
    if is_there(folder / "vocab.json"):
        vocabulary = read_json(folder / "vocab.json")
    elif is_there(folder / "tokenizer.json"):
        model = read_json(folder / "tokenizer.json").get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else {}
    number = vocabulary.get(token) if isinstance(vocabulary, dict) else None
    return number if type(number) is int else None


def added_tokens(folder: Path) -> dict[str, int]:
    """The ids of the tokens that a `tokenizer/` folder adds to its vocabulary, by the files that have them."""

    def read(name: str, key: str | None = None) -> Any:
        values = read_json(folder / name) if is_there(folder / name) else {}
        return values if key is None else values.get(key)

    by_id, listed = read("tokenizer_config.json", "added_tokens_decoder"), read("tokenizer.json", "added_tokens")
    found: list[tuple[Any, Any]] = [*read("added_tokens.json").items()]
    found += [(_content(token), number) for number, token in by_id.items()] if isinstance(by_id, dict) else []
    found += [(_content(token), token["id"]) for token in listed if _has_id(token)] if isinstance(listed, list) else []
    return {token: int(number) for token, number in found if isinstance(token, str) and str(number).isdecimal()}


def _has_id(token: Any) -> bool:
    return isinstance(token, dict) and "id" in token


def without_special_padding(folder: Path, copy: Path, pad: str) -> None:
    """Copy a tokenizer's files to `copy`, in which `pad` is a token like any other."""
    for name in ("vocab.json", "merges.txt"):
        if is_there(folder / name):
            (copy / name).write_bytes((folder / name).read_bytes())
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json"):
        if not is_there(folder / name):
            continue
        values = read_json(folder / name)
        if isinstance(added := values.get("added_tokens"), list):
            values["added_tokens"] = [token for token in added if _content(token) != pad]
        if isinstance(decoder := values.get("added_tokens_decoder"), dict):
            values["added_tokens_decoder"] = {i: token for i, token in decoder.items() if _content(token) != pad}
        values.pop(pad if name == "added_tokens.json" else "pad_token", None)
        (copy / name).write_text(json.dumps(values), encoding="utf-8")
