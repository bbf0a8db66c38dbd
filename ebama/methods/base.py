"""What a method is: a frozen dataclass of hyper-parameters that may act in three places of the sampling loop."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ebama.models import MINIATURE, Control, StableDiffusionConfig, UNet

from ..prompt import Parsed

Guide = Callable[[Tensor, int, int], "tuple[Tensor, Tensor | None]"]
"""(z, t, i) -> (new z, losses [B] or None if call i is not guided); i is the index of the model call."""

MethodType = TypeVar("MethodType", bound="Method")


@dataclass(frozen=True)
class Task:
    """A batch of samples to make: one parsed prompt per sample and its text encodings, [B, 77, D]."""

    unet: UNet
    config: StableDiffusionConfig
    prompts: Sequence[Parsed]
    text: Tensor
    negative_text: Tensor
    guidance: float
    calls: int


@dataclass(frozen=True)
class Conditioning:
    """Which contexts the U-Net sees and how their noise estimates combine.

    epsilon = e_0 + sum_j weights[j] (e_{j+1} - e_0) for `contexts` [n, B, 77, D] and `weights` [n - 1, B]. `main` is
    the index of the context that stands for the prompt; it is the one whose attention a trace shows.
    """

    contexts: Tensor
    weights: Tensor
    main: int


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods: plain Stable Diffusion, until a subclass overrides one of the three places.

    A hyper-parameter left at None takes the value in `defaults` for the model at hand ("sd-v1", "miniature");
    `resolved` fills them in.
    """

    name: ClassVar[str]
    needs_groups: ClassVar[bool] = False
    defaults: ClassVar[dict[str, dict[str, Any]]] = {}

    def resolved(self: MethodType, config: StableDiffusionConfig) -> MethodType:
        """The same method with every open hyper-parameter decided for a model of this shape."""
        kind = "miniature" if config.unet == MINIATURE.unet else "sd-v1"
        open_fields = {f.name for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **{k: v for k, v in self.defaults.get(kind, {}).items() if k in open_fields})

    def conditioning(self, task: Task) -> Conditioning:
        """Classifier-free guidance, e_u + w (e_c - e_u); without guidance (w = 1) only the prompt is run."""
        if task.guidance == 1:
            return Conditioning(task.text[None], task.text.new_zeros(0, len(task.text)), main=0)
        weights = task.text.new_full((1, len(task.text)), task.guidance)
        return Conditioning(torch.stack([task.negative_text, task.text]), weights, main=1)

    def control(self, task: Task) -> Control | None:
        """What rewrites attention in the noise prediction; its batch is that of `conditioning`, flattened [n B]."""
        return None

    def guide(self, task: Task) -> Guide | None:
        """What moves the latent before each model call."""
        return None

    def describe(self) -> dict[str, Any]:
        """Name and hyper-parameters, as recorded in every output."""
        return {"name": self.name, **asdict(self)}
