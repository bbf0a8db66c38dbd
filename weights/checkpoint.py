"""A checkpoint of any layout as components of weights under our names, by headers; nothing is read yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain, starmap
from pathlib import Path
from typing import Any

from ebama.models import SD_V2, SD_V2_V, StableDiffusionConfig
from ebama.samplers.schedule import STABLE_DIFFUSION_V1, NoiseSchedule

from .errors import CheckpointError, listed
from .files.regular import check_folder, is_folder, remedy
from .files.tensors import Entry, TensorFile, open_tensors
from .layouts.compvis import ComponentNames, component_names, ema_name
from .layouts.detect import file_kind, preset_of
from .layouts.diffusers import read_folder_config
from .layouts.folder import (
    STEMS,
    TOKENIZERS,
    has_scheduler,
    missing_components,
    not_a_pipeline,
    variant_of,
    weight_files,
)
from .layouts.keys import EMA_PREFIX, name_in_folder, read_key
from .layouts.parametrisation import (
    Statement,
    guessed_prediction,
    stated_prediction,
    stated_text,
    stored_scale,
    stored_schedule,
)
from .layouts.token_table import expand_entries
from .networks import expected_shapes


@dataclass(frozen=True)
class Component:
    """Weights of one network by our names; `spell` gives the file's name of one, `unexpected` what has no name and
    `ignored` what no network needs."""

    entries: dict[str, Entry]
    unexpected: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    spell: Callable[[str], str] = str


@dataclass(frozen=True)
class Checkpoint:
    """The components at `path`.

    ema: whether the file holds the U-Net's moving averages.
    schedule: the noise schedule that the file stores, or Stable Diffusion v1's.
    tokenizer, tokenizer_2: the folder's, if it has them.
    prediction_is_guessed: whether only the U-Net's weights told what it predicts.
    notes: what else was noticed, in words.
    """

    path: Path
    layout: str
    containers: tuple[str, ...]
    config: StableDiffusionConfig
    components: dict[str, Component]
    ema: bool = False
    schedule: NoiseSchedule = STABLE_DIFFUSION_V1
    tokenizer: Path | None = None
    tokenizer_2: Path | None = None
    prediction_is_guessed: bool = False
    notes: tuple[str, ...] = ()


def open_checkpoint(
    path: Path,
    config: StableDiffusionConfig | None = None,
    *,
    ema: bool = False,
    meta: bool = False,
    prediction: str | None = None,
) -> Checkpoint:
    """Recognise a checkpoint and open its files. With `ema` the U-Net is the moving average; `meta` is
    `open_tensors`'s; `prediction` replaces what the files say.

    Raises CheckpointError if there is nothing that could be a Stable Diffusion checkpoint; whether all its weights are
    there is `verify`'s to say.
    """
    if path.is_dir():
        if ema:
            raise CheckpointError(f"{path} is a diffusers folder, which holds no EMA weights; leave ema=True out.")
        return _open_folder(path, config, meta, prediction)
    if not path.exists() and not path.is_symlink():
        raise CheckpointError(f"There is no file or folder {path}.{remedy(path)}")
    file = open_tensors(path, meta=meta)
    if kind := kind_of(file, statement := stated_prediction(file)):
        raise CheckpointError(f"{path} is {kind}; expected a complete checkpoint of Stable Diffusion v1, 2 or XL.")
    return from_single_file(file, config, statement=statement, ema=ema, prediction=prediction)


def kind_of(file: TensorFile, statement: Statement | None) -> str | None:
    """What a single file is instead of a complete Stable Diffusion v1, 2 or XL; None if nothing speaks against that.
    `statement` is its `stated_prediction`."""
    if kind := file_kind(_shapes(file)):
        return kind
    unknown = statement is not None and statement.prediction is None
    return f"a model of another parametrisation than epsilon and v-prediction ({statement})" if unknown else None


def _shapes(file: TensorFile) -> dict[str, tuple[int, ...]]:
    return {key: entry.shape for key, entry in file.entries.items()}


def from_single_file(
    file: TensorFile,
    config: StableDiffusionConfig | None = None,
    *,
    statement: Statement | None = None,
    ema: bool = False,
    prediction: str | None = None,
) -> Checkpoint:
    """Sort a single file's tensors into components; with `ema`, or if it holds no other, the U-Net is its moving
    average. Without a `config` it is that of the kind of model that the shapes are of; `statement` is the file's
    `stated_prediction`."""
    usual, config = config is None, config or preset_of(_shapes(file))
    if usual:
        config = replace(config, text=stated_text(file, config))
    keys = [(read_key(key), entry) for key, entry in file.entries.items()]
    trained = {key.component for key, _ in keys if not key.average}

    def entries_of(component: str, average: bool = False) -> list[tuple[str, Entry]]:
        average |= component not in {"unet"} | trained  # all of a model's weights may be averages
        return [(key.name, entry) for key, entry in keys if (key.component, key.average) == (component, average)]

    names = component_names(config)
    components = {
        component: _component(file.path, entries_of(component), known, config, known.key)
        for component, known in names.items()
    }
    averages, complete = _averages(entries_of("unet", average=True), names["unet"], config)
    notes = [f"{name}: ignored {listed(part.ignored)}" for name, part in components.items() if part.ignored]
    if usual and (layer := -config.text.output_layer) > 1 and config.text.final_norm:
        notes.append(f"text_encoder: read at layer {layer} from its end (clip skip {layer}), as the metadata say")
    if ema and not complete:
        raise CheckpointError(
            f"{file.path} holds {'only some of the' if averages.entries else 'no'} EMA weights ({EMA_PREFIX}*); "
            "load it without ema=True."
        )
    if averages.entries and not components["unet"].entries:
        notes.append("unet: EMA weights only, which are loaded")
        ema = True
    if ema:
        components["unet"] = replace(averages, unexpected=(*averages.unexpected, *components["unet"].unexpected))
    if (scale := stored_scale(file, config.vae.scale)) != config.vae.scale:
        config = replace(config, vae=replace(config.vae, scale=scale))
        notes.append(f"vae: latents are scaled by {scale:.6g}, as is stored")
    schedule = stored_schedule(file) or STABLE_DIFFUSION_V1
    opened = Checkpoint(
        file.path, "compvis", (file.container,), config, components, complete, schedule, notes=tuple(notes)
    )
    if statement is not None and prediction is None:
        opened = replace(opened, notes=(*opened.notes, f"predicts {statement.prediction}: {statement}"))
        prediction = statement.prediction
    opened = _predicting(opened, prediction, guess=usual)
    return replace(opened, config=SD_V2_V) if usual and opened.config == replace(SD_V2, prediction="v") else opened


def _predicting(checkpoint: Checkpoint, prediction: str | None, *, guess: bool) -> Checkpoint:
    """The checkpoint of a U-Net that predicts this; None for its configuration's prediction, or a `guess` by its
    weights where nothing tells the two kinds of Stable Diffusion 2 apart."""
    config, notes = checkpoint.config, checkpoint.notes
    full_size = replace(config.unet, upcast_attention=SD_V2.unet.upcast_attention) == SD_V2.unet
    if prediction is None and guess and full_size:
        guessed = guessed_prediction(checkpoint.components["unet"].entries)
        prediction, how = guessed or ("epsilon", "taken for it, since the weight that would tell was not read")
        notes = (*notes, f"predicts {prediction}: {how}; prediction= overrides it")
        checkpoint = replace(checkpoint, prediction_is_guessed=True)
    return replace(checkpoint, config=replace(config, prediction=prediction or config.prediction), notes=notes)


def _averages(
    entries: list[tuple[str, Entry]], names: ComponentNames, config: StableDiffusionConfig
) -> tuple[Component, bool]:
    """The U-Net's moving averages, whose names may have lost their dots, and whether all are there; a second average of
    a weight is unexpected."""
    weights = expected_shapes(config)["unet"] if entries else {}
    dotless = {spelling.replace(".", ""): name for name in weights for spelling in (name, names.to_compvis(name))}
    averages: dict[str, Entry] = {}
    again = []
    for name, entry in entries:
        ours = dotless.get(name.replace(".", ""))
        if ours is not None and averages.setdefault(ours, entry) is not entry:
            again.append(entry.key)

    def spell(name: str) -> str:
        return ema_name(names.to_compvis(name))

    return Component(averages, tuple(again), spell=spell), 0 < len(averages) == len(weights)


def _open_folder(folder: Path, config: StableDiffusionConfig | None, meta: bool, prediction: str | None) -> Checkpoint:
    if missing := missing_components(folder):
        raise CheckpointError(not_a_pipeline(folder, missing))
    for name in (*STEMS, *TOKENIZERS, "scheduler"):
        if is_folder(folder / name):
            check_folder(folder / name)
    says_prediction = has_scheduler(folder)
    config = config or read_folder_config(folder)
    components, containers, notes = {}, set(), []
    for component, names in component_names(config).items():
        files = [open_tensors(path, meta=meta) for path in weight_files(folder, component)]
        containers |= {file.container for file in files}
        entries = [(name_in_folder(key, component), entry) for file in files for key, entry in file.entries.items()]
        part = components[component] = _component(folder / component, entries, names, config)
        if variant := variant_of(files[0].path):
            notes.append(f"{component}: variant {variant}")
        if part.ignored:
            notes.append(f"{component}: ignored {listed(part.ignored)}")
    tokenizers: dict[str, Any] = {name: folder / name for name in TOKENIZERS if (folder / name).is_dir()}
    opened = Checkpoint(
        folder, "diffusers", tuple(sorted(containers)), config, components, notes=tuple(notes), **tokenizers
    )
    return _predicting(opened, prediction, guess=not says_prediction)


def _component(
    where: Path,
    entries: Iterable[tuple[str, Entry]],
    names: ComponentNames,
    config: StableDiffusionConfig,
    spell: Callable[[str], str] = str,
) -> Component:
    """Entries by our names, without those that have none; two spellings of one weight are an error."""
    named: dict[str, Entry] = {}
    unexpected, ignored = [], []
    for theirs, entry in chain.from_iterable(starmap(names.split, entries)):
        try:
            name = names.to_ours(theirs)
        except KeyError:
            unexpected.append(entry.key)
            continue
        if name is None:
            ignored.append(entry.key)
        elif name in named:
            raise CheckpointError(f"{where} holds {name} twice, as {named[name].key} and as {entry.key}.")
        else:
            named[name] = entry
    named = expand_entries(where, named, config.text.vocabulary)
    return Component(named, tuple(dict.fromkeys(unexpected)), tuple(dict.fromkeys(ignored)), spell)
