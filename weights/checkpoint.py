"""A checkpoint of any layout as three components of weights under our names, by headers; nothing is read yet."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ebama.models import SD_V1, StableDiffusionConfig

from .errors import CheckpointError
from .files.tensors import Entry, TensorFile, open_tensors
from .layouts.compvis import (
    COMPVIS_PREFIX,
    EMA_PREFIX,
    Renaming,
    ema_name,
    modern_vae_name,
    text_name,
    unet_renaming,
    vae_renaming,
)
from .layouts.detect import file_kind
from .layouts.diffusers import read_folder_config
from .layouts.token_table import expand_entries

COMPONENTS = ("unet", "vae", "text_encoder")

# Stem of the weights' file of each component, as safetensors and as pickle.
_STEMS = {
    "unet": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "vae": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "text_encoder": ("model", "pytorch_model"),
}
# Our name of a weight from its name in a folder; None for what is no weight.
_FOLDER_NAMES: dict[str, Callable[[str], str | None]] = {
    "unet": str,
    "vae": modern_vae_name,
    "text_encoder": text_name,
}
# Weights of the autoencoder's training, kept in some files.
_TRAINING_ONLY = ("first_stage_model.loss.", "first_stage_model.model_ema.")


@dataclass(frozen=True)
class Component:
    """Weights of one network by our names; `spell` gives the file's name of one, `unexpected` what has no name."""

    entries: dict[str, Entry]
    unexpected: tuple[str, ...] = ()
    spell: Callable[[str], str] = field(default=str)


@dataclass(frozen=True)
class Checkpoint:
    """What was found at `path`. `ema` says whether the file holds moving averages, `tokenizer` is its folder."""

    path: Path
    layout: str
    containers: tuple[str, ...]
    config: StableDiffusionConfig
    components: dict[str, Component]
    ema: bool = False
    tokenizer: Path | None = None


def open_checkpoint(
    path: Path, config: StableDiffusionConfig | None = None, *, ema: bool = False, meta: bool = False
) -> Checkpoint:
    """Recognise a checkpoint and open its files. With `ema` the U-Net is the moving average; with `meta` no entry
    can be read.

    Raises CheckpointError if there is nothing that could be a Stable Diffusion v1 checkpoint; whether all its
    weights are there is `verify`'s to say.
    """
    if path.is_dir():
        if ema:
            raise CheckpointError(f"{path} is a diffusers folder, which holds no EMA weights; leave ema=True out.")
        return _open_folder(path, config, meta)
    if not path.exists():
        raise CheckpointError(_nothing_there(path))
    file = open_tensors(path, meta=meta)
    if kind := file_kind({key: entry.shape for key, entry in file.entries.items()}):
        raise CheckpointError(f"{path} is {kind}; expected a complete Stable Diffusion v1 checkpoint.")
    return from_single_file(file, config or SD_V1, ema=ema)


def _nothing_there(path: Path) -> str:
    message = f"There is no file or folder {path}."
    if len(path.parts) == 2 and not path.is_absolute() and not path.suffix:
        message += f" A repository of the Hugging Face hub has to be fetched first: hf download {path} --local-dir DIR."
    return message


def from_single_file(file: TensorFile, config: StableDiffusionConfig = SD_V1, *, ema: bool = False) -> Checkpoint:
    """Sort a CompVis file's tensors into components; with `ema` the U-Net is its moving average."""
    renaming = unet_renaming(config.unet)
    unet = _compvis_component(file, "unet", renaming)

    def average(name: str) -> str:
        return ema_name(renaming.to_compvis(name))

    averages = {name: file.entries[average(name)] for name in unet.entries if average(name) in file.entries}
    has_ema = len(averages) == len(unet.entries) > 0
    if ema:
        if not has_ema:
            raise CheckpointError(
                f"{file.path} holds {'only some of the' if averages else 'no'} EMA weights ({EMA_PREFIX}*); "
                "load it without ema=True."
            )
        unet = Component(averages, unet.unexpected, average)
    return Checkpoint(
        path=file.path,
        layout="compvis",
        containers=(file.container,),
        config=config,
        components={
            "unet": unet,
            "vae": _compvis_component(file, "vae", vae_renaming(config.vae)),
            "text_encoder": _compvis_text(file, config),
        },
        ema=has_ema,
    )


