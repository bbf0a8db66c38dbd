"""What a single file says of how its U-Net was trained: what it predicts, along which noise schedule, at which scale.

Nothing in the shapes of the weights tells. A U-Net that predicts something other than the noise, or saw other amounts
of it, runs without an error and draws noise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf, isclose, nan, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebama.models import StableDiffusionConfig, TextConfig
from ebama.samplers import NoiseSchedule
from ebama.samplers.values import rounded_to

from ..errors import CheckpointError, listed
from ..files.settings import Setting, nested_settings
from ..files.tensors import Entry, TensorFile
from .keys import read_key
from .padding import is_openclip

_SETTINGS = re.compile(
    r"(?:^|[._ ])(?:prediction_type|predict_key|paramete?ri[sz]ation|scaling_config\.target)$", re.IGNORECASE
)
# Values of those settings, as trainers and people spell them: "v", "vpred", "V-Prediction", "eps_prediction"; and the
# classes that sgm (Stability AI's generative-models) names.
_PREDICTION = r"(?:[\W_]*(?:pred(?:iction)?|paramete?ri[sz]ation))?"
_VALUES = {
    "epsilon": re.compile(rf"(?:eps(?:ilon)?|noise){_PREDICTION}|(?:[\w.]+\.)?epsscaling"),
    "v": re.compile(rf"v(?:elocity)?{_PREDICTION}|(?:[\w.]+\.)?vscaling"),
}
_INTERPOLATION = re.compile(r"\$\{\.*([\w.\[\]-]+)\}")  # omegaconf's way to name another setting
_CHAIN = 4  # of settings that name each other
_NOTHING = {"", "none", "null", "~", "???"}
# Names that stand for a choice by being there, as a weight or as a setting that is not switched off.
_V_MARKS = re.compile(r"(?:^|[._ ])(?:v_?pred(?:iction)?|v_?paramete?ri[sz]ation)$", re.IGNORECASE)
_OTHER_MARKS = re.compile(
    r"(?:^|[._ ])(?:ztsnr|(?:rescale_betas_)?zero_(?:terminal_)?snr|edm_mean|edm_vpred\.sigma_max)$", re.IGNORECASE
)
_OFF = {*_NOTHING, "false", "0", "no", "off"}
_TABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "alphas_cumprod": lambda values: values,
    "betas": lambda values: torch.cumprod(1 - values.double(), 0).to(values.dtype),
    "denoiser.sigmas": lambda values: (1 / (1 + values.double().sort().values.square())).to(values.dtype),
}
_MOST_STEPS = 100_000
_KINDS = {"linear": "scaled_linear", "sqrt_linear": "linear"}  # CompVis's names of kinds that have another one here
_ENDS = {"start": 1e-4, "end": 2e-2}  # of betas: CompVis's own, where its configuration gives but one
_SGM, _SGM_KIND = "denoiser_config.params.discretization_config", "LegacyDDPMDiscretization"
_SGM_ENDS = {"start": 0.00085, "end": 0.012}
_TEXT_LAYER = "cond_stage_config.params.layer"
_SKIPPED = re.compile(r"(?:^|[. ])(?:modelspec\.encoder_layer|ss_clip_skip)$")
_ONE_TRAINERS = ("ot_config.text_encoder_layer_skip", "ot_config.text_encoder_2_layer_skip")  # layers left out
_PRECISION = 0.004  # of bfloat16


@dataclass(frozen=True)
class Statement:
    """What a file says that its U-Net predicts, "epsilon" or "v", None for anything else; and where it says so.

    `quoted` is what stands in a JSON text among the settings: it may be of another model, as in the workflow of a
    program that saved the file, or of one that was merged into it.
    """

    prediction: str | None
    where: str
    quoted: bool = False

    def __str__(self) -> str:
        return self.where


def stated_prediction(file: TensorFile) -> Statement | None:
    """What the file, or the .yaml of its name beside it, says that the U-Net predicts; None where nothing does.

    Of several statements the one counts that is furthest from the noise; quoted ones only where there is no other.
    """
    statements = list(_statements(file))
    statements = [statement for statement in statements if not statement.quoted] or statements
    return min(statements, key=lambda statement: (None, "v", "epsilon").index(statement.prediction), default=None)


def _statements(file: TensorFile) -> Iterator[Statement]:
    for key in file.entries:
        name = read_key(key).name
        if _V_MARKS.search(name) or _OTHER_MARKS.search(name):
            yield Statement("v" if _V_MARKS.search(name) else None, f"its key {listed([key])} says so")
    settings = [*nested_settings(file.metadata), *file.configuration]
    for name, value, quoted in settings:
        value = _resolved(value, name, settings)
        if value.startswith("${"):
            continue  # of what nobody knows here
        said, where = value.strip().lower(), f"{listed([name[-80:]])} is {value[:80]!r}"
        if _OTHER_MARKS.search(name) or _V_MARKS.search(name):
            if said not in _OFF:
                yield Statement("v" if _V_MARKS.search(name) else None, where, quoted)
        elif _SETTINGS.search(name) and said not in _NOTHING:
            yield Statement(
                next((kind for kind, meant in _VALUES.items() if meant.fullmatch(said)), None), where, quoted
            )


def _resolved(value: str, name: str, settings: list[Setting]) -> str:
    """The value of a setting, or of the one that it names: the outermost whose name ends so."""
    for _ in range(_CHAIN):
        if not (named := _INTERPOLATION.fullmatch(value)):
            break
        path = named[1].replace("[", ".").replace("]", "")
        found = [(len(at), other) for at, other, _ in settings if at != name and f".{at}".endswith(f".{path}")]
        value = min(found, default=(0, ""))[1] or "${}"
    return value


# Of the U-Nets of Stable Diffusion 2, whose shapes are the same, those that predict v have larger biases here.
_TELLING = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
_WIDEST = 10_000  # that it is read: a pickle may claim any shape
_LARGER = 0.09


def guessed_prediction(entries: dict[str, Entry]) -> tuple[str, str] | None:
    """What a full-size U-Net of Stable Diffusion 2 predicts, by its weights (under our names), and by which; None if
    the weight is not there or cannot be read. The entry can be read again."""
    entry = entries.get(_TELLING)
    if entry is None or not entry.dtype.is_floating_point or not 0 < prod(entry.shape) <= _WIDEST:
        return None
    values = entry.read()
    entries[_TELLING] = replace(entry, read=lambda: values)
    if values.is_meta:
        return None
    spread = float(values.float().std(correction=0))
    comparison = "above" if spread > _LARGER else "not above"
    how = f"the deviation of {entry.key} is {spread:.3f}, {comparison} {_LARGER}"
    return ("v" if spread > _LARGER else "epsilon"), how


def stored_schedule(file: TensorFile) -> NoiseSchedule | None:
    """The noise schedule that the file stores, as the trainers of CompVis and Stability AI do, or that the .yaml beside
    it gives; None where neither has one, or where the values cannot be read (a file opened for its shapes alone).

    Raises CheckpointError for one that no sampler can follow.
    """
    stored = {name: entry for key, entry in file.entries.items() if (name := read_key(key).name) in _TABLES}
    for name in _TABLES:
        if name not in stored:
            continue
        values = _values(file.path, stored[name])
        if values.is_meta:
            return None
        if not values.any():  # a table that nobody filled in
            continue
        values = values.to(rounded_to(values.double()))
        if name != "alphas_cumprod" and values.itemsize == 1:
            if name == "denoiser.sigmas" and _are_usual_sigmas(values):
                return NoiseSchedule(len(values))
            raise CheckpointError(
                f"{file.path}: {name} of 8 bits are too coarse for a noise schedule; expected 16 bits, or "
                "alphas_cumprod."
            )
        try:
            return NoiseSchedule.of(_TABLES[name](values))
        except ValueError as error:
            raise CheckpointError(f"{file.path} stores a noise schedule that cannot be used: {error}") from error
    return _configured_schedule(file)


def _are_usual_sigmas(sigmas: Tensor) -> bool:
    """Whether they are those of Stable Diffusion, up to their own rounding: in eight bits abar is another."""
    abar, precision = NoiseSchedule(len(sigmas)).alphas_cumprod, torch.finfo(sigmas.dtype)
    usual, smallest = ((1 - abar) / abar).sqrt(), precision.tiny * precision.eps
    return torch.allclose(sigmas.double().sort().values, usual, rtol=precision.eps, atol=smallest)


def _configured_schedule(file: TensorFile) -> NoiseSchedule | None:
    """The schedule that a configuration of CompVis's trainer names, whose "linear" is `scaled_linear` here, or one of
    sgm's, of which only the kind that is the same can be followed."""
    for name, value in _configured(file, f"{_SGM}.target").items():
        if not value.endswith(_SGM_KIND):
            raise CheckpointError(
                f"{file.path.with_suffix('.yaml')}: {name} is {value[:80]!r}; expected {_SGM_KIND}; no other can be "
                "followed."
            )
    compvis = _configured(file, "timesteps", "beta_schedule", "linear_start", "linear_end")
    sgm = _configured(file, *(f"{_SGM}.params.{name}" for name in ("num_timesteps", "linear_start", "linear_end")))
    given = compvis or {name.rpartition(".")[2].removeprefix("num_"): value for name, value in sgm.items()}
    if not given:
        return None
    steps, kind = given.pop("timesteps", "1000"), given.get("beta_schedule", "linear")
    has_ends = bool(given) and kind != "cosine"
    usual = _ENDS if compvis else _SGM_ENDS
    try:
        ends: dict[str, Any] = {
            f"beta_{end}": float(given.get(f"linear_{end}", value)) for end, value in usual.items() if has_ends
        }
        if not 0 < int(steps) <= _MOST_STEPS:
            raise ValueError(f"it has {steps} timesteps; expected 1 to {_MOST_STEPS:,}.")
        return NoiseSchedule(int(steps), kind=_KINDS.get(kind, kind), **ends)
    except ValueError as error:
        where = file.path.with_suffix(".yaml")
        raise CheckpointError(f"{where} gives a noise schedule that cannot be used: {error}") from error


