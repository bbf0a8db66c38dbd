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
from .options import guided_calls, number

Maps = Callable[[Tensor, int, list[int]], AttentionRecords]
"""(z [n, ...], t, samples [n]) -> records of those samples of the batch, with z in their graph."""

Energy = Callable[[AttentionRecords, list[int], int], Tensor]
"""(records, samples, i) -> losses [len(samples)], each a function of its own sample only.

The records hold those `samples` of the batch, in that order; i is the index of the model call.
"""

BASE_RESOLUTION = 16


@dataclass(frozen=True)
class Refinement:
    """Further steps at one model call: a sample whose loss exceeds `target` steps on until a loss that it saw did not,
    or `max_rounds` are made; then it makes the call's ordinary step."""

    target: float
    max_rounds: int


def gradient_guide(
    maps: Maps,
    energy: Energy,
    step_sizes: Sequence[float],
    *,
    samples: Sequence[int] | None = None,
    refinements: Mapping[int, Refinement] | None = None,
) -> Guide:
    """z <- z - step_sizes[i] * dL/dz before each model call i that has a step size.

    The gradient is plain: no normalisation, no clipping, no momentum. Whatever the caller is in, it exists and the
    energy is computed in float32.

    Args:
        maps: computes the attention maps of a latent, of any network.
        energy: what the steps make smaller.
        step_sizes: of the first model calls; later ones are not guided.
        samples: those that move; the others are left alone, at no cost. None for all.
        refinements: model calls with further steps; those that have no step size have none.
    """

    def differentiate(z: Tensor, t: int, i: int, chosen: list[int]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            moving = z.detach().clone().requires_grad_(True)
            records = maps(moving, t, chosen)
            with torch.autocast(z.device.type, enabled=False):
                losses = energy(records, chosen, i)
            if not losses.requires_grad:  # no sample has anything to gain
                return losses, torch.zeros_like(z)
            (gradient,) = torch.autograd.grad(losses.sum(), moving)
        return losses.detach(), gradient

    def guide(z: Tensor, t: int, i: int) -> GuidanceResult:
        moved = list(range(len(z)) if samples is None else samples)
        if i >= len(step_sizes) or not moved:
            return GuidanceResult(z)
        z, losses, norms = z.clone(), z.new_full((len(z),), math.nan), z.new_full((len(z),), math.nan)

        def step(chosen: list[int]) -> None:
            values, gradient = differentiate(z[chosen], t, i, chosen)
            losses[chosen] = values.to(losses)
            norms[chosen] = gradient.flatten(1).norm(dim=1).to(norms)
            z[chosen] -= step_sizes[i] * gradient

        def above(chosen: list[int], target: float) -> list[int]:
            return [sample for sample in chosen if losses[sample] > target]

        step(moved)
        if refinement := (refinements or {}).get(i):
            entered = refining = above(moved, refinement.target)
            for _ in range(refinement.max_rounds - 1):  # the first round was the step above
                if refining:
                    step(refining)
                    refining = above(refining, refinement.target)
            if entered and refinement.max_rounds:
                step(entered)
        return GuidanceResult(z, losses, norms)

    return guide


def guidance_resolution(task: Task, latent_shape: Sequence[int]) -> tuple[int, int]:
    """Side lengths of the maps that guide: 16x16 at the model's own size, scaled with the latent [..., h, w]; where no
    cross-attention site has them, those of the nearest in size."""
    height, width = (BASE_RESOLUTION * side // task.config.sample_size for side in latent_shape[-2:])
    available = sorted({site.resolution for site in task.unet.sites(latent_shape) if site.kind == "cross"})
    return min(available, key=lambda at: abs(at[0] - height) + abs(at[1] - width), default=(height, width))


class GradientMethod(Method):
    """A method that is an energy: steps of the latent down its gradient, before the first `guided_steps` model calls.

    Subclasses hold `step_size` (at the first call) and `guided_steps` (None: every call) and say what the energy is.
    With `decay_step_size` it is Attend-and-Excite's, step_size sqrt(r_i) with r falling evenly from 1 to 0.5 over *all*
    calls.
    """

    step_size: float
    guided_steps: int | None
    decay_step_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        number()("step_size", self.step_size)
        guided_calls("guided_steps", self.guided_steps)

    @abstractmethod
    def energy(self, task: Task) -> Energy:
        """The energy that the steps lower; it reads the maps of `sites`."""

    def sites(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        """The attention sites that the energy reads: cross-attention at `guidance_resolution`."""
        size = guidance_resolution(task, latent_shape)
        return [s for s in task.unet.sites(latent_shape) if (s.kind, s.resolution) == ("cross", size)]

    def applies_to(self, prompt: Parsed) -> bool:
        """Whether the energy has something to act on, an object; if not, the prompt's samples are left alone, at no
        cost."""
        return bool(prompt.groups)

    def refinements(self) -> Mapping[int, Refinement]:
        """Model calls with further steps; those after the guided ones have none."""
        return {}

    def step_sizes(self, calls: int) -> list[float]:
        """Of the guided ones among that many model calls."""
        ratios = [1 - 0.5 * i / max(calls - 1, 1) if self.decay_step_size else 1 for i in range(calls)]
        return [self.step_size * math.sqrt(ratio) for ratio in ratios[: self.guided_steps]]

    def guide(self, task: Task) -> Guide:
        """Gradient steps for the samples of prompts that it `applies_to`.

        The maps are those of the prompt's rows alone, and the network runs only as far as they need.
        """

        def maps(z: Tensor, t: int, samples: list[int]) -> AttentionRecords:
            text, sites = task.text[samples], self.sites(task, z.shape)
            return task.unet.attention(z.to(text.dtype), t, text, sites=sites, checkpoint=task.checkpoint)

        return gradient_guide(
            maps,
            self.energy(task),
            self.step_sizes(task.calls),
            samples=[i for i, prompt in enumerate(task.prompts) if self.applies_to(prompt)],
            refinements=self.refinements(),
        )

    def cost(self, prompt: Parsed, calls: int) -> Cost:
        """Two predictions a call; one pass over the maps and one backward a guided call and a refinement round."""
        guided = range(calls)[: self.guided_steps] if self.applies_to(prompt) else range(0)
        passes = len(guided) + sum(r.max_rounds for i, r in self.refinements().items() if i in guided)
        return Cost(predictions=2 * calls, attention=passes, backwards=passes)
