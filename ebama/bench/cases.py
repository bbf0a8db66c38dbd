"""The cases: what one round of each is, as this library does it, and what a process is told that measures one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebama.samplers import DDIM
from ebama.samplers.sampler import BeforeStep, Denoise
from ebama.weights import StableDiffusion, load

from .. import methods
from ..pipeline import Pipeline
from ..runtime.arithmetic import usable_arithmetic
from ..smoothing import gaussian_peak
from . import smoothing  # noqa: F401 (it tells the meter how many operations a peak takes)
from .meter import Meter

PROMPT = "a purple crown and a blue suitcase"
PAIR = ("a red car", "a blue car")
BOXES = {"crown": (0, 0.2, 0.5, 0.8), "suitcase": (0.5, 0.2, 1, 0.8)}
"""For methods that make one picture from another."""

IMPORTS = {
    "package": "import ebama",
    "help": "import ebama.cli; ebama.cli.main(['--help'])",
    "pipeline": "from ebama import Pipeline",
}
PARTS = {"batch": ("1", "4"), "import": tuple(IMPORTS)}
"""The parts of a case, measured in turn; those of `images` are the methods."""


@dataclass(frozen=True)
class Setting:
    """The task of one process: a case (`name` or `name:part`), whose, on which model and how.

    Attributes:
        side: "ours" or "diffusers".
        weights: folder of the model, or None for the embedded miniature.
        threads: of PyTorch; None leaves its own choice.
        steps: of whole pictures.
    """

    case: str
    side: str = "ours"
    weights: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    steps: int = 50

    @property
    def name(self) -> str:
        """The case without its part."""
        return self.case.partition(":")[0]

    @property
    def part(self) -> str:
        """The text after the colon, or nothing."""
        return self.case.partition(":")[2]


def expanded(chosen: Sequence[str], methods: Sequence[str]) -> list[str]:
    """The cases of these names with their parts, each once; ValueError for a name that is none, with those there are.

    `images:METHOD` and `batch:N` are names, too.
    """
    cases: list[str] = []
    for case in chosen:
        name, colon, part = case.partition(":")
        parts = methods if name == "images" else PARTS.get(name, ())
        known = part in parts or (name == "batch" and part.isdecimal() and len(part) <= 4 and int(part) > 0)
        if name not in CASES or (colon and not known):
            raise ValueError(
                f"There is no case {case[:80]!r}; choose among {', '.join(CASES)} (or one part, as images:sd, or "
                "batch:N with N of at most four digits)."
            )
        cases += [case] if colon else [f"{name}:{part}" for part in parts] or [name]
    return list(dict.fromkeys(cases))


@dataclass(frozen=True)
class OneCall(DDIM):
    """Stands in for a sampler: makes the first model call, what precedes it included, as often as it is wanted."""

    measure: Callable[[Callable[[], object]], None] = lambda work: None

    def sample(self, denoise: Denoise, z: Tensor, *, before_step: BeforeStep | None = None, **_: Any) -> Tensor:
        """Never moves on."""
        t = self.timesteps[0]
        self.measure(lambda: denoise(before_step(z, t, 0) if before_step else z, t))
        return z


def _forward(setting: Setting, meter: Meter) -> None:
    """U-Net, one row, no gradient."""
    sd = _opened(setting)
    context = sd.encode_text([PROMPT])
    z = noise(sd.config.sample_size).to(context)
    with torch.no_grad(), usable_arithmetic(z.device, z.dtype):
        meter.measure(lambda: sd.unet(z, 981, context))


def _call(method: methods.Choice, setting: Setting, meter: Meter) -> None:
    """One model call: both rows of guidance, and for ebama one step before it with its attention pass and backward."""
    pipeline = Pipeline(_opened(setting))
    pipeline(PROMPT, method=method, sampler=OneCall(steps=50, measure=meter.measure), parser="rules", progress=False)


def _decode(setting: Setting, meter: Meter) -> None:
    """VAE, one latent to a picture."""
    sd = _opened(setting)
    pipeline, latent = Pipeline(sd), noise(sd.config.sample_size)
    meter.measure(lambda: pipeline.decode(latent))


def _images(setting: Setting, meter: Meter) -> None:
    """A whole picture of a method, on the miniature."""
    choice = methods.get(setting.part)
    prompt = PAIR if choice.method.edits_prompts else PROMPT
    boxes = BOXES if choice.needs.boxes else None
    pipeline = Pipeline(_opened(setting))
    meter.measure(
        lambda: pipeline(prompt, method=choice, steps=setting.steps, parser="rules", progress=False, boxes=boxes)
    )


def _batch(setting: Setting, meter: Meter) -> None:
    """Some pictures in one call, on the miniature."""
    pipeline, seeds = Pipeline(_opened(setting)), range(int(setting.part))
    meter.measure(lambda: pipeline(PROMPT, seeds=seeds, steps=setting.steps, parser="rules", progress=False))


def measure_peaks(peaks: Callable[[Tensor], Tensor], setting: Setting, meter: Meter) -> None:
    """Peaks [8] of smoothed maps [8, 16, 16] and their gradient, 100 times."""
    maps = torch.rand(8, 16, 16, device=setting.device, requires_grad=True)

    def work() -> None:
        for _ in range(100):
            torch.autograd.grad(peaks(maps).sum(), maps)

    meter.measure(work)


def _loading(setting: Setting, meter: Meter) -> None:
    """A checkpoint from files to networks."""
    meter.measure(lambda: _opened(setting))


def _import(setting: Setting, meter: Meter) -> None:
    """A fresh Python that imports the package, shows the help, imports the pipeline."""
    meter.measure(lambda: fresh_python(IMPORTS[setting.part]))


CASES: dict[str, Callable[[Setting, Meter], None]] = {
    "forward": _forward,
    "guided": partial(_call, methods.get("ebama", initial_steps=1)),
    "unguided": partial(_call, methods.get("sd")),
    "decode": _decode,
    "images": _images,
    "batch": _batch,
    "smoothing": partial(measure_peaks, gaussian_peak),
    "loading": _loading,
    "import": _import,
}
"""Each prepares and hands its work to the meter, whose Stop ends it."""


def fresh_python(code: str) -> None:
    """Run code in a new interpreter that finds the same package."""
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); {code}"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def _opened(setting: Setting) -> StableDiffusion:
    return load(setting.weights, device=setting.device, dtype=getattr(torch, setting.dtype))


def noise(size: int) -> Tensor:
    """A latent [1, 4, size, size]."""
    return torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))
