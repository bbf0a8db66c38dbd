"""The one place where an energy over attention maps becomes steps of the latent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebama.models import AttentionRecords

from .method import GuidanceResult, Guide

Maps = Callable[[Tensor, Any, list[int]], AttentionRecords]
"""(z [n, ...], t, samples [n]) -> records of those samples of the batch, with z in their graph; t as `Guide` has it."""

Energy = Callable[[AttentionRecords, list[int], int], Tensor]
"""(records, samples, i) -> losses [len(samples)], each a function of its own sample only.

The records hold those `samples` of the batch, in that order; i is the index of the model call.
"""

Step = Callable[[Tensor, Tensor, float, list[int], int], Tensor]
"""(z [n, ...], its gradient, step size, samples [n], i) -> the z of those samples after the step.

One that remembers (momentum, Adam) does so for each sample: some step more often than others.
"""


@dataclass(frozen=True)
class Refinement:
    """Further steps at one model call: a sample whose loss exceeds `target` steps on until a loss that it saw did not,
    or `max_rounds` are made; then it makes the call's ordinary step."""

    target: float
    max_rounds: int


def descent(z: Tensor, gradient: Tensor, step_size: float, samples: list[int], i: int) -> Tensor:
    """z - step_size * gradient: no normalisation, no clipping, no momentum."""
    return z - step_size * gradient


def gradient_guide(
    maps: Maps,
    energy: Energy,
    step_sizes: Sequence[float],
    *,
    samples: Sequence[int] | None = None,
    refinements: Mapping[int, Refinement] | None = None,
    step: Step = descent,
) -> Guide:
    """z <- z - step_sizes[i] * dL/dz before each model call i that has a step size.

    Whatever the caller is in, the gradient exists and the energy is computed in float32.

    Args:
        maps: computes the attention maps of a latent, of any network.
        energy: what the steps make smaller.
        step_sizes: of the first model calls; later ones are not guided.
        samples: those that move; the others are left alone, at no cost. None for all.
        refinements: model calls with further steps; those that have no step size have none.
        step: another way to step down the gradient. One that remembers serves one run: make a guide for each.

    Raises:
        ValueError: from the guide, where the energy does not return a loss for each sample, or returns one of NaN since
            a mask or a control hides keys from the maps.
    """

    def differentiate(z: Tensor, t: Any, i: int, chosen: list[int]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            moving = z.detach().clone().requires_grad_(True)
            records = maps(moving, t[chosen] if isinstance(t, Tensor) and t.ndim else t, chosen)
            with torch.autocast(z.device.type, enabled=False):
                losses = energy(records, chosen, i)
            if losses.shape != (len(chosen),):
                raise ValueError(
                    f"The energy returned shape {list(losses.shape)}; expected [{len(chosen)}], a loss a sample."
                )
            if not losses.requires_grad:  # no sample has anything to gain
                return losses, torch.zeros_like(z)
            (gradient,) = torch.autograd.grad(losses.sum(), moving)
        _check_visible(losses, gradient, records, chosen)
        return losses.detach(), gradient

    def guide(z: Tensor, t: Any, i: int) -> GuidanceResult:
        moved = list(range(len(z)) if samples is None else samples)
        if i >= len(step_sizes) or not moved:
            return GuidanceResult(z)
        z, losses, norms = z.clone(), z.new_full((len(z),), math.nan), z.new_full((len(z),), math.nan)

        def move(chosen: list[int]) -> None:
            values, gradient = differentiate(z[chosen], t, i, chosen)
            losses[chosen] = values.to(losses)
            norms[chosen] = gradient.flatten(1).norm(dim=1).to(norms)
            z[chosen] = step(z[chosen], gradient, step_sizes[i], chosen, i).to(z)

        def above(chosen: list[int], target: float) -> list[int]:
            return [sample for sample in chosen if losses[sample] > target]

        move(moved)
        if refinement := (refinements or {}).get(i):
            entered = refining = above(moved, refinement.target)
            for _ in range(refinement.max_rounds - 1):  # the first round was the step above
                if refining:
                    move(refining)
                    refining = above(refining, refinement.target)
            if entered and refinement.max_rounds:
                move(entered)
        return GuidanceResult(z, losses, norms)

    return guide


def _check_visible(losses: Tensor, gradient: Tensor, records: AttentionRecords, samples: list[int]) -> None:
    """Raise ValueError for a loss of NaN if keys are hidden from the sample's maps; without a gradient, NaN is an
    energy's way to say that the sample has nothing to gain."""
    for row in (losses.isnan() & gradient.flatten(1).ne(0).any(dim=1)).nonzero().flatten().tolist():
        hidden = [record.scores[row].isneginf().flatten(0, 1).any(dim=0) for record in records]  # [key] of each site
        if keys := sorted({key for site in hidden for key in site.nonzero().flatten().tolist()}):
            raise ValueError(
                f"The energy of sample {samples[row]} is NaN, and a mask or a control hides keys {keys} from its maps "
                "(their scores are -inf); leave hidden positions out of groups and tokens."
            )
