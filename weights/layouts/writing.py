"""The JSON files of a diffusers folder, written from a configuration by the tables that they are read by."""

from __future__ import annotations

from collections.abc import Mapping

from ebama.models import StableDiffusionConfig

from .diffusers import (
    DOWN_BLOCKS,
    FILES,
    OF_TWO,
    PREDICTIONS,
    SWITCHES,
    TEXT_FIELDS,
    UNET_FIELDS,
    UP_BLOCKS,
    VAE_BLOCKS,
    VAE_FIELDS,
    Json,
)


def folder_jsons(config: StableDiffusionConfig) -> dict[str, Json]:
    """The JSON files of a diffusers folder by relative path, so that diffusers builds `config`'s networks."""
    two = config.text_2 is not None
    expected = tuple(OF_TWO.values()) if two else (-1, True)
    for text in config.texts:
        if (text.output_layer, text.final_norm) != expected:
            raise ValueError(
                f"output_layer {text.output_layer} and final_norm {text.final_norm} have no place in a config.json of "
                f"transformers; save with {expected[0]} and {expected[1]}, and give the others to "
                "load(..., config=...)."
            )
    files: dict[str, Json] = {name: dict(values) for name, values in FILES["written"].items()}
    files["unet/config.json"] |= _unet_json(config)
    files["vae/config.json"] |= {
        **_written(config.vae, VAE_FIELDS),
        "sample_size": config.sample_size * config.vae.factor,
        **{key: [block] * len(config.vae.widths) for key, block in VAE_BLOCKS.items()},
    }
    files["text_encoder/config.json"] |= _written(config.text, TEXT_FIELDS)
    schedule, theirs = files["scheduler/scheduler_config.json"], {ours: name for name, ours in PREDICTIONS.items()}
    schedule["prediction_type"] = theirs[config.prediction]
    if config.text_2 is not None:
        files["vae/config.json"]["force_upcast"] = config.vae.upcast
        files["text_encoder_2/config.json"] = {
            **files["text_encoder/config.json"],
            **_written(config.text_2, TEXT_FIELDS),
            "architectures": ["CLIPTextModelWithProjection"],
            "projection_dim": config.text_2.projection_width,
        }
        index = FILES["two text encoders"]["model_index.json"]
        files["model_index.json"] = index | {"force_zeros_for_empty_prompt": config.zero_empty_prompt}
    return files


def _unet_json(config: StableDiffusionConfig) -> Json:
    unet = config.unet
    values = {
        **_written(unet, UNET_FIELDS),
        "sample_size": config.sample_size,
        "down_block_types": [DOWN_BLOCKS[attends] for attends in unet.attention],
        "up_block_types": [UP_BLOCKS[attends] for attends in unet.attention[::-1]],
    }
    if unet.vector_width:
        values |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": config.number_width,
            "projection_class_embeddings_input_dim": unet.vector_width,
        }
    return {key: value for key, value in values.items() if value or key not in SWITCHES}


def _written(config: object, fields: Mapping[str, str]) -> Json:
    values = {key: getattr(config, field) for key, field in fields.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
