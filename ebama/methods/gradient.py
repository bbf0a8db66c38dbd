"""The one place where an energy over attention maps becomes steps of the latent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebama.models import AttentionRecords

from .base import Cost, Guide, Task

Energy = Callable[[AttentionRecords, Sequence[int], int], Tensor]
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


def guidance_resolution(task: Task, z: Tensor) -> tuple[int, int]:
    """Side lengths of the maps that guide: 16x16 at the model's own size, scaled with the latent."""
    height, width = (BASE_RESOLUTION * side // task.config.sample_size for side in z.shape[-2:])
    return height, width


def constant(step_size: float, guided_steps: int | None, calls: int) -> list[float]:
    """The same step size for the first `guided_steps` of the calls (None: for all)."""
    return [step_size] * (calls if guided_steps is None else min(guided_steps, calls))


def decaying(step_size: float, guided_steps: int | None, calls: int) -> list[float]:
    """Attend-and-Excite's: step_size sqrt(r_i) with r falling evenly from 1 to 0.5 over *all* calls."""
    ratios = [1 - 0.5 * i / max(calls - 1, 1) for i in range(calls)]
    return [step_size * math.sqrt(ratio) for ratio in ratios[:guided_steps]]


def gradient_guide(
    task: Task,
    energy: Energy,
    step_sizes: Sequence[float],
    *,
    samples: Sequence[int] | None = None,
    refinements: Mapping[int, Refinement] | None = None,
    finer: bool = False,
) -> Guide:
    """z <- z - step_sizes[i] * dL/dz before each model call i that has a step size.

    Only `samples` (None: all) are moved and paid for. The maps come from the prompt's branch alone, and the network
    runs only as far as they need. The gradient is plain: no normalisation, no clipping, no momentum. `finer` also
    records the sites of higher resolutions.
    """
    moved = list(range(len(task.prompts)) if samples is None else samples)
    refinements = refinements or {}

    def differentiate(z: Tensor, t: int, i: int, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            moving = z.detach().requires_grad_(True)
            base = guidance_resolution(task, z)
            sites = [
                site
                for site in task.unet.sites(z.shape)
                if site.kind == "cross" and (site.resolution == base or (finer and site.resolution > base))
            ]
            text = task.text[list(chosen)]
            losses = energy(task.unet.attention(moving.to(text.dtype), t, text, sites=sites), chosen, i)
            if not losses.requires_grad:  # no sample has anything to gain
                return losses, torch.zeros_like(z)
            (gradient,) = torch.autograd.grad(losses.sum(), moving)
        return losses.detach(), gradient

    def guide(z: Tensor, t: int, i: int) -> tuple[Tensor, Tensor | None]:
        if i >= len(step_sizes) or not moved:
            return z, None
        z, losses = z.clone(), z.new_full((len(z),), math.nan)

        def step(chosen: list[int]) -> None:
            found, gradient = differentiate(z[chosen], t, i, chosen)
            losses[chosen] = found.to(losses)
            z[chosen] -= step_sizes[i] * gradient

        def above(chosen: list[int], target: float) -> list[int]:
            return [sample for sample in chosen if losses[sample] > target]

        step(moved)
        if refinement := refinements.get(i):
            entered = refining = above(moved, refinement.target)
            for _ in range(refinement.max_rounds - 1):  # the first round was the step above
                if refining:
                    step(refining)
                    refining = above(refining, refinement.target)
            if entered and refinement.max_rounds:
                step(entered)
        return z, losses

    return guide


def guided_cost(calls: int, guided: int, refinements: Mapping[int, Refinement] | None = None) -> Cost:
    """Two predictions a call; one pass over the maps and one backward a guided call and a refinement round."""
    passes = guided + sum(r.max_rounds for i, r in (refinements or {}).items() if i < guided)
    return Cost(predictions=2 * calls, attention=passes, backwards=passes)


def check_schedule(step_size: float | None, guided_steps: int | None, **weights: float | None) -> None:
    """Raise ValueError for values that no run could use; None means undecided."""
    for name, value in {"step_size": step_size, **weights}.items():
        if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise ValueError(f"{name} is {value!r}; expected a finite number of at least 0.")
    if guided_steps is not None and (type(guided_steps) is not int or guided_steps < 0):
        raise ValueError(
            f"guided_steps is {guided_steps!r}; expected a whole number of at least 0, or None for every call."
        )