def _compvis_component(file: TensorFile, component: str, renaming: Renaming) -> Component:
    prefix = COMPVIS_PREFIX[component]
    entries, unexpected = {}, []
    for key, entry in file.entries.items():
        if key.startswith(prefix) and not key.startswith(_TRAINING_ONLY):
            try:
                entries[renaming.to_ours(key.removeprefix(prefix))] = entry
            except KeyError:
                unexpected.append(key)
    return Component(entries, tuple(unexpected), lambda name: prefix + renaming.to_compvis(name))


def _compvis_text(file: TensorFile, config: StableDiffusionConfig) -> Component:
    prefix = COMPVIS_PREFIX["text_encoder"]
    found = (entry for key, entry in file.entries.items() if key.startswith(prefix))
    entries = _unique(file.path, found, lambda key: text_name(key.removeprefix(prefix)))
    return Component(
        expand_entries(file.path, entries, config.text.vocabulary), (), lambda name: f"{prefix}text_model.{name}"
    )


def _open_folder(folder: Path, config: StableDiffusionConfig | None, meta: bool) -> Checkpoint:
    missing = [name for name in COMPONENTS if not (folder / name).is_dir()]
    if missing:
        raise CheckpointError(_not_a_pipeline(folder, missing))
    config = config or read_folder_config(folder)
    components, containers = {}, []
    for name in COMPONENTS:
        files = [open_tensors(path, meta=meta) for path in weight_files(folder, name)]
        containers += [file.container for file in files]
        found = [entry for file in files for entry in file.entries.values()]
        entries = _unique(folder / name, found, _FOLDER_NAMES[name])
        components[name] = Component(expand_entries(folder / name, entries, config.text.vocabulary))
    tokenizer = folder / "tokenizer"
    return Checkpoint(
        path=folder,
        layout="diffusers",
        containers=tuple(sorted(set(containers))),
        config=config,
        components=components,
        tokenizer=tokenizer if tokenizer.is_dir() else None,
    )


def _not_a_pipeline(folder: Path, missing: list[str]) -> str:
    if not any(folder.iterdir()):
        return f"{folder} is an empty folder; expected a diffusers folder or a checkpoint file."
    message = f"{folder} is a folder without {', '.join(f'{name}/' for name in missing)}; expected a diffusers folder"
    if snapshots := sorted(folder.glob("snapshots/*/unet")):
        return f"{message}, such as {snapshots[-1].parent}."
    files = sorted(p.name for p in folder.iterdir() if p.suffix in (".ckpt", ".safetensors", ".pt", ".bin"))
    return f"{message} or a checkpoint file{f', such as {files[0]} in it' if files else ''}."


def weight_files(folder: Path, component: str) -> list[Path]:
    """The file with the weights of a folder's component, or its shards: full precision before fp16, safetensors before
    pickles. Raises CheckpointError if there is none."""
    folder, stems = folder / component, _STEMS[component]
    for variant in ("", ".fp16"):
        for stem, ending in zip(stems, ("safetensors", "bin"), strict=True):
            if (file := folder / f"{stem}{variant}.{ending}").is_file():
                return [file]
            for index in (f"{stem}{variant}.{ending}.index.json", f"{stem}.{ending}.index{variant}.json"):
                if (folder / index).is_file():
                    return list(_shards(folder / index))
    raise CheckpointError(f"{folder} holds no weights; expected {stems[0]}.safetensors or {stems[1]}.bin.")


def _shards(index: Path) -> Iterator[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of shards ({error!r}).") from error
    for name in names:
        if not isinstance(name, str) or name not in os.listdir(index.parent):
            raise CheckpointError(f"{index} names the shard {name!r}, which is not beside it.")
        yield index.parent / name


def _unique(where: Path, found: Iterable[Entry], rename: Callable[[str], str | None]) -> dict[str, Entry]:
    """Entries by our names, without those that have none; two spellings of one weight are an error."""
    entries: dict[str, Entry] = {}
    for entry in found:
        name = rename(entry.key)
        if name in entries:
            raise CheckpointError(f"{where} holds {name} twice, as {entries[name].key} and as {entry.key}.")
        if name is not None:
            entries[name] = entry
    return entries
