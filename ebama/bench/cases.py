"""The library's side of every case: each prepares and hands its work to the meter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ebama.samplers import DDIM
from ebama.samplers.schedule import BeforeStep, Denoise, Progress
from ebama.weights import StableDiffusion, load

from .. import methods
from ..pipeline import Pipeline
from ..runtime.arithmetic import usable_arithmetic
from ..smoothing import gaussian_peak
from .meter import Meter
from .settings import PAIR, PROMPT, Setting


@dataclass(frozen=True)
class OneCall(DDIM):
    """Stands in for a sampler: makes the first model call, what precedes it included, as often as it is wanted."""

    measure: Callable[[Callable[[], object]], None] = lambda work: None

    def sample(
        self,
        denoise: Denoise,
        z: Tensor,
        *,
        before_step: BeforeStep | None = None,
        progress: Progress | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Never moves on."""
        t = self.timesteps[0]
        self.measure(lambda: denoise(before_step(z, t, 0) if before_step else z, t))
        return z


def run(setting: Setting, meter: Meter) -> None:
    """Measure the case; ends by the meter's Stop."""
    _CASES[setting.name](setting, meter)


def _forward(setting: Setting, meter: Meter) -> None:
    sd = opened(setting)
    like = next(sd.unet.parameters())
    z, context = _latent(sd).to(like), sd.encode_text([PROMPT])
    with torch.no_grad(), usable_arithmetic(like.device, like.dtype):
        meter.measure(lambda: sd.unet(z, 981, context))


def _call(method: methods.Method, setting: Setting, meter: Meter) -> None:
    pipeline = Pipeline(opened(setting))
    pipeline(PROMPT, method=method, sampler=OneCall(steps=50, measure=meter.measure), parser="rules", progress=False)


def _decode(setting: Setting, meter: Meter) -> None:
    sd = opened(setting)
    pipeline, latent = Pipeline(sd), _latent(sd)
    meter.measure(lambda: pipeline.decode(latent))


def _images(setting: Setting, meter: Meter) -> None:
    method = methods.get(setting.part)
    prompt = PAIR if method.edits_prompts else PROMPT
    pipeline = Pipeline(opened(setting))
    meter.measure(lambda: pipeline(prompt, method=method, steps=setting.steps, parser="rules", progress=False))


def _batch(setting: Setting, meter: Meter) -> None:
    pipeline, seeds = Pipeline(opened(setting)), range(int(setting.part))
    options = {"steps": setting.steps, "parser": "rules", "progress": False}
    meter.measure(lambda: pipeline(PROMPT, seeds=seeds, **options))  # type: ignore[arg-type]


def _smoothing(setting: Setting, meter: Meter) -> None:
    maps = torch.rand(8, 16, 16, device=setting.device, requires_grad=True)

    def work() -> None:
        for _ in range(100):
            torch.autograd.grad(gaussian_peak(maps).sum(), maps)

    meter.measure(work)


def _loading(setting: Setting, meter: Meter) -> None:
    meter.measure(lambda: opened(setting))


def _import(setting: Setting, meter: Meter) -> None:
    code = {
        "package": "import ebama",
        "help": "import ebama.cli; ebama.cli.main(['--help'])",
        "pipeline": "from ebama import Pipeline",
    }
    meter.measure(partial(fresh_python, code[setting.part]))


_CASES: dict[str, Callable[[Setting, Meter], None]] = {
    "forward": _forward,
    "guided": partial(_call, methods.get("ebama", initial_steps=1)),
    "unguided": partial(_call, methods.get("sd")),
    "decode": _decode,
    "images": _images,
    "batch": _batch,
    "smoothing": _smoothing,
    "loading": _loading,
    "import": _import,
}


def fresh_python(code: str) -> None:
    """Run code in a new interpreter that finds the same package."""
    root = str(Path(__file__).resolve().parents[2])
    found = f"import sys; sys.path.insert(0, {root!r}); {code}"
    subprocess.run([sys.executable, "-c", found], check=True, stdout=subprocess.DEVNULL)


def opened(setting: Setting) -> StableDiffusion:
    """The model of a setting."""
    return load(setting.weights, device=setting.device, dtype=getattr(torch, setting.dtype))


def _latent(sd: StableDiffusion) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = sd.config.sample_size
    return torch.randn(1, sd.config.unet.in_channels, size, size, generator=generator)
