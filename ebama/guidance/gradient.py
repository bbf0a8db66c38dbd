"""The one place where an energy over attention maps becomes steps of the latent."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ebama.models import AttentionRecords, Site

from ..prompt import Parsed
from .method import Cost, GuidanceResult, Guide, Method, Task
from .options import check_amounts

Energy = Callable[[AttentionRecords, list[int], int], Tensor]
"""(records, samples, i) -> losses [len(samples)], each a function of its own sample only.

The records hold the prompts' branch of those `samples` of the batch, in that order; i is the index of the model call.
"""

BASE_RESOLUTION = 16


@dataclass(frozen=True)
class Refinement:
    """Further steps at one model call: a sample whose loss exceeds `target` steps on until a loss that it saw did not,
    or `max_rounds` are made; then it makes the call's ordinary step."""

    target: float
    max_rounds: int


def guidance_resolution(task: Task, latent_shape: Sequence[int]) -> tuple[int, int]:
    """Side lengths of the maps that guide: 16x16 at the model's own size, scaled with the latent [..., h, w]; where no
    cross-attention site has them, those of the nearest in size."""
    return _base(task, latent_shape, _cross_sites(task, latent_shape))


def guidance_sites(task: Task, latent_shape: Sequence[int], *, finer: bool = False) -> list[Site]:
    """The cross-attention sites of that resolution, and with `finer` also those of higher ones."""
    cross = _cross_sites(task, latent_shape)
    base = _base(task, latent_shape, cross)
    return [site for site in cross if site.resolution == base or (finer and site.resolution > base)]


def _cross_sites(task: Task, latent_shape: Sequence[int]) -> list[Site]:
    return [site for site in task.unet.sites(latent_shape) if site.kind == "cross"]


def _base(task: Task, latent_shape: Sequence[int], cross: Sequence[Site]) -> tuple[int, int]:
    height, width = (BASE_RESOLUTION * side // task.config.sample_size for side in latent_shape[-2:])
    found = sorted({site.resolution for site in cross})
    return min(found, key=lambda at: abs(at[0] - height) + abs(at[1] - width), default=(height, width))


class GradientMethod(Method):
    """A method that is an energy: steps of the latent down its gradient, before the first `guided_steps` model calls.

    Subclasses hold `step_size` (at the first call) and `guided_steps` (resolved None: all) and say what the energy is.
    With `decay_step_size` it is Attend-and-Excite's, step_size sqrt(r_i) with r falling evenly from 1 to 0.5 over *all*
    calls. With `finer` the energy also sees the sites of higher resolutions.
    """

    step_size: float | None
    guided_steps: int | None
    decay_step_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_amounts(step_size=self.step_size)
        if self.guided_steps is not None and (type(self.guided_steps) is not int or self.guided_steps < 0):
            raise ValueError(
                f"guided_steps is {self.guided_steps!r}; expected a whole number of at least 0, or None for a default."
            )

    @abstractmethod
    def energy(self, task: Task) -> Energy:
        """What the steps make smaller."""

    def applies_to(self, prompt: Parsed) -> bool:
        """Whether the energy has something to act on, an object; if not, the prompt's samples are left alone, at no
        cost."""
        return bool(prompt.groups)

    def refinements(self) -> Mapping[int, Refinement]:
        """Model calls with further steps; those after the guided ones have none."""
        return {}

    @property
    def finer(self) -> bool:
        """See the class."""
        return False

    def step_sizes(self, calls: int) -> list[float]:
        """Of the guided ones among that many model calls."""
        assert self.step_size is not None
        ratios = [1 - 0.5 * i / max(calls - 1, 1) if self.decay_step_size else 1 for i in range(calls)]
        return [self.step_size * math.sqrt(ratio) for ratio in ratios[: self.guided_steps]]

    def guide(self, task: Task) -> Guide:
        """Gradient steps for the samples of prompts that it `applies_to`."""
        return gradient_guide(
            task,
            self.energy(task),
            self.step_sizes(task.calls),
            samples=[i for i, prompt in enumerate(task.prompts) if self.applies_to(prompt)],
            refinements=self.refinements(),
            finer=self.finer,
        )

    def cost(self, prompt: Parsed, calls: int) -> Cost:
        """Two predictions a call; one pass over the maps and one backward a guided call and a refinement round."""
        guided = range(calls)[: self.guided_steps] if self.applies_to(prompt) else range(0)
        passes = len(guided) + sum(r.max_rounds for i, r in self.refinements().items() if i in guided)
        return Cost(predictions=2 * calls, attention=passes, backwards=passes)


def gradient_guide(
    task: Task,
    energy: Energy,
    step_sizes: Sequence[float],
    *,
    samples: list[int],
    refinements: Mapping[int, Refinement],
    finer: bool,
) -> Guide:
    """z <- z - step_sizes[i] * dL/dz before each model call i that has a step size.

    Only `samples` are moved and paid for. The maps come from the prompt's branch alone, and the network
    runs only as far as they need. The gradient is plain: no normalisation, no clipping, no momentum. `finer` also
    records the sites of higher resolutions.
    """

    def differentiate(z: Tensor, t: int, i: int, chosen: list[int]) -> tuple[Tensor, Tensor]:
        # Whatever the caller is in, the gradient exists and the energy is computed in float32.
        with torch.inference_mode(False), torch.enable_grad():
            moving = z.detach().clone().requires_grad_(True)
            sites = guidance_sites(task, z.shape, finer=finer)
            text = task.text[chosen]
            latents, checkpoint = moving.to(text.dtype), task.checkpoint
            records = task.unet.attention(latents, t, text, sites=sites, checkpoint=checkpoint)
            with torch.autocast(z.device.type, enabled=False):
                losses = energy(records, chosen, i)
            if not losses.requires_grad:  # no sample has anything to gain
                return losses, torch.zeros_like(z)
            (gradient,) = torch.autograd.grad(losses.sum(), moving)
        return losses.detach(), gradient

    def guide(z: Tensor, t: int, i: int) -> GuidanceResult:
        if i >= len(step_sizes) or not samples:
            return GuidanceResult(z)
        z, losses, norms = z.clone(), z.new_full((len(z),), math.nan), z.new_full((len(z),), math.nan)

        def step(chosen: list[int]) -> None:
            found, gradient = differentiate(z[chosen], t, i, chosen)
            losses[chosen] = found.to(losses)
            norms[chosen] = gradient.flatten(1).norm(dim=1).to(norms)
            z[chosen] -= step_sizes[i] * gradient

        def above(chosen: list[int], target: float) -> list[int]:
            return [sample for sample in chosen if losses[sample] > target]

        step(samples)
        if refinement := refinements.get(i):
            entered = refining = above(samples, refinement.target)
            for _ in range(refinement.max_rounds - 1):  # the first round was the step above
                if refining:
                    step(refining)
                    refining = above(refining, refinement.target)
            if entered and refinement.max_rounds:
                step(entered)
        return GuidanceResult(z, losses, norms)

    return guide
