"""Layout guidance: Chen et al. 2024. Written from a description of its mathematics; its code has no licence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ...guidance import Energy, Needs, Refinement, Step, Task, guidance_resolution
from ...guidance.options import number, option, whole
from ...maps import WordPositions
from ...models import AttentionRecords, Site
from .placed import MOST_CALLS, BoxMethod, box_masks, placed


@dataclass(frozen=True)
class LayoutGuidance(BoxMethod):
    """Draws each object's attention into its box: the mean, over layers, heads, objects and an object's tokens, of
    (1 - sum of the token's map inside the box / sum of the map)^2.

    z <- z - step_size sigma^2 grad L, in Karras et al.'s latents; in ours the factor is 1 - abar_t. A call makes up to
    `max_rounds` such steps, while L exceeds `target`.

    Departures: layers are those of the coarsest maps and those of 16x16 that follow them (on SD v1 theirs, the middle
    and the first up block's); any sampler runs (theirs is LMS).

    Attributes:
        step_size: the authors' loss scale.
        guided_steps: model calls that are guided.
        max_rounds: steps at each of them, at most.
        target: a sample's loss below which it makes no further step at a call.
    """

    name: ClassVar[str] = "layout-guidance"
    changes: ClassVar[str] = "moves the latent: draws attention into boxes"
    reference: ClassVar[str] = "Chen et al. 2024 (Layout Control)"
    needs: ClassVar[Needs] = Needs(groups=True, boxes=True, sites="cross 16x16 and coarsest", gradient=True)

    step_size: float = 30.0
    guided_steps: int | None = 10
    max_rounds: int = option(5, whole(least=1))
    target: float = option(0.2, number())

    def energy(self, task: Task) -> Energy:
        """Of the objects that have a box."""
        groups = placed(task.groups)
        words = WordPositions.of([[group.object for group in of_sample] for of_sample in groups])

        def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
            of_samples, chosen = [groups[sample] for sample in samples], words[samples]
            losses = []
            for record in records:
                h, w = record.site.resolution
                masks = box_masks(of_samples, h, w).to(record.probabilities)[:, :, None, None]
                losses.append(_outside(record.probabilities, chosen, masks, (h, w)))
            return torch.stack(losses).mean(dim=0)

        return energy

    def sites(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        """Cross-attention of the coarsest maps, and that of `guidance_resolution` after the first of these."""
        cross = [site for site in task.network.sites(latent_shape) if site.kind == "cross"]
        coarsest, size = min(site.resolution for site in cross), guidance_resolution(task, latent_shape)
        first = next(k for k, site in enumerate(cross) if site.resolution == coarsest)
        return [site for site in cross[first:] if site.resolution in (coarsest, size)]

    def refinements(self) -> dict[int, Refinement]:
        """At every guided call."""
        rounds = Refinement(self.target, self.max_rounds, closing=False)
        return dict.fromkeys(range(MOST_CALLS if self.guided_steps is None else self.guided_steps), rounds)

    def step(self, task: Task) -> Step:
        """By step_size (1 - abar_t)."""

        def step(z: Tensor, gradient: Tensor, step_size: float, samples: list[int], i: int) -> Tensor:
            return z - step_size * (task.noise[i] if task.noise else 1) * gradient

        return step


def _outside(probabilities: Tensor, words: WordPositions, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(1 - inside / all)^2, mean over heads, tokens and objects, [B], from probabilities [B, head, query, key] and
    masks [B, object, 1, 1, h, w]."""
    heads = [rearrange(head, "b (h w) k -> b h w k", h=size[0]) for head in probabilities.unbind(dim=1)]
    maps = torch.stack([words.columns(head) for head in heads], dim=2)  # [B, object, head, token, h, w]
    inside = (maps * masks).sum(dim=(-2, -1)) / maps.sum(dim=(-2, -1))
    of_objects = ((1 - inside) ** 2).mean(dim=2).mul(words.shares.to(maps)).sum(dim=-1)
    exist = words.exist(maps)
    return (of_objects * exist).sum(dim=1) / exist.sum(dim=1)