def _configured(file: TensorFile, *names: str) -> dict[str, str]:
    """The values that a configuration of CompVis's trainer gives for some of its model's parameters."""
    given = {name.partition(": model.params.")[2]: value.strip() for name, value, _ in file.configuration}
    return {name: given[name] for name in names if given.get(name, "").lower() not in _NOTHING}


def stored_scale(file: TensorFile, usual: float) -> float:
    """The factor between the VAE's latents and the U-Net's that the file stores, as CompVis's trainer does where it
    measures it, or that the .yaml beside it gives; `usual` where neither has one, or the same in less precision.

    Raises CheckpointError for one that is no positive number.
    """
    for where, value, precision in _scales(file):
        try:
            scale = float(value)
        except ValueError:
            scale = nan
        if not 0 < scale < inf:
            raise CheckpointError(f"{where} is {value}; expected a positive number, as {usual}.")
        return usual if isclose(scale, usual, rel_tol=precision) else scale
    return usual


def may_skip_layers(config: StableDiffusionConfig) -> bool:
    """Whether its text encoder may be read at any layer, as Stable Diffusion v1's; other kinds' have one alone."""
    return config.text_2 is None and not is_openclip(config.text)


def stated_text(file: TensorFile, config: StableDiffusionConfig) -> TextConfig:
    """The text encoder of a file: one that may skip layers is read at the one that its trainer's metadata say.

    Raises CheckpointError for a layer that there is not, and if the .yaml beside the file has the U-Net see another
    layer than the one that such a model is known to see.
    """
    text = config.text
    usual = "penultimate" if is_openclip(text) else "last"
    for name, layer in _configured(file, _TEXT_LAYER).items():
        if layer.lower() != usual:
            raise CheckpointError(
                f"{file.path.with_suffix('.yaml')}: {name} is {layer[:80]!r}; expected {usual!r}, or a `config` "
                "whose `text` says what to read instead."
            )
    if not may_skip_layers(config):
        for name, value, _ in nested_settings(file.metadata):
            if name.startswith(_ONE_TRAINERS) and value.strip().lower() not in _OFF:
                raise CheckpointError(
                    f"{file.path}: {name[-80:]} is {value[:80]!r}; expected 0, or a `config` whose `text` says which "
                    "layer to read."
                )
        return text
    layers = list(_read_layers(file, text.layers))
    own = [layer for layer, quoted in layers if not quoted] or [layer for layer, _ in layers]
    return replace(text, output_layer=-max(own)) if own else text


