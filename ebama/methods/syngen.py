"""SynGen: Rassin et al. 2023, linguistic binding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ebama.models import AttentionRecords

from ..energy import GroupLike, Groups, Tokens, check_positions, inside_and_outside, stacked
from ..guidance.gradient import Energy, GradientMethod
from ..guidance.method import Needs, Task
from ..prompt import Parsed


@dataclass(frozen=True)
class SynGen(GradientMethod):
    """Draws the maps of a modifier and its noun together and both away from all other words.

    A prompt without modifiers is plain Stable Diffusion, and costs what that costs.

    Attributes:
        step_size: alpha in z - alpha dL/dz; 20 in the code.
        guided_steps: model calls that are guided; 25 in the code.
    """

    name: ClassVar[str] = "syngen"
    changes: ClassVar[str] = "moves the latent: binds modifiers to nouns by probabilities"
    reference: ClassVar[str] = "Rassin et al. 2023 (SynGen)"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16", gradient=True)
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"sd-v1": {"step_size": 20.0}, "miniature": {"step_size": 3.0}}

    step_size: float | None = None
    guided_steps: int | None = 25

    def energy(self, task: Task) -> Energy:
        """`syngen_loss`."""

        def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
            prompts = [task.prompts[sample] for sample in samples]
            return syngen_loss(
                records.mean_probabilities(),
                [prompt.groups for prompt in prompts],
                [prompt.tokens for prompt in prompts],
            )

        return energy

    def applies_to(self, prompt: Parsed) -> bool:
        """Whether it has a modifier."""
        return any(group.modifiers for group in prompt.groups)


def syngen_loss(probabilities: Tensor, groups: Groups, tokens: Tokens) -> Tensor:
    """Loss of each sample, [B], from mean probabilities [B, h, w, key].

    With D(a, b) the symmetric Kullback-Leibler divergence of two columns, each normalised over the pixels, P(x) the
    pieces of a word and O the content positions outside the group of noun n, the sum over its modifiers m of
    max over P(m) x P(n) of D - 1/2 mean over o in O of (max over b in P(n) of D(b, o) + max over a in P(m) of D(a, o));
    the mean over an empty O is 0. Probabilities are clamped to [eps, 1 - eps] inside the logarithm only; unlike the
    published code an exact 0 gives a large divergence, not an infinite one.

    Raises ValueError for lists that do not match the batch and for positions outside the key axis.
    """
    maps = probabilities.float() if probabilities.itemsize < 4 else probabilities
    return stacked(_binding, rearrange(maps, "b h w k -> b k (h w)"), groups, tokens)


def _binding(columns: Tensor, groups: Sequence[GroupLike], tokens: Sequence[int]) -> Tensor:
    """`syngen_loss` of one sample with columns [key, pixels]."""
    loss = columns.new_zeros(())
    for group in groups:
        pieces, outside = inside_and_outside(group, tokens)
        check_positions((*group.object, *pieces, *outside), len(columns))
        own = symmetric_divergences(columns[pieces], columns[list(group.object)])
        others = symmetric_divergences(columns[[*pieces, *group.object]], columns[outside])
        noun, row = others[len(pieces) :].amax(dim=0), 0
        for modifier in group.modifiers:
            rows = slice(row, row + len(modifier))
            row += len(modifier)
            loss = loss + own[rows].max()
            if outside:
                loss = loss - (noun + others[rows].amax(dim=0)).mean() / 2
    return loss


def symmetric_divergences(a: Tensor, b: Tensor) -> Tensor:
    """1/2 (KL(p || q) + KL(q || p)) of all rows of a [n, pixels] and b [m, pixels], normalised over pixels: [n, m]."""
    eps = torch.finfo(a.dtype).eps
    p, q = (rows / rows.sum(dim=-1, keepdim=True) for rows in (a, b))
    log_p, log_q = (rows.clamp(eps, 1 - eps).log() for rows in (p, q))
    own_p, own_q = (p * log_p).sum(dim=-1), (q * log_q).sum(dim=-1)
    return (own_p[:, None] + own_q - p @ log_q.T - log_p @ q.T) / 2
