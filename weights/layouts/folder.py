"""Which files of a diffusers folder hold each component's weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError

# Stems of a component's file of weights, as safetensors and as pickle.
STEMS = {
    "unet": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "vae": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "text_encoder": ("model", "pytorch_model"),
}
COMPONENTS = tuple(STEMS)


def missing_components(folder: Path) -> list[str]:
    """Components that have no folder of their own in `folder`."""
    return [name for name in COMPONENTS if not (folder / name).is_dir()]


def not_a_pipeline(folder: Path, missing: list[str]) -> str:
    """The error message of a folder without some components: what it is, and what could be meant."""
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
    folder, stems = folder / component, STEMS[component]
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
