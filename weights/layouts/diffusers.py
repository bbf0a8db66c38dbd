"""`config.json` of a diffusers folder's components: tables of keys, by which they are read, and written by `writing`.

diffusers.json beside this file holds `fixed`, the only values of other keys that are built here (a key that is absent
has this value in diffusers, too, but for a scheduler's betas, which have to be there), and `written`, the files of
Stable Diffusion v1, in which our keys are replaced.
Settings that our configurations do not have are refused by name: a network that is almost the one described gives
pictures that are almost right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any, TypeVar

from ebama.models import (
    MINIATURE,
    SD_V1,
    SD_V2,
    SD_V2_V,
    SDXL,
    StableDiffusionConfig,
    TextConfig,
    UNetConfig,
    VAEConfig,
)

from ..errors import CheckpointError
from ..files.regular import is_there, read_json
from .detect import FULL_SIZE, unet_kind
from .padding import padding, padding_of

Json = dict[str, Any]
T = TypeVar("T")

PRESETS = (SD_V1, SD_V2, SD_V2_V, SDXL, MINIATURE)

# Fields of our configurations by the keys of `config.json` that set them, and are written from them.
UNET_FIELDS = {
    "attention_head_dim": "heads",  # has always meant the number of heads in these networks
    "block_out_channels": "widths",
    "cross_attention_dim": "context_width",
    "in_channels": "in_channels",
    "layers_per_block": "blocks",
    "norm_num_groups": "norm_groups",
    "out_channels": "out_channels",
    "transformer_layers_per_block": "depth",
    "upcast_attention": "upcast_attention",
    "use_linear_projection": "linear_projections",
}
VAE_FIELDS = {
    "block_out_channels": "widths",
    "in_channels": "image_channels",
    "latent_channels": "latent_channels",
    "layers_per_block": "blocks",
    "mid_block_add_attention": "mid_attention",
    "norm_num_groups": "norm_groups",
    "out_channels": "image_channels",
    "scaling_factor": "scale",
}
TEXT_FIELDS = {
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
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
_OTHER_NOISE = re.compile("FlowMatch|EDM|Cosine|CMStochastic|KarrasVe|ScoreSde|DDPMWuerstchen|VQDiffusion|RePaint")
_BETAS = {"beta_schedule", "beta_start", "beta_end"}  # a scheduler without any adds noise in another way
_UNET_LIKE = replace(SD_V1.unet, depth=(1, 2, 3, 4))
# Of a model with two text encoders: what its pipeline does with their outputs, which no config.json says.
OF_TWO: Json = {"output_layer": -2, "final_norm": False}
# Names of the U-Net's blocks by whether they attend.
DOWN_BLOCKS = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
UP_BLOCKS = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
VAE_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
FILES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

# Keys that may be absent and have Stable Diffusion v1's value then; all others of the tables have to be there.
_OPTIONAL = (
    *("down_block_types", "up_block_types", "layers_per_block", "transformer_layers_per_block", "sample_size"),
    *("norm_num_groups", "mid_block_add_attention", "scaling_factor", "hidden_act"),
)
SWITCHES = ("upcast_attention", "use_linear_projection")  # off where they are absent, and not written then
_LISTS = ("attention_head_dim", "block_out_channels", "transformer_layers_per_block")
# Values that may be null, and may be lists of one entry for each level or side, all equal.
_PER_LEVEL = ("layers_per_block", "sample_size")


def read_folder_config(folder: Path) -> StableDiffusionConfig:
    """The configuration of a diffusers folder, from its `config.json` files, its scheduler's file and how its
    tokenizers fill short texts. Raises CheckpointError.

    The scheduler's file, if there is one, must name the noise schedule of Stable Diffusion.
    """
    unet, sample_size = _parsed(folder / "unet" / "config.json", _unet_config)
    two = (folder / "text_encoder_2").is_dir()
    vae = _parsed(folder / "vae" / "config.json", partial(_vae_config, may_overflow=two))
    fields: Json = {"text": _text(folder, "", OF_TWO if two else {})}
    if two:
        fields["text_2"] = _text(folder, "_2", OF_TWO, projects=True)
        index = folder / "model_index.json"
        zeros = read_json(index).get("force_zeros_for_empty_prompt", True) if is_there(index) else True
        fields["zero_empty_prompt"] = bool(zeros)
    schedule_file = folder / "scheduler" / "scheduler_config.json"
    if is_there(schedule_file):  # what else it says is how to sample, the caller's choice
        fields["prediction"] = _parsed(schedule_file, _prediction)
    with _naming(folder):
        name = folder.resolve().name
        config = _sane(StableDiffusionConfig(unet, vae, sample_size=sample_size, name=name, **fields))
    # The VAE tells no preset; a folder of other networks is called by its own name.
    return replace(config, name=next((known.name for known in PRESETS if _alike(known, config)), name))


def _alike(preset: StableDiffusionConfig, config: StableDiffusionConfig) -> bool:
    """Whether the U-Net and the text encoders are a preset's; 2.0 does without `upcast_attention`, 2.1 has it."""
    unet, names = replace(config.unet, upcast_attention=preset.unet.upcast_attention), ("text", "text_2", "prediction")
    return preset.unet == unet and all(getattr(preset, name) == getattr(config, name) for name in names)


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
    for key, expected in FILES["fixed"][name].items():
        if (value := values.get(key, expected)) != expected:
            raise ValueError(
                f"{key} is {short(value)}; Stable Diffusion v1 has {expected!r}, and nothing else is built."
            )


