"""`config.json` of a diffusers folder's components, read into our configurations and written from them.

What these files can say beyond our configurations is refused by name: a network that is almost the one described
gives pictures that are almost right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ebama.models import MINIATURE, SD_V1, StableDiffusionConfig, TextConfig, UNetConfig, VAEConfig

from ..errors import CheckpointError
from .detect import unet_kind

Json = Mapping[str, Any]
T = TypeVar("T")

# The only values we build; a key that is absent has this value in diffusers, too.
_UNET_FIXED: Json = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "use_linear_projection": False,
}
_VAE_FIXED: Json = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
_TEXT_FIXED: Json = {"layer_norm_eps": 1e-5}
_SCHEDULE_FIXED: Json = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "trained_betas": None,
}
"""What the network was trained with. The rest of a scheduler's file says how to sample: the caller's choice."""


def read_folder_config(folder: Path) -> StableDiffusionConfig:
    """The configuration of a diffusers folder, from its three `config.json`. Raises CheckpointError.

    Its scheduler's file, if there is one, must name the noise schedule of Stable Diffusion v1.
    """
    unet_file, vae_file, text_file = (folder / name / "config.json" for name in ("unet", "vae", "text_encoder"))
    unet_json = _read_json(unet_file)
    unet = _parsed(unet_file, _unet_config, unet_json)
    vae = _parsed(vae_file, _vae_config, _read_json(vae_file))
    text = _parsed(text_file, _text_config, _read_json(text_file))
    schedule_file = folder / "scheduler" / "scheduler_config.json"
    if schedule_file.is_file():
        schedule = _read_json(schedule_file)
        try:
            _check_fixed(schedule, _SCHEDULE_FIXED)
        except ValueError as error:
            raise CheckpointError(f"{schedule_file}: {error}") from error

    def combine(values: Json) -> StableDiffusionConfig:
        size = _single(values, "sample_size", SD_V1.sample_size)
        return StableDiffusionConfig(unet, vae, text, sample_size=size, name=_name(unet, text, folder))

    return _parsed(folder, combine, unet_json)


def _sane(config: T) -> T:
    """`config`, unless a number in it is so large that only building its network would take forever."""
    for name, value in vars(config).items():
        most = 100 if name in ("blocks", "depth", "layers") else 1_000_000
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and number > most:
                raise ValueError(f"{name} is {number:,}; expected at most {most:,}.")
    return config


def _name(unet: UNetConfig, text: TextConfig, folder: Path) -> str:
    """The preset with these networks, whatever its VAE; a folder of other networks is called by its own name."""
    for preset in (SD_V1, MINIATURE):
        if (unet, text) == (preset.unet, preset.text):
            return preset.name
    return folder.resolve().name


def _read_json(file: Path) -> Json:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; a diffusers folder needs it to say what the network is.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable JSON: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a {type(values).__name__}; expected a JSON object.")
    return values


def _parsed(file: Path, parse: Callable[[Json], T], values: Json) -> T:
    """Run `parse`, with the file's name in front of whatever it complains about."""
    try:
        return _sane(parse(values))
    except KeyError as error:
        raise CheckpointError(f"{file} lacks {error}.") from error
    except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def _check_fixed(values: Json, fixed: Json) -> None:
    for key, expected in fixed.items():
        if (value := values.get(key, expected)) != expected:
            raise ValueError(f"{key} is {value!r}; Stable Diffusion v1 has {expected!r}, and nothing else is built.")


def _single(values: Json, key: str, default: int) -> int:
    """A value that may be written once or once per level (or side), where all must be equal."""
    value = values.get(key)
    if value is None:
        return default
    if isinstance(value, list):
        if not value or any(v != value[0] for v in value):
            raise ValueError(f"{key} is {value!r}; only equal entries are supported.")
        value = value[0]
    number: int = value  # anything else is refused by the configuration's own checks
    return number


def _flags(values: Json, key: str, kinds: Mapping[str, bool], default: list[str]) -> tuple[bool, ...]:
    blocks = values.get(key, default)
    for block in blocks:
        if block not in kinds:
            raise ValueError(f"{key} names {block!r}; expected {' or '.join(kinds)}.")
    return tuple(kinds[block] for block in blocks)


