"""Several methods in one run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..prompt import Parsed
from .conditioning import Conditioning
from .control import ChainedControl
from .method import Controls, Cost, GuidanceResult, Guide, Method, Needs, Start
from .task import Task

MOST_PARTS = 16


@dataclass(frozen=True)
class Composition(Method):
    """Several methods as one: what they do in each of the four places, one after the other in their order.

    Starts and guides follow each other, controls are chained (and act in all guided passes), one method at most
    conditions. `sd` adds nothing. The name is that of its parts, as "syngen,ane".

    Raises ValueError for methods that cannot run together, and for more than `MOST_PARTS`.
    """

    parts: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        parts = self.parts
        names = [part.name for part in parts]
        if len(parts) < 2:
            raise ValueError(f"A composition got {', '.join(names) or 'no method'}; expected two methods or more.")
        if len(parts) > MOST_PARTS:
            raise ValueError(f"A composition got {len(parts)} methods; expected at most {MOST_PARTS}.")
        if editing := [part.name for part in parts if part.edits_prompts]:
            raise ValueError(f"{editing[0]} makes one prompt's picture from another's; it runs alone.")
        conditioning = [part.name for part in parts if "conditioning" in part.places]
        if len(conditioning) > 1:
            raise ValueError(
                f"{' and '.join(conditioning)} both say what the network is conditioned on; choose one of them."
            )
        if conditioning and (reading := [p.name for p in parts if p.needs.phrases and p.name not in conditioning]):
            raise ValueError(
                f"{reading[0]} edits the prompt's encoding, and {conditioning[0]} encodes other texts instead; choose "
                "one of them."
            )
        sites = dict.fromkeys(part.needs.sites for part in parts if part.needs.sites != Needs.sites)
        needs = Needs(
            groups=any(part.needs.groups for part in parts),
            boxes=any(part.needs.boxes for part in parts),
            phrases=any(part.needs.phrases for part in parts),
            sites=", ".join(sites) or Needs.sites,
            gradient=any(part.needs.gradient for part in parts),
        )
        facts = {
            "name": ",".join(names),
            "changes": "; ".join(part.changes for part in parts),
            "reference": "; ".join(part.reference for part in parts),
            "needs": needs,
        }
        for name, fact in facts.items():  # what a class says of its methods, this one says of its parts
            object.__setattr__(self, name, fact)

    @property
    def places(self) -> tuple[str, ...]:
        """Those of its parts."""
        return tuple(dict.fromkeys(place for part in self.parts for place in part.places))

    def check_sites(self, task: Task, latent_shape: Sequence[int]) -> None:
        """Each part's."""
        for part in self.parts:
            part.check_sites(task, latent_shape)

    def start(self, task: Task) -> Start | None:
        """Each part's after the one before."""
        starts = [start for part in self.parts if (start := part.start(task)) is not None]

        def chained(z: Tensor) -> Tensor:
            for start in starts:
                z = start(z)
            return z

        return chained if starts else None

    def conditioning(self, task: Task) -> Conditioning:
        """That of the part that has one."""
        parts = [part for part in self.parts if "conditioning" in part.places]
        return parts[0].conditioning(task) if parts else super().conditioning(task)

    def control(self, task: Task, conditioning: Conditioning) -> Controls | None:
        """The parts' controls of a call, chained."""
        parts = [controls for part in self.parts if (controls := part.control(task, conditioning)) is not None]
        if not parts:
            return None

        def chained(i: int) -> ChainedControl | None:
            controls = [control for controls in parts if (control := controls(i)) is not None]
            return ChainedControl(controls) if controls else None

        return chained

    def guide(self, task: Task) -> Guide | None:
        """Each part's after the one before; losses and gradient norms are the sums of theirs."""
        task = replace(task, controlled_by=self)
        guides = [guide for part in self.parts if (guide := part.guide(task)) is not None]

        def chained(z: Tensor, t: Any, i: int) -> GuidanceResult:
            results: list[GuidanceResult] = []
            for guide in guides:
                results.append(guide(z, t, i))
                z = results[-1].latents
            return GuidanceResult(z, _sum(r.losses for r in results), _sum(r.gradient_norms for r in results))

        return chained if guides else None

    def cost(self, prompt: Parsed, calls: int) -> Cost:
        """The sum of what each part costs beyond plain sampling, and that."""
        costs, plain = [part.cost(prompt, calls) for part in self.parts], super().cost(prompt, calls).predictions
        return Cost(
            plain + sum(cost.predictions - plain for cost in costs),
            sum(cost.attention for cost in costs),
            sum(cost.backwards for cost in costs),
        )

    def describe(self) -> dict[str, Any]:
        """Its name and the description of each part."""
        return {"name": self.name, "parts": [part.describe() for part in self.parts]}


def compose(methods: Sequence[Method]) -> Method:
    """Several methods as one; one method is itself."""
    parts = [part for method in methods for part in (method.parts if isinstance(method, Composition) else (method,))]
    return parts[0] if len(parts) == 1 else Composition(tuple(parts))


def _sum(measured: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of what the parts measured of each sample; NaN where none did."""
    values = [value for value in measured if value is not None]
    if not values:
        return None
    stacked = torch.stack(values)
    return stacked.nansum(dim=0).masked_fill(stacked.isnan().all(dim=0), math.nan)
