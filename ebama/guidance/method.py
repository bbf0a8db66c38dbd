"""The base of all methods: a frozen dataclass of hyper-parameters that may act in three places of the sampling loop."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ebama.models import Control, StableDiffusionConfig, UNet

from ..prompt import Group, Parsed, Tokenizer
from .options import apply_rules


class GuidanceResult(NamedTuple):
    """The outcome of a guide before one model call: the new latents [B, 4, h, w], and of each sample the loss and its
    gradient's norm at the last step, [B], NaN where it was left alone; None if the call is not guided."""

    latents: Tensor
    losses: Tensor | None = None
    gradient_norms: Tensor | None = None


Guide = Callable[[Tensor, int, int], GuidanceResult]
"""(z, t, i) -> what was done to z before model call i at timestep t."""

Controls = Callable[[int], "Control | None"]
"""i -> what rewrites attention in model call i, or None if nothing does."""


@dataclass(frozen=True)
class Needs:
    """A method's requirements: `groups` (the prompt's objects), `phrases` (its noun phrases), the attention
    sites that it reads or rewrites, in words, and whether it takes a gradient through them."""

    groups: bool = False
    phrases: bool = False
    sites: str = "none"
    gradient: bool = False


@dataclass(frozen=True)
class Cost:
    """The cost of one image at most, in passes of a single sample through the U-Net.

    `predictions` are whole forwards, `attention` forwards that stop at the last site that is read, `backwards` the
    backward passes from there.
    """

    predictions: int
    attention: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class Task:
    """A batch of samples to make.

    Attributes:
        prompts: one for each sample, B in all.
        text: their encodings [B, 77, D]; `negative_text` those of the negative prompt.
        encode: encodes further texts, -> [n, 77, D].
        steps: the sampler's; calls: how many model calls it makes for them.
        prompts_per_group: samples come in groups of this many that share their initial latent, one for each prompt of
            the pipeline's call; 1 unless the method `edits_prompts`.
        checkpoint: compute activations of guided passes again for the gradient instead of keeping them.
    """

    unet: UNet
    config: StableDiffusionConfig
    prompts: Sequence[Parsed]
    text: Tensor
    negative_text: Tensor
    encode: Callable[[Sequence[str]], Tensor]
    tokenizer: Tokenizer
    guidance: float
    steps: int
    calls: int
    prompts_per_group: int = 1
    checkpoint: bool = False

    @property
    def groups(self) -> list[tuple[Group, ...]]:
        """Objects and modifiers of each sample."""
        return [prompt.groups for prompt in self.prompts]

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        """Content positions of each sample."""
        return [prompt.tokens for prompt in self.prompts]


@dataclass(frozen=True)
class Conditioning:
    """Which rows the U-Net's batch has in a model call and how their noise estimates combine.

    Attributes:
        contexts: one for each row, [R, 77, D].
        sample_index: the sample whose latent each row sees, [R].
        weights: epsilon of sample b = sum over rows r of weights[b, r] e_r, [B, R] float32.
        prompt_rows: the row that stands for the prompt of each sample, [B]; a trace shows its attention.
    """

    contexts: Tensor
    sample_index: Tensor
    weights: Tensor
    prompt_rows: Tensor


def classifier_free(
    negative: Tensor, contexts: Tensor, samples: Sequence[int], weights: Sequence[float]
) -> Conditioning:
    """epsilon_b = e_b + sum over j with samples[j] = b of weights[j] (e_j - e_b).

    e_b is the estimate under `negative` [B, 77, D], e_j that under `contexts` [n, 77, D]. The rows are the negatives,
    then the contexts. The first context of each sample stands for its prompt.
    """
    count = len(negative)
    index = torch.tensor([*range(count), *samples])
    matrix = torch.zeros(count, len(index), dtype=torch.float32)
    for row, (sample, weight) in enumerate(zip(samples, weights, strict=True), start=count):
        matrix[sample, row] = weight
    matrix[:, :count] = torch.diag(1 - matrix.sum(dim=1))
    prompt_rows = torch.tensor([count + list(samples).index(sample) for sample in range(count)])
    device = negative.device
    return Conditioning(torch.cat([negative, contexts]), index.to(device), matrix.to(device), prompt_rows.to(device))


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods: plain Stable Diffusion, until a subclass overrides one of the three places.

    The defaults of options are Stable Diffusion v1's; `ebama.methods.presets` holds those of other models. `changes`
    and `reference` say what the method does and who published it, in a line each. A method that `edits_prompts` makes
    one prompt's image from another's, so all prompts of a seed run together.
    """

    name: ClassVar[str]
    changes: ClassVar[str]
    reference: ClassVar[str]
    needs: ClassVar[Needs] = Needs()
    edits_prompts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        apply_rules(self)

    def conditioning(self, task: Task) -> Conditioning:
        """Classifier-free guidance, e_u + w (e_c - e_u); without guidance (w = 1) only the prompt is run."""
        count = len(task.text)
        if task.guidance == 1:
            rows = torch.arange(count, device=task.text.device)
            return Conditioning(task.text, rows, torch.eye(count, dtype=torch.float32, device=task.text.device), rows)
        return classifier_free(task.negative_text, task.text, range(count), [task.guidance] * count)

    def control(self, task: Task, conditioning: Conditioning) -> Controls | None:
        """The control that rewrites attention in the noise predictions; its batch are the conditioning's rows."""
        return None

    def guide(self, task: Task) -> Guide | None:
        """The guide that moves the latent before each model call."""
        return None

    def cost(self, prompt: Parsed, calls: int) -> Cost:
        """The cost of an image of a prompt at most with classifier-free guidance."""
        return Cost(predictions=2 * calls)

    def describe(self) -> dict[str, Any]:
        """Name and hyper-parameters, as recorded in every output."""
        return {"name": self.name, **asdict(self)}