def _unet_config(values: Json) -> UNetConfig:
    channels, context = values["in_channels"], values["cross_attention_dim"]
    if values["block_out_channels"][0] == SD_V1.unet.widths[0] and (kind := unet_kind(channels, context)):
        raise ValueError(f"in_channels {channels} and cross_attention_dim {context} make this {kind}.")
    _check_fixed(values, _UNET_FIXED)
    widths = tuple(values["block_out_channels"])
    down = _flags(values, "down_block_types", _DOWN, [_down(True)] * 3 + [_down(False)])
    up = _flags(values, "up_block_types", _UP, [_up(False)] + [_up(True)] * 3)
    if down != up[::-1]:
        raise ValueError(
            "up_block_types do not mirror down_block_types; each level has attention both ways or neither."
        )
    # diffusers' "attention_head_dim" has always meant the number of heads in these networks.
    heads = values.get("num_attention_heads") or values.get("attention_head_dim") or 8
    return UNetConfig(
        widths=widths,
        attention=down,
        heads=tuple(heads) if isinstance(heads, list) else (heads,) * len(widths),
        blocks=_single(values, "layers_per_block", 2),
        depth=_single(values, "transformer_layers_per_block", 1),
        context_width=context,
        norm_groups=values.get("norm_num_groups", 32),
        in_channels=channels,
        out_channels=values["out_channels"],
    )


def _down(attends: bool) -> str:
    return "CrossAttnDownBlock2D" if attends else "DownBlock2D"


def _up(attends: bool) -> str:
    return "CrossAttnUpBlock2D" if attends else "UpBlock2D"


_DOWN = {_down(attends): attends for attends in (True, False)}
_UP = {_up(attends): attends for attends in (True, False)}


def _vae_config(values: Json) -> VAEConfig:
    _check_fixed(values, _VAE_FIXED)
    if values["in_channels"] != values["out_channels"]:
        raise ValueError(f"in_channels {values['in_channels']} and out_channels {values['out_channels']} differ.")
    widths = tuple(values["block_out_channels"])
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if len(_flags(values, key, {kind: True}, [kind] * len(widths))) != len(widths):
            raise ValueError(f"{key} and block_out_channels {list(widths)} have different lengths.")
    return VAEConfig(
        widths=widths,
        blocks=_single(values, "layers_per_block", 1),
        latent_channels=values["latent_channels"],
        image_channels=values["in_channels"],
        norm_groups=values.get("norm_num_groups", 32),
        mid_attention=values.get("mid_block_add_attention", True),
        scale=values.get("scaling_factor", 0.18215),
    )


def _text_config(values: Json) -> TextConfig:
    _check_fixed(values, _TEXT_FIXED)
    if (activation := values.get("hidden_act", "quick_gelu")) not in ("quick_gelu", "gelu"):
        raise ValueError(f"hidden_act is {activation!r}; expected 'quick_gelu' or 'gelu'.")
    return TextConfig(
        vocabulary=values["vocab_size"],
        width=values["hidden_size"],
        mlp_width=values["intermediate_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        positions=values["max_position_embeddings"],
        activation=activation,
    )


def folder_jsons(config: StableDiffusionConfig) -> dict[str, dict[str, object]]:
    """The JSON files of a diffusers folder by relative path, so that diffusers builds `config`'s networks."""
    unet, vae, text = config.unet, config.vae, config.text
    return {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.42.1",
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "PNDMScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "trained_betas": None,
        },
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel",
            **{key: value for key, value in _UNET_FIXED.items() if value is not None and key in _UNET_WRITTEN},
            "attention_head_dim": list(unet.heads),
            "block_out_channels": list(unet.widths),
            "cross_attention_dim": unet.context_width,
            "down_block_types": [_down(attends) for attends in unet.attention],
            "in_channels": unet.in_channels,
            "layers_per_block": unet.blocks,
            "norm_num_groups": unet.norm_groups,
            "out_channels": unet.out_channels,
            "sample_size": config.sample_size,
            "transformer_layers_per_block": unet.depth,
            "up_block_types": [_up(attends) for attends in unet.attention[::-1]],
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": list(vae.widths),
            "down_block_types": ["DownEncoderBlock2D"] * len(vae.widths),
            "in_channels": vae.image_channels,
            "latent_channels": vae.latent_channels,
            "layers_per_block": vae.blocks,
            "mid_block_add_attention": vae.mid_attention,
            "norm_num_groups": vae.norm_groups,
            "out_channels": vae.image_channels,
            "sample_size": config.sample_size * vae.factor,
            "scaling_factor": vae.scale,
            "up_block_types": ["UpDecoderBlock2D"] * len(vae.widths),
        },
        "text_encoder/config.json": {
            "architectures": ["CLIPTextModel"],
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "hidden_act": text.activation,
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width,
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": text.positions,
            "model_type": "clip_text_model",
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.layers,
            "pad_token_id": 49407,
            "vocab_size": text.vocabulary,
        },
    }


_UNET_WRITTEN = {"act_fn", "downsample_padding", "flip_sin_to_cos", "freq_shift", "mid_block_type", "norm_eps"}
