"""The second softmax that Attend-and-Excite introduced and others took over."""

from __future__ import annotations

from torch import Tensor


def token_softmax(probabilities: Tensor) -> Tensor:
    """Softmax over positions 1..75 of 100 times mean probabilities [B, h, w, 77]; [B, h, w, 75].

    Drops the start token and the last position: end and padding positions in between stay in. Prompt position p is
    column p - 1.
    """
    return (100 * probabilities[..., 1:-1]).softmax(dim=-1)