def _complete(values: Json, name: str, **defaults: object) -> Json:
    """`values` with defaults where they are absent or null."""
    optional = {key: value for key, value in FILES["written"][name].items() if key in _OPTIONAL}
    return optional | defaults | {k: value for k, value in values.items() if value is not None}


def _value(values: Json, key: str, like: object) -> Any:
    """The value of a key as our configurations have it, one number where a list has the same for every level.

    Raises ValueError unless it is of the type of `like`.
    """
    value = values[key]
    if key in _PER_LEVEL and isinstance(value, list):
        if not value or any(entry != value[0] for entry in value):
            raise ValueError(f"{key} is {short(value)}; only equal entries are supported.")
        value = value[0]
    if key in _LISTS:
        if not isinstance(value, list) or not value or not all(_is_like(entry, like[0]) for entry in value):  # type: ignore[index]
            raise ValueError(f"{key} is {short(value)}; expected a list as {list(like)}.")  # type: ignore[call-overload]
        return tuple(value)
    if not _is_like(value, like):
        raise ValueError(f"{key} is {short(value)}; expected a value as {like!r}.")
    return value


def _is_like(value: object, like: object) -> bool:
    return type(value) is type(like) or (isinstance(like, float) and type(value) is int)


def _read(values: Json, fields: Mapping[str, str], like: object) -> dict[str, Any]:
    return {field: _value(values, key, getattr(like, field)) for key, field in fields.items()}


def _attends(values: Json, key: str, blocks: Mapping[bool, str]) -> tuple[bool, ...]:
    attends = {name: attention for attention, name in blocks.items()}
    return tuple(attends[name] for name in _block_types(values[key], key, tuple(attends)))


def _block_types(names: object, key: str, known: tuple[str, ...]) -> list[str]:
    """`names`, if it is a list of known ones."""
    if not isinstance(names, list):
        raise ValueError(f"{key} is {short(names)}; expected a list of {' or '.join(known)}.")
    if others := [name for name in names if name not in known]:
        raise ValueError(f"{key} names {short(others[0])}; expected {' or '.join(known)}.")
    return names


def _prediction(values: Json) -> str:
    if "_class_name" in values and not _BETAS & values.keys():
        raise ValueError(
            f"_class_name is {short(values['_class_name'])}, without any betas; expected those of Stable Diffusion, "
            "nothing else is built."
        )
    if _OTHER_NOISE.match(name := str(values.get("_class_name"))):
        raise ValueError(f"_class_name is {short(name)}, of models that add noise in another way, which are not built.")
    _check_fixed(values, "scheduler/scheduler_config.json")
    value = values.get("prediction_type", "epsilon")
    if value not in [*PREDICTIONS]:
        raise ValueError(
            f"prediction_type is {short(value)}; expected {' or '.join(PREDICTIONS)}, nothing else is built."
        )
    if len(missing := sorted(_BETAS - values.keys())) not in (0, len(_BETAS)):
        usual = FILES["fixed"]["scheduler/scheduler_config.json"]
        raise ValueError(
            f"{', '.join(missing)} are missing, for which diffusers has other values than Stable Diffusion; expected "
            f"{', '.join(f'{key} {usual[key]!r}' for key in missing)}."
        )
    return PREDICTIONS[value]


