"""The base of methods that are an energy."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..maps import GroupLike
from ..models import AttentionRecords, Site
from ..prompt import Parsed
from .conditioning import Conditioning
from .control import checked
from .gradient import Energy, Maps, Refinement, Step, check_latents, descent, gradient_guide
from .method import Controls, Cost, GuidanceResult, Guide, Method
from .options import guided_calls, number
from .task import Task


def base_resolution(sample_size: int) -> int:
    """Side of the maps that guide, of a model whose own latents have this side: a quarter of it, and 16 at least.

    That is 16 for Stable Diffusion v1, 2 at 512 pixels and the miniature, 24 for 2 at 768, and 32 for XL, whose
    cross-attention has no coarser maps.
    """
    return max(16, sample_size // 4)


def guidance_resolution(task: Task, latent_shape: Sequence[int]) -> tuple[int, int]:
    """Side lengths of the maps that guide: `base_resolution` at the model's own size, scaled with the latent
    [..., h, w]; where no cross-attention site has them, those of the nearest in size. Without a pipeline the latent's
    shorter side counts as the model's own."""
    usual = task.pipeline.sample_size if task.pipeline else min(latent_shape[-2:])
    height, width = (base_resolution(usual) * side // usual for side in latent_shape[-2:])
    available = sorted({site.resolution for site in task.network.sites(latent_shape) if site.kind == "cross"})
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
        """The sites of `task.network` that the energy reads, of one kind or both: cross at `guidance_resolution`."""
        size = guidance_resolution(task, latent_shape)
        return [s for s in task.network.sites(latent_shape) if (s.kind, s.resolution) == ("cross", size)]

    def applies_to(self, groups: Sequence[GroupLike]) -> bool:
        """Whether the energy has something to act on in a prompt of these groups, an object; if not, the prompt's
        samples are left alone, at no cost."""
        return bool(groups)

    def refinements(self) -> Mapping[int, Refinement]:
        """Model calls with further steps; those after the guided ones have none."""
        return {}

    def step_sizes(self, calls: int) -> list[float]:
        """Of the guided ones among that many model calls."""
        ratios = [1 - 0.5 * i / max(calls - 1, 1) if self.decay_step_size else 1 for i in range(calls)]
        return [self.step_size * math.sqrt(ratio) for ratio in ratios[: self.guided_steps]]

    def step(self, task: Task) -> Step:
        """How a run steps down the gradient: by `step_size` times it."""
        return descent

    def guided_control(self, task: Task) -> Controls | None:
        """The control of the guided passes of a task's samples, whose rows are their prompts: the method's own."""
        return (task.controlled_by or self).control(task, Conditioning.prompts_alone(task.context))

    def maps(self, task: Task, call: Callable[[], int] = lambda: 0) -> Maps:
        """The maps of `sites`, of the prompt's rows alone, under `guided_control` of model call `call()`; the network
        runs only as far as they need. Raises as `check_sites`."""
        made: dict[tuple[tuple[int, ...], tuple[int, ...]], Controls | None] = {}  # for a pass's samples and their size

        def maps(z: Tensor, t: Any, samples: list[int]) -> AttentionRecords:
            if (key := (tuple(samples), z.shape)) not in made:
                self.check_sites(task, z.shape)
                made[key] = self.guided_control(task.select(samples))
            context, control = task.context[samples], checked(made[key], call())
            sites = self.sites(task, z.shape) if task.sites is None else task.sites
            records = task.network.attention(
                z.to(context.dtype), t, context, sites=sites, control=control, checkpoint=task.checkpoint
            )
            if control is not None:
                control.check_asked(whole=False)
            return records

        return maps

    def guide(self, task: Task) -> Guide:
        """Gradient steps for the samples that it `applies_to`."""
        call, count = 0, len(task.context)
        steps = gradient_guide(
            self.maps(task, lambda: call),
            self.energy(task),
            self.step_sizes(task.calls),
            samples=[sample for sample, groups in enumerate(task.groups) if self.applies_to(groups)],
            refinements=self.refinements(),
            step=self.step(task),
        )

        def guide(z: Tensor, t: Any, i: int) -> GuidanceResult:
            nonlocal call
            check_latents(z, count)
            call = i
            return steps(z, t, i)

        return guide

    def cost(self, prompt: Parsed, calls: int) -> Cost:
        """Two predictions a call; one pass over the maps and one backward a guided call and a refinement round."""
        guided = range(calls)[: self.guided_steps] if self.applies_to(prompt.groups) else range(0)
        rounds = [r.max_rounds - (not r.closing) for i, r in self.refinements().items() if i in guided]
        passes = len(guided) + sum(rounds)
        return Cost(predictions=2 * calls, attention=passes, backwards=passes)
