"""`config.json` of a diffusers folder's components: tables of keys, by which they are read and written.

diffusers.json beside this file holds `fixed`, the only values of other keys that are built here (a key that is absent
has this value in diffusers, too), and `written`, the files of Stable Diffusion v1, in which our keys are replaced.
Settings that our configurations do not have are refused by name: a network that is almost the one described gives
pictures that are almost right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ebama.models import MINIATURE, SD_V1, StableDiffusionConfig, TextConfig, UNetConfig, VAEConfig

from ..errors import CheckpointError
from ..files.regular import read_json
from .detect import unet_kind

Json = dict[str, Any]
T = TypeVar("T")

# Fields of our configurations by the keys of `config.json` that set them, and are written from them.
_UNET_FIELDS = {
    "attention_head_dim": "heads",  # has always meant the number of heads in these networks
    "block_out_channels": "widths",
    "cross_attention_dim": "context_width",
    "in_channels": "in_channels",
    "layers_per_block": "blocks",
    "norm_num_groups": "norm_groups",
    "out_channels": "out_channels",
    "transformer_layers_per_block": "depth",
}
_VAE_FIELDS = {
    "block_out_channels": "widths",
    "in_channels": "image_channels",
    "latent_channels": "latent_channels",
    "layers_per_block": "blocks",
    "mid_block_add_attention": "mid_attention",
    "norm_num_groups": "norm_groups",
    "out_channels": "image_channels",
    "scaling_factor": "scale",
}
_TEXT_FIELDS = {
    "hidden_act": "activation",
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "max_position_embeddings": "positions",
    "num_attention_heads": "heads",
    "num_hidden_layers": "layers",
    "vocab_size": "vocabulary",
}
# transformers' own defaults, which its version 4 leaves out of the text encoder's settings in those of a whole CLIP.
_CLIP_TEXT = {
    "hidden_act": "quick_gelu",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "max_position_embeddings": 77,
    "num_attention_heads": 8,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
# Names of the U-Net's blocks by whether they attend.
_DOWN_BLOCKS = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
_UP_BLOCKS = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
_VAE_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
_FILES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

# Keys that may be absent and have Stable Diffusion v1's value then; all others of the tables have to be there.
_OPTIONAL = (
    *("down_block_types", "up_block_types", "layers_per_block", "transformer_layers_per_block", "sample_size"),
    *("norm_num_groups", "mid_block_add_attention", "scaling_factor", "hidden_act"),
)
_LISTS = ("attention_head_dim", "block_out_channels")
# Values that may be null, and may be lists of one entry for each level or side, all equal.
_PER_LEVEL = ("layers_per_block", "transformer_layers_per_block", "sample_size")


def read_folder_config(folder: Path) -> StableDiffusionConfig:
    """The configuration of a diffusers folder, from its three `config.json`. Raises CheckpointError.

    Its scheduler's file, if there is one, must name the noise schedule of Stable Diffusion v1.
    """
    unet, sample_size = _parsed(folder / "unet" / "config.json", _unet_config)
    vae = _parsed(folder / "vae" / "config.json", _vae_config)
    text = _parsed(folder / "text_encoder" / "config.json", _text_config)
    schedule_file = folder / "scheduler" / "scheduler_config.json"
    if schedule_file.is_file():  # what else it says is how to sample, the caller's choice
        _parsed(schedule_file, partial(_check_fixed, name="scheduler/scheduler_config.json"))
    # These two networks tell a preset, whatever its VAE; a folder of others is called by its own name.
    presets = (preset.name for preset in (SD_V1, MINIATURE) if (unet, text) == (preset.unet, preset.text))
    name = next(presets, folder.resolve().name)
    with _naming(folder):
        return _sane(StableDiffusionConfig(unet, vae, text, sample_size=sample_size, name=name))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put a file's name in front of whatever a configuration complains about."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}.") from error
    except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _parsed(file: Path, parse: Callable[[Json], T]) -> T:
    if not file.exists() and not file.is_symlink():
        raise CheckpointError(f"{file} is missing; a diffusers folder needs it to say what the network is.")
    values = read_json(file)
    with _naming(file):
        return parse(values)


def _sane(config: T) -> T:
    """`config`, unless a number in it is so large that only building its network would take forever."""
    for name, value in vars(config).items():
        most = 100 if name in ("blocks", "depth", "layers") else 1_000_000
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and number > most:
                raise ValueError(f"{name} is {number:,}; expected at most {most:,}.")
    return config


def _check_fixed(values: Json, name: str) -> None:
    for key, expected in _FILES["fixed"][name].items():
        if (value := values.get(key, expected)) != expected:
            raise ValueError(f"{key} is {value!r}; Stable Diffusion v1 has {expected!r}, and nothing else is built.")


def _complete(values: Json, name: str, **defaults: object) -> Json:
    """`values` with defaults where they are absent or null."""
    optional = {key: value for key, value in _FILES["written"][name].items() if key in _OPTIONAL}
    return optional | defaults | {k: value for k, value in values.items() if value is not None}


def _value(values: Json, key: str, like: object) -> Any:
    """The value of a key as our configurations have it, one number where a list has the same for every level.

    Raises ValueError unless it is of the type of `like`.
    """
    value = values[key]
    if key in _PER_LEVEL and isinstance(value, list):
        if not value or any(entry != value[0] for entry in value):
            raise ValueError(f"{key} is {value!r}; only equal entries are supported.")
        value = value[0]
    if key in _LISTS:
        if not isinstance(value, list) or not all(_is_like(entry, like[0]) for entry in value):  # type: ignore[index]
            raise ValueError(f"{key} is {value!r}; expected a list as {list(like)}.")  # type: ignore[call-overload]
        return tuple(value)
    if not _is_like(value, like):
        raise ValueError(f"{key} is {value!r}; expected a value as {like!r}.")
    return value


def _is_like(value: object, like: object) -> bool:
    return type(value) is type(like) or (isinstance(like, float) and type(value) is int)


def _read(values: Json, fields: Mapping[str, str], like: object) -> dict[str, Any]:
    return {field: _value(values, key, getattr(like, field)) for key, field in fields.items()}


def _written(config: object, fields: Mapping[str, str]) -> Json:
    values = {key: getattr(config, field) for key, field in fields.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _attends(values: Json, key: str, blocks: Mapping[bool, str]) -> tuple[bool, ...]:
    attends = {name: attention for attention, name in blocks.items()}
    if others := [name for name in values[key] if name not in attends]:
        raise ValueError(f"{key} names {others[0]!r}; expected {' or '.join(attends)}.")
    return tuple(attends[name] for name in values[key])


def _unet_config(values: Json) -> tuple[UNetConfig, int]:
    """The U-Net and the side of the latents that it was trained on."""
    channels, context = values["in_channels"], values["cross_attention_dim"]
    if values["block_out_channels"][0] == SD_V1.unet.widths[0] and (kind := unet_kind(channels, context)):
        raise ValueError(f"in_channels {channels} and cross_attention_dim {context} make this {kind}.")
    _check_fixed(values, "unet/config.json")
    values = _complete(values, "unet/config.json")
    attention = _attends(values, "down_block_types", _DOWN_BLOCKS)
    if attention != _attends(values, "up_block_types", _UP_BLOCKS)[::-1]:
        raise ValueError(
            "up_block_types do not mirror down_block_types; each level has attention both ways or neither."
        )
    heads = values.get("num_attention_heads") or values.get("attention_head_dim") or 8
    if not isinstance(heads, list):
        heads = [heads] * len(values["block_out_channels"])
    fields = _read(values | {"attention_head_dim": heads}, _UNET_FIELDS, SD_V1.unet)
    return _sane(UNetConfig(attention=attention, **fields)), _value(values, "sample_size", SD_V1.sample_size)


def _vae_config(values: Json) -> VAEConfig:
    _check_fixed(values, "vae/config.json")
    if values["in_channels"] != values["out_channels"]:
        raise ValueError(f"in_channels {values['in_channels']} and out_channels {values['out_channels']} differ.")
    widths = list(values["block_out_channels"])
    for key, block in _VAE_BLOCKS.items():
        blocks = values.get(key, [block] * len(widths))
        if others := [name for name in blocks if name != block]:
            raise ValueError(f"{key} names {others[0]!r}; expected {block}.")
        if len(blocks) != len(widths):
            raise ValueError(f"{key} and block_out_channels {widths} have different lengths.")
    values = _complete(values, "vae/config.json", layers_per_block=1)  # not Stable Diffusion v1's
    return _sane(VAEConfig(**_read(values, _VAE_FIELDS, SD_V1.vae)))


def _text_config(values: Json) -> TextConfig:
    if isinstance(values.get("text_config"), dict):  # of a whole CLIP
        values = _CLIP_TEXT | values["text_config"]
    _check_fixed(values, "text_encoder/config.json")
    values = _complete(values, "text_encoder/config.json")
    if values["hidden_act"] not in ("quick_gelu", "gelu"):
        raise ValueError(f"hidden_act is {values['hidden_act']!r}; expected 'quick_gelu' or 'gelu'.")
    return _sane(TextConfig(**_read(values, _TEXT_FIELDS, SD_V1.text)))


def folder_jsons(config: StableDiffusionConfig) -> dict[str, Json]:
    """The JSON files of a diffusers folder by relative path, so that diffusers builds `config`'s networks."""
    text = config.text
    if (text.output_layer, text.final_norm) != (-1, True):
        raise ValueError(
            f"output_layer {text.output_layer} and final_norm {text.final_norm} have no place in a config.json of "
            "transformers; save with -1 and True, and give the others to load(..., config=...)."
        )
    unet = {
        **_written(config.unet, _UNET_FIELDS),
        "sample_size": config.sample_size,
        "down_block_types": [_DOWN_BLOCKS[attends] for attends in config.unet.attention],
        "up_block_types": [_UP_BLOCKS[attends] for attends in config.unet.attention[::-1]],
    }
    vae = {
        **_written(config.vae, _VAE_FIELDS),
        "sample_size": config.sample_size * config.vae.factor,
        **{key: [block] * len(config.vae.widths) for key, block in _VAE_BLOCKS.items()},
    }
    ours = {
        "unet/config.json": unet,
        "vae/config.json": vae,
        "text_encoder/config.json": _written(config.text, _TEXT_FIELDS),
    }
    return {name: values | ours.get(name, {}) for name, values in _FILES["written"].items()}