def _unet_config(values: Json) -> tuple[UNetConfig, int]:
    """The U-Net and the side of the latents that it was trained on."""
    channels, context = values["in_channels"], values["cross_attention_dim"]
    labels = values.get("class_embed_type") is not None
    width = _value(values, "block_out_channels", SD_V1.unet.widths)[0]
    if width in FULL_SIZE and (kind := unet_kind(channels, context, labels)):
        raise ValueError(f"in_channels {channels} and cross_attention_dim {context} make this {kind}.")
    _check_fixed(values, "unet/config.json")
    embeds = values.get("addition_embed_type")
    if embeds not in (None, "text_time"):
        raise ValueError(f"addition_embed_type is {embeds!r}; expected null or 'text_time', nothing else is built.")
    values = _complete(values, "unet/config.json", attention_head_dim=8)
    attention = _attends(values, "down_block_types", DOWN_BLOCKS)
    if attention != _attends(values, "up_block_types", UP_BLOCKS)[::-1]:
        raise ValueError(
            "up_block_types do not mirror down_block_types; each level has attention both ways or neither."
        )
    values["attention_head_dim"] = values.get("num_attention_heads", values["attention_head_dim"])
    for key in ("attention_head_dim", "transformer_layers_per_block"):
        if not isinstance(values[key], list):
            values[key] = [values[key]] * len(values["block_out_channels"])
    fields = _read(dict.fromkeys(SWITCHES, False) | values, UNET_FIELDS, _UNET_LIKE)
    if embeds:
        fields["vector_width"] = _value(values, "projection_class_embeddings_input_dim", 1)
    return _sane(UNetConfig(attention=attention, **fields)), _value(values, "sample_size", SD_V1.sample_size)


def _vae_config(values: Json, *, may_overflow: bool) -> VAEConfig:
    """`may_overflow` says whether the VAE of this kind of model does in float16, unless its file denies it."""
    _check_fixed(values, "vae/config.json")
    if values["in_channels"] != values["out_channels"]:
        raise ValueError(f"in_channels {values['in_channels']} and out_channels {values['out_channels']} differ.")
    widths = list(_value(values, "block_out_channels", SD_V1.vae.widths))
    for key, block in VAE_BLOCKS.items():
        blocks = [block] * len(widths) if values.get(key) is None else _block_types(values[key], key, (block,))
        if len(blocks) != len(widths):
            raise ValueError(f"{key} and block_out_channels {widths} have different lengths.")
    values = _complete(values, "vae/config.json", layers_per_block=1)  # not Stable Diffusion v1's
    upcast = may_overflow and bool(values.get("force_upcast", True))
    return _sane(VAEConfig(**_read(values, VAE_FIELDS, SD_V1.vae), upcast=upcast))


def _text(folder: Path, number: str, fields: Json, *, projects: bool = False) -> TextConfig:
    """The text encoder `number` of a folder, with `fields` of its configuration that no file says."""
    text = _parsed(folder / f"text_encoder{number}" / "config.json", partial(_text_config, projects=projects))
    pad_token = padding(folder / f"tokenizer{number}", default=padding_of(text))
    with _naming(folder):
        return replace(text, pad_token=pad_token, **fields)


def _text_config(values: Json, *, projects: bool) -> TextConfig:
    if isinstance(values.get("text_config"), dict):  # of a whole CLIP
        values = _CLIP_TEXT | values["text_config"]
    _check_fixed(values, "text_encoder/config.json")
    values = _complete(values, "text_encoder/config.json")
    if values["hidden_act"] not in ("quick_gelu", "gelu"):
        raise ValueError(f"hidden_act is {values['hidden_act']!r}; expected 'quick_gelu' or 'gelu'.")
    projection = _value(values, "projection_dim", 1) if projects else None
    return _sane(TextConfig(**_read(values, TEXT_FIELDS, SD_V1.text), projection_width=projection))
