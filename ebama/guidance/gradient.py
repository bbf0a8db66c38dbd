"""The one place where an energy over attention maps becomes steps of the latent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from ..checks import expect, is_number, is_whole, items, plain, several, short
from ..hidden import refuse_hidden
from ..models import AttentionRecords
from .method import GuidanceResult, Guide

Maps = Callable[[Tensor, Any, list[int]], AttentionRecords]
"""(z [n, ...], t, samples [n]) -> records of those samples of the batch, with z in their graph; t as `Guide` has it."""


class Losses(NamedTuple):
    """An energy whose steps at one model call go down different things, [n] each.

    Attributes:
        step: what the call's ordinary step makes smaller.
        refine: what a round of refinement does.
        closing: what the ordinary step after refinement does.
        unmet: booleans, which samples still miss their target and refine (further).
    """

    step: Tensor
    refine: Tensor
    closing: Tensor
    unmet: Tensor


Energy = Callable[[AttentionRecords, list[int], int], Tensor | Losses]
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
    or `max_rounds` are made; then it makes the call's ordinary step, if it is `closing`.

    Where an energy gives `Losses`, these say who is unmet, and the target says nothing."""

    target: float
    max_rounds: int
    closing: bool = True


_CUT = (
    "No gradient leads from the maps to the latents; expected a network that is called on the latents themselves, "
    "without no_grad and without re-entrant checkpointing (`checkpoint=True` of its call saves the memory), and "
    "`sites=` without those that see other pictures alone."
)


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
            a mask or a control hides keys from the maps; and where no gradient leads from the maps to the latents.
    """

    def measure(z: Tensor, t: Any, i: int, chosen: list[int]) -> tuple[Losses, AttentionRecords]:
        records = maps_of(maps, z, t[chosen] if isinstance(t, Tensor) and t.ndim else t, chosen)
        with torch.autocast(z.device.type, enabled=False):
            measured = energy(records, chosen, i)
        losses = measured.step if isinstance(measured, Losses) else measured
        if not isinstance(losses, Tensor) or losses.shape != (len(chosen),):
            got = f"shape {list(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
            raise ValueError(f"The energy returned {got}; expected [{len(chosen)}], a loss a sample.")
        if isinstance(measured, Losses):
            return measured, records
        target = refined[i].target if i in refined else math.inf
        return Losses(measured, measured, measured, measured > target), records

    sizes = items(step_sizes)
    is_list = bool(sizes) or isinstance(step_sizes, list | tuple)
    are_numbers = is_list and all(map(is_number, sizes))
    expect("step_sizes", step_sizes, are_numbers, "a list, one for each guided call, as [20.0] * 25, of numbers")
    some = None if samples is None else several(samples)
    expect("refinements", refinements, isinstance(refinements, Mapping | None), "a mapping from model calls")
    refined = {call_number(i): refinement for i, refinement in (refinements or {}).items()}

    def guide(z: Tensor, t: Any, i: int) -> GuidanceResult:
        i, moved = call_number(i), list(range(len(z))) if some is None else some
        _check_inputs(z, t, moved)
        if i >= len(sizes) or not moved:
            return GuidanceResult(z)
        z, norms = z.clone(), z.new_full((len(z),), math.nan)
        values = norms.clone()

        def move(chosen: list[int], choose: Callable[[Losses], Tensor]) -> list[int]:
            """One step of the chosen samples; those of them that missed their target before it."""
            with torch.inference_mode(False), torch.enable_grad():
                moving = z[chosen].detach().clone().requires_grad_(True)
                losses, records = measure(moving, t, i, chosen)
                followed = choose(losses)
                gradient = torch.zeros_like(moving)
                if followed.requires_grad:
                    gradient = gradient_of(followed, moving)
                elif any(loss and not math.isnan(loss) for loss in followed.tolist()):  # else there is nothing to gain
                    warnings.warn(f"The energy has no gradient at model call {i}, and nothing moves.", stacklevel=2)
            _check_visible(followed.detach(), gradient, records, chosen)
            values[chosen] = followed.detach().to(values)
            norms[chosen] = gradient.flatten(1).norm(dim=1).to(norms)
            z[chosen] = step(z[chosen], gradient, sizes[i], chosen, i).to(z)
            return [sample for sample, unmet in zip(chosen, losses.unmet.tolist(), strict=True) if unmet]

        refinement = refined.get(i)
        if refinement is None or not refinement.max_rounds:
            move(moved, lambda losses: losses.step)
            return GuidanceResult(z, values, norms)
        # The first round starts where the ordinary step would: one pass serves both.
        entered = refining = move(moved, lambda losses: torch.where(losses.unmet, losses.refine, losses.step))
        for _ in range(refinement.max_rounds - 1):
            if refining:
                refining = move(refining, lambda losses: losses.refine)
        if entered and refinement.closing:
            move(entered, lambda losses: losses.closing)
        return GuidanceResult(z, values, norms)

    return guide


def maps_of(maps: Maps, z: Tensor, t: Any, samples: list[int]) -> AttentionRecords:
    """The records of latents that want a gradient; ValueError if it does not lead there."""
    try:
        records = maps(z, t, samples)
    except RuntimeError as error:
        if "Inference tensors" not in str(error):
            raise
        raise ValueError(
            "The network's weights were made in torch.inference_mode, where nothing has a gradient; load it outside."
        ) from error
    if not all(record.scores.requires_grad for record in records):
        raise ValueError(_CUT)
    return records


def gradient_of(losses: Tensor, z: Tensor) -> Tensor:
    """That of the sum of losses of `maps_of` the latents; ValueError if there is none."""
    try:
        (gradient,) = torch.autograd.grad(losses.sum(), z, allow_unused=True)
    except CheckpointError as error:  # records are not made again when a block is computed again
        raise ValueError(
            "The network checkpoints blocks in which its attention is recorded; switch that off. `checkpoint=True` of "
            "its call saves the memory."
        ) from error
    if gradient is None:
        raise ValueError(_CUT)
    return gradient


def call_number(i: Any) -> int:
    """The number of a model call as Python's, which mappings know by its value; ValueError for what is none."""
    i = plain(i)
    return int(expect("i", i, is_whole(i) and i >= 0, "the number of a model call, a whole number from 0"))


