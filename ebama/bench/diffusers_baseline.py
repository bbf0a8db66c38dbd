"""The same cases as diffusers does them: its Attend-and-Excite pipeline, from the same files."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .cases import PROMPT, Setting, fresh_python, measure_peaks, noise
from .meter import Meter

PIPELINE = "StableDiffusionAttendAndExcitePipeline"
_OBJECTS = [3, 7]
"""Positions of crown and suitcase in the prompt."""


def available() -> str:
    """The version that is installed. Raises ValueError with what to do if there is none, or it lacks the pipeline."""
    try:
        diffusers: Any = importlib.import_module("diffusers")
        getattr(diffusers, PIPELINE)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"--against diffusers needs diffusers with its {PIPELINE} ({error}); install it with "
            "pip install 'ebama[parity]'."
        ) from error
    return str(diffusers.__version__)


def has(case: str) -> bool:
    """Whether diffusers does that case, of some only a part."""
    name, _, part = case.partition(":")
    return name in CASES and part in ("", {"images": "ane", "import": "pipeline"}.get(name))


def _opened(setting: Setting) -> Any:
    diffusers: Any = importlib.import_module("diffusers")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    pipeline = getattr(diffusers, PIPELINE).from_pretrained(
        setting.weights,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        torch_dtype=getattr(torch, setting.dtype),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(setting.device)
    return pipeline


def _forward(setting: Setting, meter: Meter) -> None:
    pipeline = _opened(setting)
    z = noise(pipeline.unet.config.sample_size).to(pipeline.device, pipeline.unet.dtype)
    context = torch.randn(1, 77, pipeline.unet.config.cross_attention_dim).to(z)
    with torch.no_grad():
        meter.measure(lambda: pipeline.unet(z, 981, encoder_hidden_states=context).sample)


def _call(guided: bool, setting: Setting, meter: Meter) -> None:
    """The pipeline's own loop, a round being what lies between two of its callbacks. No refinement steps."""
    warm = False

    def callback(*_: object) -> None:
        nonlocal warm
        if warm:
            meter.end()
        warm = True
        meter.begin()

    _picture(_opened(setting), max_iter_to_alter=10**6 if guided else 0, thresholds={}, callback=callback)


def _picture(pipeline: Any, **options: Any) -> None:
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    pipeline(PROMPT, _OBJECTS, height=size, width=size, attn_res=(16, 16), **options)


def _decode(setting: Setting, meter: Meter) -> None:
    pipeline = _opened(setting)
    z = noise(pipeline.unet.config.sample_size).to(pipeline.device, pipeline.vae.dtype)
    z /= pipeline.vae.config.scaling_factor
    with torch.no_grad():
        meter.measure(lambda: pipeline.image_processor.postprocess(pipeline.vae.decode(z, return_dict=False)[0]))


def _ane_picture(setting: Setting, meter: Meter) -> None:
    pipeline = _opened(setting)
    meter.measure(lambda: _picture(pipeline, num_inference_steps=setting.steps))


def _smoothing(setting: Setting, meter: Meter) -> None:
    """As its loss does: a convolution for each map."""
    module: Any = importlib.import_module(getattr(importlib.import_module("diffusers"), PIPELINE).__module__)
    smooth = module.GaussianSmoothing().to(setting.device)

    def peaks(maps: Tensor) -> Tensor:
        padded = [F.pad(m[None, None], (1, 1, 1, 1), mode="reflect") for m in maps]
        return torch.stack([smooth(m).max() for m in padded])

    measure_peaks(peaks, setting, meter)


CASES: dict[str, Callable[[Setting, Meter], None]] = {
    "forward": _forward,
    "guided": partial(_call, True),
    "unguided": partial(_call, False),
    "decode": _decode,
    "images": _ane_picture,
    "smoothing": _smoothing,
    "loading": lambda setting, meter: meter.measure(lambda: _opened(setting)),
    "import": lambda _, meter: meter.measure(lambda: fresh_python(f"from diffusers import {PIPELINE}")),
}
