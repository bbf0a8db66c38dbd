"""What InitNO and Self-Cross share: a search for noise, then guidance with refinement, over the same maps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...guidance import Cost, Energy, GradientMethod, Losses, Needs, Refinement, Start, Task, guidance_resolution
from ...guidance.gradient import gradient_of, maps_of
from ...guidance.options import number, option, whole, whole_numbers
from ...maps import ContentRange, WordPositions, first_tokens
from ...models import AttentionRecords, Site
from ...prompt import Parsed
from ...smoothing import gaussian_smooth
from .search import Judge, NoiseSearch, Verdict, generators_of
from .terms import Terms


@dataclass(frozen=True)
class NoiseMethod(GradientMethod):
    """A method that searches for noise in which every object is seen and none conflicts, and then guides.

    `InitNO` says what the options are.
    """

    needs: ClassVar[Needs] = Needs(groups=True, sites="cross and self 16x16", gradient=True)
    decay_step_size: ClassVar[bool] = True

    max_rounds: int = option(5, whole())
    iterations: int = option(10, whole())
    final_iterations: int = option(50, whole())
    learning_rate: float = option(1e-2, number(lambda x: 0 < x <= 1e6, "a positive number of at most a million"))
    cross_target: float = option(0.2, number())
    self_target: float = option(0.3, number())
    step_size: float = 20.0
    guided_steps: int | None = 25
    refine_calls: tuple[int, ...] = option((10, 20), whole_numbers("model calls, as (10, 20)"))
    max_refinements: int = option(20, whole())

    @abstractmethod
    def terms(self, maps: Tensor, self_maps: Tensor, exist: Tensor, *, searching: bool) -> Terms:
        """From the objects' maps [B, object, h, w] and those of self-attention [B, h, w, key]; whether it is the search
        that asks."""

    def judge(self, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """In the search: what to lower, cross + conflict + clean; whether cross and conflict are low enough; and the
        score of a round, which leaves clean out; [B] each."""
        conflict = terms.conflict_if_seen()
        succeeded = (terms.cross < self.cross_target) & (conflict < self.self_target)
        score = terms.cross + conflict
        return score + terms.clean, succeeded, score

    @abstractmethod
    def losses(self, terms: Terms, align: Tensor) -> Losses:
        """While sampling; `align` [B] is the distance from the maps of earlier passes."""

    def sites(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        """Cross- and self-attention at `guidance_resolution`."""
        size = guidance_resolution(task, latent_shape)
        return [site for site in task.network.sites(latent_shape) if site.resolution == size]

    def refinements(self) -> dict[int, Refinement]:
        """At `refine_calls`."""
        return {i: Refinement(torch.inf, self.max_refinements) for i in self.refine_calls}

    def start(self, task: Task) -> Start | None:
        """The search, for samples that have an object."""
        samples = [sample for sample, groups in enumerate(task.groups) if self.applies_to(groups)]
        if not (samples and self.max_rounds and self.iterations):
            return None
        search = NoiseSearch(self.max_rounds, self.iterations, self.final_iterations, self.learning_rate)

        def start(z: Tensor) -> Tensor:
            return search.run(self._judge(task), z, samples, task.generators or generators_of(z))

        return start

    def energy(self, task: Task) -> Energy:
        """`losses` of `terms`, with a memory of the maps of each sample's passes."""
        objects, content = first_tokens(task.groups), ContentRange.of(task.tokens)
        memory = MapMemory(frozenset(self.refine_calls))

        def energy(records: AttentionRecords, samples: list[int], i: int) -> Losses:
            words = objects[samples]
            terms = self._terms(records, words, content[samples], searching=False)
            align = memory.distance(terms.maps, samples, i)
            losses = self.losses(terms, align)
            memory.keep(samples, losses.unmet.tolist())
            return losses

        return energy

    def cost(self, prompt: Parsed, calls: int) -> Cost:
        """Also a pass and a backward for each step of the search."""
        cost, steps = super().cost(prompt, calls), self.max_rounds * self.iterations
        steps += self.final_iterations if steps else 0
        if not self.applies_to(prompt.groups):
            return cost
        return replace(cost, attention=cost.attention + steps, backwards=cost.backwards + steps)

    def _terms(self, records: AttentionRecords, words: WordPositions, content: ContentRange, searching: bool) -> Terms:
        maps = words.means(content.softmax(records.where(kind="cross").mean_probabilities()))
        return self.terms(maps, records.where(kind="self").mean_probabilities(), words.exist(maps), searching=searching)

    def _judge(self, task: Task) -> Judge:
        objects, content, maps = first_tokens(task.groups), ContentRange.of(task.tokens), self.maps(task)

        def judge(z: Tensor, samples: list[int]) -> Verdict:
            with torch.inference_mode(False), torch.enable_grad():
                moving = z.detach().clone().requires_grad_(True)
                records = maps_of(maps, moving, task.first_timestep, samples)
                with torch.autocast(z.device.type, enabled=False):
                    terms = self._terms(records, objects[samples], content[samples], searching=True)
                    lowered, succeeded, scores = self.judge(terms)
                gradient = gradient_of(lowered, moving)
            return Verdict(succeeded.tolist(), scores.tolist(), gradient)

        return judge


class MapMemory:
    """A running mean of each sample's maps, C <- 0.9 C + 0.1 A, that moves at each pass; the first pass starts it.

    At a call in `doubled`, a sample that refines sees its first maps twice: once to decide it, once for the first
    round. Here one pass serves both.
    """

    def __init__(self, doubled: frozenset[int]) -> None:
        self._doubled = doubled
        self._means: dict[int, Tensor] = {}
        self._seen: dict[int, int] = {}  # the last call of each sample
        self._again: dict[int, Tensor] = {}

    def distance(self, maps: Tensor, samples: Sequence[int], i: int) -> Tensor:
        """Sum over objects of the mean absolute distance of the smoothed maps from the smoothed mean: [B]."""
        means = []
        for now, sample in zip(maps.detach(), samples, strict=True):
            mean = self._means[sample] = self._moved(sample, now)
            if i in self._doubled and self._seen.get(sample) != i:
                mean = self._again[sample] = self._moved(sample, now)
            self._seen[sample] = i
            means.append(mean)
        return gaussian_smooth(maps - torch.stack(means)).abs().mean(dim=(-2, -1)).sum(dim=1)

    def keep(self, samples: Sequence[int], refining: Sequence[bool]) -> None:
        """After a pass: who refines has seen the maps twice."""
        for sample, again in zip(samples, refining, strict=True):
            if (mean := self._again.pop(sample, None)) is not None and again:
                self._means[sample] = mean

    def _moved(self, sample: int, now: Tensor) -> Tensor:
        return 0.9 * self._means[sample] + 0.1 * now if sample in self._means else now
