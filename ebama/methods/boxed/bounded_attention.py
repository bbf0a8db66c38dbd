"""Bounded Attention: Dahary et al. 2024."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ...guidance import Conditioning, Controls, Energy, Losses, Needs, Refinement, Task, guidance_resolution
from ...guidance.options import number, option, whole
from ...maps import WordPositions
from ...models import AttentionRecords, Control, Site
from ...prompt.lexicon import FUNCTION_WORDS
from ...prompt.words import words
from .bounds import Bounds, Region, Subjects
from .placed import MOST_CALLS, BoxMethod, box_masks, placed


@dataclass(frozen=True)
class BoundedAttention(BoxMethod):
    """Keeps each subject's attention to itself: pixels of one look at its own words and pixels and at the background.

    A subject is an object that has a box, with its modifiers. In every cross-attention layer words that name nothing
    are hidden, subjects' words are hidden outside their regions, and the end token from the background. In every
    self-attention layer (of both rows) pixels of a subject do not see those of others. Regions are the boxes in the
    first `guided_steps` calls; before these the latent steps down

        L = 1.5 sum (1 - iou_cross)^2 + 0.5 sum (1 - iou_self)^2,  iou_s = F_s / (F_s + S G_s),

    up to `max_rounds` times while L / S is at least `target`: F_s is the attention from inside the box of subject s to
    its words and the end token (to its box's pixels), G_s that from the background, summed over layers. From then on,
    every `mask_interval` calls, regions are clusters of self-attention that the subjects' attention lies in.

    Departures: words that name nothing are those of a list (theirs come from a tagger); each sample stops by its own
    loss; layers are those of 16x16 and 8x8 from the coarsest on, masks come from those of 16x16 (on SD v1 theirs); any
    sampler runs (theirs is DDIM from timestep 980). In a run with other methods, controls of these leave its guided
    passes alone.

    Attributes:
        step_size, final_step_size: alpha at the first call, and the one that it falls towards, evenly.
        guided_steps: model calls that are guided.
        max_rounds: steps at each of them, at most.
        target: of L / S.
        clusters: for each subject.
        mask_interval: model calls from one mask to the next.
        seed: of the clusters' starts.
    """

    name: ClassVar[str] = "bounded-attention"
    changes: ClassVar[str] = "bounds attention to boxes, and moves the latent"
    reference: ClassVar[str] = "Dahary et al. 2024 (Bounded Attention)"
    needs: ClassVar[Needs] = Needs(groups=True, boxes=True, sites="every cross and self", gradient=True)

    step_size: float = 8.0
    final_step_size: float = option(2.0, number())
    guided_steps: int | None = 15
    max_rounds: int = option(5, whole(least=1))
    target: float = option(0.2, number())
    clusters: int = option(3, whole(least=1))
    mask_interval: int = option(5, whole(least=1))
    seed: int = option(123, whole())

    def control(self, task: Task, conditioning: Conditioning) -> Controls | None:
        """Bounds in every call, with a memory of the attention seen; none if no prompt has a box.

        Raises ValueError if the prompts' rows have other encodings than the whole prompts'.
        """
        if not (bound := _bound(task)):
            return None
        prompt_rows = conditioning.rows_of_whole_prompts(task.context, list(bound), self.name)
        index = conditioning.sample_index.tolist()
        rows = [row for row, sample in enumerate(index) if sample in bound]
        of_sample = [list(bound).index(index[row]) for row in rows]
        on_device = torch.tensor(rows, device=prompt_rows.device)
        regions, watched = [Region(subjects) for subjects in bound.values()], self._watched(task)
        first = task.calls if self.guided_steps is None else self.guided_steps
        bounds: dict[int, Bounds] = {}  # by the call that made them; there is one

        def control(i: int) -> Control | None:
            due = i >= first and (i - first) % self.mask_interval == 0
            if not bounds or (due and i not in bounds):
                if due:
                    for region in regions:
                        region.refine(self.clusters, self.seed)
                bounds.clear()
                bounds[i] = Bounds(regions, prompt_rows, on_device, of_sample, watched, guided=False)
            return next(iter(bounds.values()))

        return control

    def guided_control(self, task: Task) -> Controls:
        """The boxes' bounds, of samples that have some."""
        rows = torch.arange(len(task.context), device=task.context.device)
        regions = [Region(subjects) for subjects in _bound(task).values()]
        bounds = Bounds(regions, rows, rows, range(len(rows)), frozenset(), guided=True)
        return lambda i: bounds

    def energy(self, task: Task) -> Energy:
        """Of the objects that have a box."""
        groups = placed(task.groups)
        subjects = [_subjects(task, sample) for sample in range(len(groups))]
        ends = [[] if bound.end is None else [bound.end] for bound in subjects]
        heard = WordPositions.of([[(*w, *end) for w in bound.words] for bound, end in zip(subjects, ends, strict=True)])

        def energy(records: AttentionRecords, samples: list[int], i: int) -> Losses:
            of_samples, chosen = [groups[sample] for sample in samples], heard[samples]
            sums: dict[str, list[Tensor]] = {"cross": [], "self": []}
            for record in records:
                masks = box_masks(of_samples, *record.site.resolution).to(record.probabilities)
                attended = _attended(record.probabilities.sum(dim=1), record.site, masks, chosen)
                inside = masks.flatten(2)
                outside = (1 - inside.amax(dim=1, keepdim=True)).expand_as(inside)
                sums[record.site.kind].append(torch.stack([(attended * area).sum(dim=2) for area in (inside, outside)]))
            exist = chosen.exist(records[0].probabilities)
            counts = exist.sum(dim=1)
            loss = sum(
                weight * (_missed(torch.stack(sums[kind]).sum(dim=0), counts) * exist).sum(dim=1)
                for kind, weight in (("cross", 1.5), ("self", 0.5))
                if sums[kind]
            )
            assert isinstance(loss, Tensor)
            return Losses(loss, loss, loss, loss / counts >= self.target)

        return energy

    def sites(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        """Those of `guidance_resolution` and half of it, from the coarsest site on."""
        size = guidance_resolution(task, latent_shape)
        return [s for s in _late(task, latent_shape) if s.resolution in (size, (size[0] // 2, size[1] // 2))]

    def refinements(self) -> dict[int, Refinement]:
        """At every guided call."""
        rounds = Refinement(torch.inf, self.max_rounds, closing=False)
        return dict.fromkeys(range(MOST_CALLS if self.guided_steps is None else self.guided_steps), rounds)

    def step_sizes(self, calls: int) -> list[float]:
        """Evenly from the first towards the final one, which the call after the guided ones would have."""
        guided = range(calls)[: self.guided_steps]
        whole = calls if self.guided_steps is None else self.guided_steps
        return [self.step_size + (self.final_step_size - self.step_size) * i / whole for i in guided]

    def _watched(self, task: Task) -> frozenset[str]:
        """Names of the sites that masks come from: those of 16x16 at the model's own size."""
        shape = (task.inputs.sample_size,) * 2
        size = guidance_resolution(task, shape)
        return frozenset(site.name for site in _late(task, shape) if site.resolution == size)


def _late(task: Task, latent_shape: Sequence[int]) -> list[Site]:
    """Sites from the coarsest on."""
    sites = task.network.sites(latent_shape)
    coarsest = min(site.resolution for site in sites)
    return sites[next(k for k, site in enumerate(sites) if site.resolution == coarsest) :]


def _bound(task: Task) -> dict[int, Subjects]:
    """The subjects of each sample that has any."""
    subjects = {sample: _subjects(task, sample) for sample in range(len(task.groups))}
    return {sample: bound for sample, bound in subjects.items() if bound.groups}


def _subjects(task: Task, sample: int) -> Subjects:
    """Without a pipeline no words are known, and none is closed."""
    known = words(task.pipeline.prompts[sample]) if task.pipeline else ()
    closed = [token for word in known if word.text.lower() in FUNCTION_WORDS for token in word.positions]
    last, keys = max(task.tokens[sample], default=-1), task.context.shape[1]
    return Subjects(placed([task.groups[sample]])[0], closed, last + 1 if 0 < last + 1 < keys else None)


def _attended(probabilities: Tensor, site: Site, masks: Tensor, heard: WordPositions) -> Tensor:
    """How much each pixel attends to each subject, [B, subject, pixel], from probabilities [B, query, key]: to its
    words, or to the pixels of its box [B, subject, h, w]."""
    if site.kind == "self":
        return masks.flatten(2) @ probabilities.mT
    maps = rearrange(probabilities, "b (h w) k -> b h w k", h=site.resolution[0])
    counted = (heard.shares > 0).to(maps)[..., None, None]
    return (heard.columns(maps) * counted).sum(dim=2).flatten(2)


def _missed(sums: Tensor, counts: Tensor) -> Tensor:
    """(1 - iou)^2 of each subject, [B, subject], from (F, G) [2, B, subject] and how many subjects there are [B]."""
    inside, outside = sums
    whole = inside + counts[:, None] * outside
    iou = inside / whole.clamp(min=torch.finfo(whole.dtype).tiny)
    missed: Tensor = (1 - iou) ** 2
    return missed
