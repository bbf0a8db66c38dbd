"""BoxDiff: Xie et al. 2023. Written from a description of its mathematics; its code has no licence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ...guidance import Energy, Losses, Needs, Refinement, Task
from ...guidance.options import number, option, switch, thresholds, whole
from ...maps import ContentRange, GroupLike, first_tokens
from ...models import AttentionRecords
from ...smoothing import gaussian_smooth
from .placed import BoxMethod, Placed, box_masks, box_of, placed


@dataclass(frozen=True)
class BoxDiff(BoxMethod):
    """Draws each object into its box: with S the smoothed second softmax at the object's first token (as in `ane`) and
    m the box on the map's cells,

        L = sum over objects of max(0, 1 - top(S m)) + max(0, top(S (1 - m))) + corners(S, m),

    where top is the mean of the greatest values, a `share` of the cells inside (or outside) and one at least, and
    `corners` compares the projections of S and m around the sides of the box. At the thresholds' calls a sample is
    refined along the worst object's first term while that exceeds 1 - threshold; after that, the call's ordinary step
    goes down the first terms of all objects alone: in the published code the other two still belong to the latent
    before the refinement, and have no gradient.

    Departures: boxes are fractions of the picture (theirs are pixels of one of 512 whatever its size), and a box of so
    few cells that their share is none counts its greatest one (theirs gives NaN).

    Attributes:
        step_size: alpha at the first call; it falls as in `ane`.
        guided_steps: model calls that are guided.
        share: of the cells inside and outside that count.
        corner: cells on either side of a box's sides where projections are compared.
        refine: whether to refine. The authors' default; their README's first example does not.
        thresholds: (call, threshold) pairs.
        max_refinements: rounds at most, at each of them.
        normalize_eot: whether the second softmax leaves out the end of the text and the padding (see `ContentRange`).
    """

    name: ClassVar[str] = "boxdiff"
    changes: ClassVar[str] = "moves the latent: draws objects into their boxes"
    reference: ClassVar[str] = "Xie et al. 2023 (BoxDiff)"
    needs: ClassVar[Needs] = Needs(groups=True, boxes=True, sites="cross 16x16", gradient=True)
    decay_step_size: ClassVar[bool] = True

    step_size: float = 20.0
    guided_steps: int | None = 25
    share: float = option(0.2, number(lambda x: 0 <= x <= 1, "a share from 0 to 1"))
    corner: int = option(1, whole())
    refine: bool = option(True, switch)
    thresholds: tuple[tuple[int, float], ...] = option(((0, 0.05), (10, 0.5), (20, 0.8)), thresholds)
    max_refinements: int = option(20, whole())
    normalize_eot: bool = option(False, switch)

    def energy(self, task: Task) -> Energy:
        """`box_terms` of the objects that have a box."""
        groups = placed(task.groups)
        objects, content = first_tokens(groups), ContentRange.of(task.tokens, self.normalize_eot)
        targets = {i: 1 - threshold for i, threshold in self.thresholds}

        def energy(records: AttentionRecords, samples: list[int], i: int) -> Losses:
            words = objects[samples]
            maps = gaussian_smooth(words.means(content[samples].softmax(records.mean_probabilities())))
            terms = box_terms(maps, [groups[sample] for sample in samples], self.share, self.corner)
            exist = words.exist(maps)
            inner = terms.inner * exist
            worst = inner.amax(dim=1)
            total = ((terms.inner + terms.outer + terms.corners) * exist).sum(dim=1)
            return Losses(total, worst, inner.sum(dim=1), worst > targets.get(i, torch.inf))

        return energy

    def refinements(self) -> dict[int, Refinement]:
        """At the thresholds' calls."""
        pairs = self.thresholds if self.refine else ()
        return {i: Refinement(1 - threshold, self.max_refinements) for i, threshold in pairs}


class BoxTerms(NamedTuple):
    """The three terms of each object, [B, object]."""

    inner: Tensor
    outer: Tensor
    corners: Tensor


def box_terms(maps: Tensor, groups: Placed, share: float = 0.2, corner: int = 1) -> BoxTerms:
    """BoxDiff's terms from the smoothed maps [B, object, h, w] of groups that have a box."""
    h, w = maps.shape[-2:]
    masks = box_masks(groups, h, w).to(maps)
    inner = (1 - _top_mean(maps * masks, masks.sum(dim=(2, 3)), share)).clamp(min=0)
    outer = _top_mean(maps * (1 - masks), (1 - masks).sum(dim=(2, 3)), share).clamp(min=0)
    down, across = (_beside(groups, side, axis, corner).to(maps) for axis, side in enumerate((h, w)))
    rows = ((maps.amax(dim=3) - masks.amax(dim=3)).abs() * down).mean(dim=2)
    columns = ((maps.amax(dim=2) - masks.amax(dim=2)).abs() * across).mean(dim=2)
    return BoxTerms(inner, outer, rows + columns)


def _top_mean(maps: Tensor, cells: Tensor, share: float) -> Tensor:
    """Mean over the greatest values of each map [B, object, h, w], a share of its `cells` [B, object] and one at least.

    The share is taken in float32, whatever the maps are.
    """
    count = (cells.float() * share).long().clamp(min=1)[..., None]
    ordered = maps.flatten(2).sort(dim=-1, descending=True).values
    counted = torch.arange(ordered.shape[-1], device=maps.device) < count
    return (ordered * counted).sum(dim=-1) / count[..., 0]


def _beside(groups: Placed, side: int, axis: int, corner: int) -> Tensor:
    """1 for rows (axis 0) or columns (1) within `corner` of where each box begins, and of the first one after it; 0
    elsewhere: [B, object, side] float32."""
    beside = torch.zeros(len(groups), max(map(len, groups), default=0), side, dtype=torch.float32, device="cpu")
    for of_sample, sample in zip(beside, groups, strict=True):
        for line, group in zip(of_sample, sample, strict=False):
            for end in _ends(group, side, axis):
                line[max(end - corner, 0) : end + corner + 1] = 1
    return beside


def _ends(group: GroupLike, side: int, axis: int) -> Sequence[int]:
    box = box_of(group)
    cells = box.cells(side, side)[axis] if box else range(0)
    return cells.start, cells.stop
