"""Maps as masks, and how far masks agree."""

from __future__ import annotations

import torch
from torch import Tensor

_BINS = 256


def otsu(map_: Tensor) -> Tensor:
    """Where a map [h, w] is above the threshold that parts its values best (Otsu 1979): the one with the greatest
    variance between the two classes. Nowhere, if all values are the same."""
    values = map_.double().flatten()
    low, high = values.aminmax()
    if not low < high:
        return torch.zeros_like(map_, dtype=torch.bool)
    counts = values.histc(_BINS, low.item(), high.item())
    centres = low + (torch.arange(_BINS, dtype=torch.float64, device="cpu") + 0.5) * (high - low) / _BINS
    below, sums = counts.cumsum(0)[:-1], (counts * centres).cumsum(0)
    above = len(values) - below
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    threshold = low + (between.argmax() + 1) * (high - low) / _BINS
    return map_ >= threshold


def intersection_over_union(first: Tensor, second: Tensor) -> float:
    """Of two masks, booleans of one shape; 0 where both are empty."""
    return ((first & second).sum() / (first | second).sum().clamp(min=1)).item()
