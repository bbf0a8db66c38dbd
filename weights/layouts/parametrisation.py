"""What a single file says of how its U-Net was trained: what it predicts, and along which noise schedule.

Nothing in the shapes of the weights tells. A U-Net that predicts something other than the noise, or saw other amounts
of it, runs without an error and draws noise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ebama.samplers import NoiseSchedule

from ..errors import CheckpointError, listed
from ..files.regular import read_text
from ..files.tensors import Entry, TensorFile
from .keys import read_key

_SETTINGS = re.compile(r"(?:^|[._ ])(?:prediction_type|predict_key|paramete?ri[sz]ation)$", re.IGNORECASE)
_NOISE = {"", "eps", "epsilon", "noise", "none", "null"}
# Names that stand for a choice by being there, as a weight or as a setting that is not switched off.
_MARKS = re.compile(
    r"(?:^|[._ ])(?:v_?pred(?:iction)?|v_?paramete?ri[sz]ation|ztsnr|(?:rescale_betas_)?zero_(?:terminal_)?snr|"
    r"edm_mean|edm_vpred\.sigma_max)$",
    re.IGNORECASE,
)
_OFF = {"", "false", "0", "no", "off", "none", "null"}
_DEPTH = 8
_YAML_SETTING = re.compile(r"^\s*(parameterization|prediction_type)\s*:\s*[\"']?([\w-]+)", re.MULTILINE)
_TABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "alphas_cumprod": lambda values: values,
    "betas": lambda values: torch.cumprod(1 - values.double(), 0).to(values.dtype),
}
_MOST_STEPS = 100_000


def stated_prediction(file: TensorFile) -> str | None:
    """Where the file, or the .yaml of its name beside it, says that the U-Net does not predict the noise; None where
    nothing does."""
    if mark := next((key for key in file.entries if _MARKS.search(read_key(key).name)), None):
        return f"its key {listed([mark])} says so"
    settings = [*_leaves(file.metadata), *_yaml_settings(file.path.with_suffix(".yaml"))]
    for name, value in settings:
        harmless = _OFF if _MARKS.search(name) else _NOISE if _SETTINGS.search(name) else {value.lower()}
        if value.lower() not in harmless:
            return f"{listed([name[-80:]])} is {value[:40]!r}"
    return None


def _leaves(value: object, name: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, str]]:
    """Every setting of nested dictionaries, also of those written as JSON: its dotted name and its value as text."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if isinstance(value, Mapping):
        for key, inner in value.items() if depth else ():
            if isinstance(key, str):
                yield from _leaves(inner, f"{name}.{key}".lstrip("."), depth - 1)
    elif isinstance(value, str | bool | int | float) or value is None:
        yield name, str(value)


def _yaml_settings(path: Path) -> list[tuple[str, str]]:
    """The settings of the configuration that is published beside v-prediction models of Stable Diffusion v1."""
    if not path.is_file():
        return []
    return [(f"{path.name}: {name}", value) for name, value in _YAML_SETTING.findall(read_text(path))]


def stored_schedule(file: TensorFile) -> NoiseSchedule | None:
    """The noise schedule that the file stores, as CompVis's trainer does; None where it stores none, or where the
    values cannot be read (a file opened for its shapes alone).

    Raises CheckpointError for one that no sampler can follow.
    """
    stored = {name: entry for key, entry in file.entries.items() if (name := read_key(key).name) in _TABLES}
    for name in _TABLES:
        if name not in stored:
            continue
        values = _values(file.path, stored[name])
        if values.is_meta or not values.any():  # zeros: a table that nobody filled in
            return None
        try:
            return NoiseSchedule.of(_TABLES[name](values))
        except ValueError as error:
            raise CheckpointError(f"{file.path} stores a noise schedule that cannot be used: {error}") from error
    return None


def _values(path: Path, entry: Entry) -> Tensor:
    if len(entry.shape) != 1 or not 0 < entry.shape[0] <= _MOST_STEPS or not entry.dtype.is_floating_point:
        raise CheckpointError(
            f"{path}: {entry.key} has shape {list(entry.shape)} and {entry.dtype}; expected the noise schedule's value "
            f"for each of 1 to {_MOST_STEPS:,} timesteps."
        )
    return entry.read().clone()
