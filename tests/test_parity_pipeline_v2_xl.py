"""Whole models of the kinds of Stable Diffusion 2 and XL against the pipelines of diffusers, on random weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import TINY_V2, TINY_V2_V, TINY_XL, normal, random_model, relative
from safetensors.torch import load_file

from ebama.models import StableDiffusionConfig
from ebama.pipeline import Pipeline
from ebama.samplers import DDIM, PNDM, NoiseSchedule
from ebama.weights import StableDiffusion, load, save

diffusers = pytest.importorskip("diffusers")
utils = pytest.importorskip("diffusers.loaders.single_file_utils")

pytestmark = pytest.mark.slow
PROMPTS = ["a purple crown and a blue suitcase", "a cat and a frog"]
CONFIGS = (TINY_V2, TINY_V2_V, TINY_XL)


Opened = tuple[StableDiffusion, Any, Path]


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: config.name)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """A model of ours, and the pipeline that diffusers makes of the folder that we write."""
    config: StableDiffusionConfig = request.param
    folder = tmp_path_factory.mktemp("models") / config.name
    sd = random_model(config)
    save(sd, folder)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe).__name__ == ("StableDiffusionXLPipeline" if config.text_2 else "StableDiffusionPipeline")
    return sd, pipe, folder


def theirs_for(pipe: Any, name: str, config: StableDiffusionConfig) -> Any:
    """Their pipeline with their scheduler as Stable Diffusion has it."""
    kind, options = (
        (diffusers.DDIMScheduler, {"clip_sample": False})
        if name == "ddim"
        else (
            diffusers.PNDMScheduler,
            {"skip_prk_steps": True},
        )
    )
    pipe.scheduler = kind(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        prediction_type={"epsilon": "epsilon", "v": "v_prediction"}[config.prediction],
        **options,
    )
    return pipe


@torch.no_grad()
def test_text_and_pooled_vectors(opened: Opened) -> None:
    sd, pipe, _ = opened
    texts = [*PROMPTS, ""]
    if sd.config.text_2 is None:
        expected, *_ = pipe.encode_prompt(texts, "cpu", 1, False)
        assert relative(sd.encode_text(texts), expected) <= 1e-5
    else:
        expected, _, their_pooled, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
        context, pooled = sd.encode_text(texts, pooled=True)
        assert relative(context, expected) <= 1e-5
        assert relative(pooled, their_pooled) <= 1e-5


@torch.no_grad()
def test_vae(opened: Opened) -> None:
    sd, pipe, _ = opened
    z = normal(2, 4, 8, 6)
    assert relative(sd.vae.decode(z), pipe.vae.decode(z).sample) <= 1e-5
    assert sd.vae.scale == pipe.vae.config.scaling_factor


@pytest.mark.parametrize("negative", ["", "blurry"])
@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_final_latents(opened: Opened, name: str, negative: str) -> None:
    """8 steps, more than PNDM looks back, at guidance 7.5; without a negative prompt theirs is None, for which XL has
    zeros."""
    sd, pipe, _ = opened
    pipe, latents = theirs_for(pipe, name, sd.config), normal(2, 4, 16, 12)
    height, width = (side * sd.config.vae.factor for side in latents.shape[2:])
    expected = pipe(
        PROMPTS,
        height=height,
        width=width,
        latents=latents,
        num_inference_steps=8,
        guidance_scale=7.5,
        negative_prompt=[negative] * 2 if negative else None,
        output_type="latent",
    ).images
    options: dict[str, Any] = {"method": "sd", "steps": 8, "output": "latent", "progress": False, "parser": "rules"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Pipeline(sd)(PROMPTS, latents=latents, sampler=name, negative_prompt=negative, **options)
    assert relative(found.latents, expected) <= 1e-4
    schedule = NoiseSchedule(prediction=sd.config.prediction)
    sampler = (DDIM if name == "ddim" else PNDM)(8, schedule=schedule)
    again = Pipeline(sd)(PROMPTS, latents=latents, sampler=sampler, negative_prompt=negative, **options)
    assert torch.equal(again.latents, found.latents)


def test_sizes_are_theirs(opened: Opened) -> None:
    sd, pipe, _ = opened
    if sd.config.text_2 is None:
        return  # it takes no sizes
    pipe, latents = theirs_for(pipe, "ddim", sd.config), normal(1, 4, 16, 16)
    expected = pipe(
        PROMPTS[:1],
        height=32,
        width=32,
        latents=latents,
        num_inference_steps=5,
        guidance_scale=7.5,
        output_type="latent",
        original_size=(512, 300),
        crops_coords_top_left=(5, 7),
        target_size=(900, 1000),
    ).images
    found = Pipeline(sd)(
        PROMPTS[:1],
        method="sd",
        latents=latents,
        steps=5,
        sampler="ddim",
        output="latent",
        progress=False,
        original_size=(512, 300),
        crop=(5, 7),
        target_size=(900, 1000),
    )
    assert relative(found.latents, expected) <= 1e-4


def test_from_their_folder(opened: Opened, tmp_path: Path) -> None:
    """What diffusers saves opens as the same model."""
    sd, pipe, _ = opened
    pipe.scheduler = theirs_for(pipe, "pndm", sd.config).scheduler
    pipe.save_pretrained(tmp_path / sd.config.name)
    found = load(tmp_path / sd.config.name)
    assert found.config == sd.config
    assert found.fingerprint() == sd.fingerprint()
    assert torch.equal(found.encode_text(["a cat!"]), sd.encode_text(["a cat!"]))


def test_their_converters_read_our_single_file(opened: Opened, tmp_path: Path) -> None:
    """Bit for bit: each network of the single file by their rules is the one of the folder."""
    sd, pipe, _ = opened
    save(sd, tmp_path / "m.safetensors", layout="compvis")
    state = load_file(tmp_path / "m.safetensors")
    openclip = ("text_encoder", "cond_stage_model.model.")
    if sd.config.text_2 is not None:
        openclip = ("text_encoder_2", "conditioner.embedders.1.model.")
    text = getattr(pipe, openclip[0])
    converted = {
        "unet": utils.convert_ldm_unet_checkpoint(dict(state), pipe.unet.config),
        "vae": utils.convert_ldm_vae_checkpoint(dict(state), pipe.vae.config),
        openclip[0]: utils.convert_open_clip_checkpoint(text, dict(state), prefix=openclip[1]),
    }
    for name, weights in converted.items():
        expected = {key.removeprefix("text_model."): w for key, w in getattr(pipe, name).state_dict().items()}
        found = {key.removeprefix("text_model."): w for key, w in weights.items()}
        assert found.keys() >= expected.keys() - {"embeddings.position_ids"}
        for key in expected.keys() & found.keys():
            assert torch.equal(found[key].reshape(expected[key].shape), expected[key]), key
