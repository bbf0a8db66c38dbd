"""A checkpoint of any layout as three components of weights under our names, by headers; nothing is read yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ebama.models import SD_V1, StableDiffusionConfig

from .errors import CheckpointError
from .files.tensors import Entry, TensorFile, open_tensors
from .layouts.compvis import EMA_PREFIX, ema_name, file_keys, modern_vae_name, text_name, unet_renaming
from .layouts.detect import file_kind
from .layouts.diffusers import read_folder_config
from .layouts.folder import COMPONENTS, missing_components, not_a_pipeline, weight_files
from .layouts.token_table import expand_entries

# Our name of a weight from its name in a folder; None for what is no weight.
_FOLDER_NAMES: dict[str, Callable[[str], str | None]] = {
    "unet": str,
    "vae": modern_vae_name,
    "text_encoder": text_name,
}


@dataclass(frozen=True)
class Component:
    """Weights of one network by our names; `spell` gives the file's name of one, `unexpected` what has no name."""

    entries: dict[str, Entry]
    unexpected: tuple[str, ...] = ()
    spell: Callable[[str], str] = str


@dataclass(frozen=True)
class Checkpoint:
    """The components at `path`. `ema` says whether the file holds moving averages, `tokenizer` is its folder."""

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
        message = f"There is no file or folder {path}."
        if len(path.parts) == 2 and not path.is_absolute() and not path.suffix:
            message += " A repository of the Hugging Face hub has to be fetched first: "
            message += f"hf download {path} --local-dir DIR."
        raise CheckpointError(message)
    file = open_tensors(path, meta=meta)
    if kind := file_kind({key: entry.shape for key, entry in file.entries.items()}):
        raise CheckpointError(f"{path} is {kind}; expected a complete Stable Diffusion v1 checkpoint.")
    return from_single_file(file, config or SD_V1, ema=ema)


def from_single_file(file: TensorFile, config: StableDiffusionConfig = SD_V1, *, ema: bool = False) -> Checkpoint:
    """Sort a CompVis file's tensors into components; with `ema` the U-Net is its moving average."""
    components = {}
    for component, keys in file_keys(config).items():
        entries = [entry for key, entry in file.entries.items() if key.startswith(keys.prefix)]
        components[component] = _component(file.path, entries, keys.name, config, keys.key)
    unet, to_compvis = components["unet"], unet_renaming(config.unet).to_compvis

    def average(name: str) -> str:
        return ema_name(to_compvis(name))

    averages = {name: file.entries[average(name)] for name in unet.entries if average(name) in file.entries}
    has_ema = len(averages) == len(unet.entries) > 0
    if ema:
        if not has_ema:
            raise CheckpointError(
                f"{file.path} holds {'only some of the' if averages else 'no'} EMA weights ({EMA_PREFIX}*); "
                "load it without ema=True."
            )
        components["unet"] = Component(averages, unet.unexpected, average)
    return Checkpoint(file.path, "compvis", (file.container,), config, components, ema=has_ema)


def _open_folder(folder: Path, config: StableDiffusionConfig | None, meta: bool) -> Checkpoint:
    if missing := missing_components(folder):
        raise CheckpointError(not_a_pipeline(folder, missing))
    config = config or read_folder_config(folder)
    components, containers = {}, set()
    for component in COMPONENTS:
        files = [open_tensors(path, meta=meta) for path in weight_files(folder, component)]
        containers |= {file.container for file in files}
        entries = [entry for file in files for entry in file.entries.values()]
        components[component] = _component(folder / component, entries, _FOLDER_NAMES[component], config)
    tokenizer = folder / "tokenizer"
    return Checkpoint(
        folder,
        "diffusers",
        tuple(sorted(containers)),
        config,
        components,
        tokenizer=tokenizer if tokenizer.is_dir() else None,
    )


def _component(
    where: Path,
    entries: Iterable[Entry],
    rename: Callable[[str], str | None],
    config: StableDiffusionConfig,
    spell: Callable[[str], str] = str,
) -> Component:
    """Entries by our names, without those that have none; two spellings of one weight are an error."""
    named: dict[str, Entry] = {}
    unexpected = []
    for entry in entries:
        try:
            name = rename(entry.key)
        except KeyError:
            unexpected.append(entry.key)
            continue
        if name in named:
            raise CheckpointError(f"{where} holds {name} twice, as {named[name].key} and as {entry.key}.")
        if name is not None:
            named[name] = entry
    return Component(expand_entries(where, named, config.text.vocabulary), tuple(unexpected), spell)
