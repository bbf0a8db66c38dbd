"""What a checkpoint's metadata, or the configuration beside it, says: settings by their dotted names."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

import yaml

from ..errors import CheckpointError
from .regular import is_there, read_text, stands_in_place

Setting: TypeAlias = tuple[str, str, bool]
"""Dotted name, value as text, and whether it is quoted: written as JSON within another."""

_OF_A_MODEL = re.compile(r"model|param|pred|snr|scal|beta|linear")  # names of its first settings
_DEPTH = 8
_LONGEST = 1 << 17  # characters of a configuration; published ones have some thousands
_MOST_SETTINGS = 10_000  # counted as often as a configuration repeats them


def nested_settings(value: object, name: str = "", depth: int = _DEPTH, quoted: bool = False) -> Iterator[Setting]:
    """Every setting of nested dictionaries, also of those written as JSON: its dotted name, its value as text (a
    dictionary's is empty), and whether it was written so."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value, quoted = json.loads(value), True
        except (ValueError, RecursionError):
            return
    if isinstance(value, Mapping):
        yield name, "", quoted
        for key, inner in value.items() if depth else ():
            if isinstance(key, str):
                yield from nested_settings(inner, f"{name}.{key}".lstrip("."), depth - 1, quoted)
    elif isinstance(value, str | bool | int | float) or value is None:
        yield name, str(value), quoted


def yaml_settings(path: Path) -> list[Setting]:
    """The settings of the configuration that is published beside v-prediction models. CheckpointError for what is no
    YAML, or more than a configuration."""
    if not is_there(path):
        return []
    text = read_text(path)
    if stands_in_place(text):
        raise CheckpointError(
            f"{path} is a web page, its error or a Git LFS pointer in place of a configuration; fetch it again, or "
            "remove it."
        )
    try:
        # This loader takes every value for a text and asks no tag what it means.
        documents = list(yaml.load_all(text, yaml.BaseLoader)) if len(text) <= _LONGEST else []
    except (yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is no readable YAML: {why}; mend it, or take it from the checkpoint.") from error
    leaves = chain.from_iterable(nested_settings(document) for document in documents)
    settings = [(f"{path.name}: {name}", value, False) for name, value, _ in islice(leaves, _MOST_SETTINGS)]
    if len(text) > _LONGEST or len(settings) == _MOST_SETTINGS:
        raise CheckpointError(f"{path} is too large for the configuration of a checkpoint; take it from there.")
    if not any(isinstance(document, Mapping) and any(map(_OF_A_MODEL.search, document)) for document in documents):
        warnings.warn(
            f"{path} says nothing of a model, which is then taken for the usual one of its kind; take the file from "
            "where the checkpoint is from, or remove it.",
            stacklevel=2,
        )
    return settings
