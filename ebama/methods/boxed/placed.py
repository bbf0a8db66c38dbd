"""What methods with boxes share: which objects of a prompt have one, and the boxes as masks over maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...boxes import Box
from ...guidance import GradientMethod
from ...maps import GroupLike

MOST_CALLS = 1000  # of a sampler

Placed = Sequence[Sequence[GroupLike]]
"""Of each sample, the groups that have a box."""


def box_of(group: GroupLike) -> Box | None:
    """The box of a group; groups of another type than `ebama.prompt.Group` need have none."""
    box: Box | None = getattr(group, "box", None)
    return box


def placed(groups: Sequence[Sequence[Any]]) -> Placed:
    """The groups of each sample that have a box."""
    return [[group for group in of_sample if box_of(group)] for of_sample in groups]


def box_masks(samples: Placed, height: int, width: int) -> Tensor:
    """1 in the box of each object, 0 elsewhere, and for what is padded: [B, object, h, w] float32."""
    objects = max(map(len, samples), default=0)
    masks = torch.zeros(len(samples), objects, height, width, dtype=torch.float32, device="cpu")
    for of_sample, sample in zip(masks, samples, strict=True):
        for mask, group in zip(of_sample, sample, strict=False):
            if (box := box_of(group)) is not None:
                rows, columns = box.cells(height, width)
                mask[rows.start : rows.stop, columns.start : columns.stop] = 1
    return masks


class BoxMethod(GradientMethod):
    """An energy of the objects that have a box; a prompt without any is left alone, at no cost."""

    def applies_to(self, groups: Sequence[GroupLike]) -> bool:
        """Whether an object has a box."""
        return any(box_of(group) for group in groups)
