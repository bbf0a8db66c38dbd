"""The second softmax that Attend-and-Excite introduced and others took over."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor

from ..energy import GroupLike, check_positions


def token_softmax(probabilities: Tensor) -> Tensor:
    """Softmax over positions 1..75 of 100 times mean probabilities [B, h, w, 77]; [B, h, w, 75].

    Drops the start token and the last position: end and padding positions in between stay in. Prompt position p is
    column p - 1.
    """
    return (100 * probabilities[..., 1:-1]).softmax(dim=-1)


def object_maps(probabilities: Tensor, samples: Sequence[Sequence[GroupLike]]) -> list[list[Tensor]]:
    """For each sample the second softmax [h, w] at the first piece of each object, from probabilities [B, h, w, 77].

    Raises ValueError for positions outside 1..75.
    """
    sharpened = rearrange(token_softmax(probabilities), "b h w k -> b k h w")
    for groups in samples:
        check_positions([group.object[0] - 1 for group in groups], sharpened.shape[1])
    return [[maps[group.object[0] - 1] for group in groups] for maps, groups in zip(sharpened, samples, strict=True)]
