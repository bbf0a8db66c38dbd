"""Figure 1 of the paper as numbers: how bright each object's map is and how alike those of each pair, call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ..maps import GroupLike
from ..smoothing import gaussian_peak
from .trace import Trace


@dataclass(frozen=True, eq=False)
class Curves:
    """Lines to draw: `values` [n, calls] float32, one row for each of `labels`, a column for each of `timesteps`."""

    quantity: str
    labels: tuple[str, ...]
    values: npt.NDArray[np.float32]
    timesteps: tuple[int, ...]


def intensity(trace: Trace, groups: Sequence[GroupLike] | None = None, *, sample: int = 0) -> Curves:
    """max over pixels of (K * Ã_s) for each object s: the peak of its smoothed probabilities, in [0, 1].

    It is -L_n(s) of `energy.intensity_loss`. `groups` are those of the prompt as the run read it, if not given; a
    method that needs none, such as `sd`, has none. A word of several tokens has the mean of their maps.
    """
    groups = trace.prompts[sample].groups if groups is None else groups
    maps = [trace.maps(group.object, sample=sample) for group in groups]
    values = gaussian_peak(torch.stack(maps)) if maps else _none(trace)
    return _curves("intensity", trace, sample, [(group.object,) for group in groups], values)


def similarity(trace: Trace, groups: Sequence[GroupLike] | None = None, *, sample: int = 0) -> Curves:
    """f(A_s, A_l) for each object s and each of its modifiers l: the cosine of their maps before softmax, in [-1, 1].

    It is the attracting part of L_b of `energy.binding_loss`, pair by pair; `groups` as for `intensity`.
    """
    groups = trace.prompts[sample].groups if groups is None else groups
    pairs = [(modifier, group.object) for group in groups for modifier in group.modifiers]
    columns = {
        word: rearrange(trace.maps(word, sample=sample, of="scores"), "i h w -> i (h w)")
        for word in {word for pair in pairs for word in pair}
    }
    cosines = [F.cosine_similarity(columns[modifier], columns[noun], dim=-1) for modifier, noun in pairs]
    values = torch.stack(cosines) if cosines else _none(trace)
    return _curves("similarity", trace, sample, pairs, values)


def _none(trace: Trace) -> Tensor:
    """No curves over a trace's calls, [0, call]."""
    return torch.zeros(0, len(trace.timesteps), dtype=torch.float32, device="cpu")


def _curves(
    quantity: str, trace: Trace, sample: int, lines: Sequence[tuple[tuple[int, ...], ...]], values: Tensor
) -> Curves:
    """Each line is named by its words; equal names are numbered."""
    names = [" ".join(trace.prompts[sample].text(*word) for word in line) for line in lines]
    labels = [
        f"{name} ({names[: k + 1].count(name)})" if names.count(name) > 1 else name for k, name in enumerate(names)
    ]
    return Curves(quantity, tuple(labels), values.numpy(), trace.timesteps)
