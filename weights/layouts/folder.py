"""Which files of a diffusers folder hold each component's weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError
from ..files.regular import check_regular, is_folder, is_there, read_json

# Stems of a component's file of weights, as safetensors and as pickle.
STEMS = {
    "unet": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "vae": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "text_encoder": ("model", "pytorch_model"),
    "text_encoder_2": ("model", "pytorch_model"),
}
COMPONENTS = ("unet", "vae", "text_encoder")
"""What every folder has."""
TOKENIZERS = ("tokenizer", "tokenizer_2")


def components(folder: Path) -> list[str]:
    """The components that a folder has."""
    return [name for name in STEMS if (folder / name).is_dir()]


def missing_components(folder: Path) -> list[str]:
    """Components that have no folder of their own in `folder`."""
    return [name for name in COMPONENTS if not (folder / name).is_dir()]


def has_scheduler(folder: Path) -> bool:
    """Whether a scheduler/ says what the U-Net predicts; CheckpointError for one without the file that does."""
    scheduler = folder / "scheduler"
    if is_folder(scheduler) and not is_there(scheduler / "scheduler_config.json"):
        raise CheckpointError(
            f"{scheduler} holds no scheduler_config.json, which says what the U-Net predicts; download it again, or "
            "delete the folder to go by the weights."
        )
    return scheduler.is_dir()


def not_a_pipeline(folder: Path, missing: list[str]) -> str:
    """The error message of a folder without some components: what it is, and what could be meant."""
    if not any(folder.iterdir()):
        return f"{folder} is an empty folder; expected a diffusers folder or a checkpoint file."
    if other := _other_model(folder):
        return f"{folder} is a folder of {other}; expected Stable Diffusion v1, 2 or XL."
    message = f"{folder} is a folder without {', '.join(f'{name}/' for name in missing)}; expected a diffusers folder"
    if missing == ["text_encoder"] and (folder / "text_encoder_2").is_dir():
        return f"{message}, and this is a Stable Diffusion XL refiner, which goes on with another's pictures."
    if snapshots := sorted(folder.glob("snapshots/*/unet")):
        return f"{message}, such as {snapshots[-1].parent}."
    if (folder / "unet").is_dir():
        return (
            f"{message}; trainers write such ones beside their states: put this unet/ into the folder of the model "
            "that it was trained from."
        )
    if any(folder.glob("diffusion_pytorch_model*")):
        return f"{folder} is one component of a diffusers folder; give the folder that holds unet/ and the others."
    files = sorted(p.name for p in folder.iterdir() if p.suffix in (".ckpt", ".safetensors", ".pt", ".bin"))
    return f"{message} or a checkpoint file{f', such as {files[0]} in it' if files else ''}."


def _other_model(folder: Path) -> str | None:
    """What a folder without some components is of, if not Stable Diffusion: by the class that its files name, or by
    the folder of a component that Stable Diffusion has not."""
    others = {name: kind for name, kind in _OTHER_COMPONENTS.items() if (folder / name).is_dir()}
    for file in (folder / "model_index.json", *(folder / name / "config.json" for name in others)):
        name = read_json(file).get("_class_name") if is_there(file) else None
        if isinstance(name, str) and re.fullmatch(r"(?!StableDiffusion(?!3))\w{1,60}", name):
            return f"diffusers' {name}"
    return next(iter(others.values()), None)


_OTHER_COMPONENTS = {
    "transformer": "a transformer-based diffusion model (Stable Diffusion 3, Flux or the like)",
    "movq": "a Kandinsky model",
    "prior": "a prior (of Kandinsky or the like)",
}


def weight_files(folder: Path, component: str) -> list[Path]:
    """The file with the weights of a folder's component, or its shards, safetensors before pickles.

    Of several variants (fp16, bf16, non_ema, ...) it is the one without a name, in full precision; a variant alone is
    taken as it is. Raises CheckpointError if there is nothing, or nothing to choose by.
    """
    folder, names = folder / component, weight_names(folder / component, component)
    if not names:
        others = ", ".join(sorted(path.name for path in folder.iterdir())[:10])
        expected = f"expected {STEMS[component][0]}.safetensors or {STEMS[component][1]}.bin"
        raise CheckpointError(f"{folder} holds no weights; {expected}{f', there is: {others}' if others else ''}.")
    variant = "" if "" in names else next(iter(names))
    if variant and len(names) > 1:
        raise CheckpointError(
            f"{folder} holds several variants, {', '.join(sorted(names))}, and none without a variant's name; keep one."
        )
    path = folder / names[variant]
    check_regular(path)
    return list(_shards(path)) if path.suffix == ".json" else [path]


def variant_of(file: Path) -> str:
    """The variant that a file's name states, as fp16; empty if it states none."""
    match = _NAME.fullmatch(file.name)
    return (match["variant"] or match["late"] or "") if match else ""


# STEM[.VARIANT].ENDING, or the index of its shards, of which diffusers has spelled the variant in two places.
_NAME = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?"
    r"\.(?P<ending>safetensors|bin)(?P<index>\.index(?:\.(?P<late>[\w-]+))?\.json)?"
)


def weight_names(folder: Path, component: str) -> dict[str, str]:
    """The name of the file to open for each variant. Of a whole file and shards it is what diffusers reads: shards, but
    of text encoders, which transformers opens, the whole file."""
    found, names = [], os.listdir(folder)
    # An index that is left from shards that are gone is passed over.
    shards_first = STEMS[component][0] == "diffusion_pytorch_model" and any("-of-" in name for name in names)
    for name in names:
        match = _NAME.fullmatch(name)
        if match and "-of-" not in name:
            usual = match["stem"] in STEMS[component]
            order = (not usual, match["ending"] != "safetensors", (match["index"] is None) == shards_first, name)
            found.append((order, variant_of(Path(name)), name))
    return {variant: name for _, variant, name in sorted(found, reverse=True)}


def is_of_shards(name: str) -> bool:
    """Whether a file has the name of shards of weights, or of their index, without a variant's."""
    match = _NAME.fullmatch(name)
    return match is not None and not variant_of(Path(name)) and ("-of-" in name or match["index"] is not None)


def _shards(index: Path) -> Iterator[Path]:
    shards = read_json(index, "an index of shards").get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{index} is not an index of shards; expected a `weight_map`.")
    for name in sorted(set(map(str, shards.values()))):
        if name not in os.listdir(index.parent):
            raise CheckpointError(f"{index} names the shard {name[:200]!r}, which is not beside it.")
        yield index.parent / name