def _read_layers(file: TensorFile, layers: int) -> Iterator[tuple[int, bool]]:
    """Every layer, counted from the last, that trainers say to read, and whether that is quoted."""
    for name, value, quoted in nested_settings(file.metadata):
        is_skip, said = name == _ONE_TRAINERS[0], value.strip().lower()
        if not (is_skip or _SKIPPED.search(name)) or said in _OFF:
            continue
        layer = int(said) + is_skip if said.isdecimal() and len(said) < 3 else 0
        if not 0 < layer <= layers:
            raise CheckpointError(
                f"{file.path}: {name[-80:]} is {value[:80]!r}; expected which of the {layers} layers of its text "
                "encoder to read, as 2 for the last but one."
            )
        yield layer, quoted and not is_skip


def _scales(file: TensorFile) -> Iterator[tuple[str, str, float]]:
    """Every place that says the scale, with what it says there, and how exactly; those of a file opened for its shapes
    do not."""
    for key, entry in file.entries.items():
        if read_key(key).name == "scale_factor" and prod(entry.shape) == 1 and not (stored := entry.read()).is_meta:
            precision = torch.finfo(stored.dtype).eps / 2 if stored.is_floating_point() else 0
            yield f"{file.path}: {key}", str(stored.item()), max(precision, _PRECISION)
    for name, value in _configured(file, "scale_factor").items():
        yield f"{file.path.with_suffix('.yaml')}: {name}", value[:80], _PRECISION


def _values(path: Path, entry: Entry) -> Tensor:
    if len(entry.shape) != 1 or not 0 < entry.shape[0] <= _MOST_STEPS or not entry.dtype.is_floating_point:
        raise CheckpointError(
            f"{path}: {entry.key} has shape {list(entry.shape)} and {entry.dtype}; expected the noise schedule's value "
            f"for each of 1 to {_MOST_STEPS:,} timesteps."
        )
    return entry.read().clone()