def check_latents(z: Tensor, count: int) -> None:
    """Raise ValueError unless z are latents, one for each of `count` contexts."""
    if not isinstance(z, Tensor):
        raise ValueError(f"The latents are a {type(z).__name__}; expected floating point [{count}, C, h, w].")
    if not z.is_floating_point() or z.ndim < 2 or len(z) != count:
        raise ValueError(
            f"The guide got {len(z)} latents for {count} contexts, {z.dtype} {list(z.shape)}; expected floating point "
            f"[{count}, C, h, w], one latent for each context."
        )


def _check_inputs(z: Tensor, t: Any, samples: list[int]) -> None:
    """Raise ValueError for latents, timesteps and samples of them that do not go together."""
    check_latents(z, len(z) if isinstance(z, Tensor) else 1)
    if not (t.isfinite().all() if isinstance(t, Tensor) else is_number(t)):
        raise ValueError(f"t is {short(t)}; expected a finite timestep.")
    if isinstance(t, Tensor) and t.ndim and t.shape != (len(z),):
        raise ValueError(f"t has shape {list(t.shape)} for {len(z)} latents; expected a timestep, or one for each.")
    if sorted(samples) != [i for i in range(len(z)) if i in samples] or not all(map(is_whole, samples)):
        raise ValueError(f"samples are {samples} of {len(z)} latents; expected their indices, each once.")


def _check_visible(losses: Tensor, gradient: Tensor, records: AttentionRecords, samples: list[int]) -> None:
    """Raise ValueError for a loss of NaN if keys are hidden from the sample's maps; without a gradient, NaN is an
    energy's way to say that the sample has nothing to gain."""
    for row in (losses.isnan() & gradient.flatten(1).ne(0).any(dim=1)).nonzero().flatten().tolist():
        refuse_hidden(samples[row], (record.scores.detach()[row] for record in records))
