"""Conditioning: the rows of the network's batch in a model call, and how their noise estimates combine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..models import Network
from ..models.conditions import with_tokens


@dataclass(frozen=True)
class Conditioning:
    """Which rows the network's batch has in a model call and how their noise estimates combine.

    Attributes:
        contexts: one for each row, [R, key, D].
        sample_index: the sample whose latent each row sees, [R].
        weights: epsilon of sample b = sum over rows r of weights[b, r] e_r, [B, R] float32.
        prompt_rows: the row that stands for the prompt of each sample, [B]; a trace shows its attention.
        negatives: whether the first B rows are the samples' negative prompts.
    """

    contexts: Tensor
    sample_index: Tensor
    weights: Tensor
    prompt_rows: Tensor
    negatives: bool = False

    def against(self, tokens: Tensor) -> Conditioning:
        """The same with other negative prompts, the tokens of one for each sample, [B, key, D]; without negative rows,
        as at a guidance scale of 1, nothing changes."""
        if not self.negatives:
            return self
        count = len(self.prompt_rows)
        negatives = with_tokens(self.contexts[:count], tokens.to(self.contexts))
        return replace(self, contexts=torch.cat([negatives, self.contexts[count:]]))

    def predict(self, network: Network, z: Tensor, t: int, **options: Any) -> Tensor:
        """The network's output for latents z [B, 4, h, w], float32; the `options` are those of `Network.__call__`."""
        rows = network(z.to(self.contexts.dtype)[self.sample_index], t, self.contexts, **options)
        return combine(rows.float(), self.weights)

    def rows_of_whole_prompts(self, context: Tensor, samples: Sequence[int], name: str) -> Tensor:
        """The `prompt_rows` of some samples, whose prompts are encoded as `context` [B, key, D]; ValueError, for the
        method called `name`, if these rows hold anything else, as where a method splits the prompts."""
        rows, wanted = self.prompt_rows[list(samples)], context[list(samples)]
        if not torch.equal(self.contexts[rows], wanted):
            raise ValueError(f"{name} edits the scores of whole prompts; it cannot run with one that splits them.")
        return rows

    @classmethod
    def prompts_alone(cls, context: Tensor) -> Conditioning:
        """One row for each sample, under its prompt [B, key, D]: no guidance, and what a guided pass sees."""
        rows = torch.arange(len(context), device=context.device)
        return cls(context, rows, torch.eye(len(context), dtype=torch.float32, device=context.device), rows)


def classifier_free(
    negative: Tensor, contexts: Tensor, samples: Sequence[int], weights: Sequence[float]
) -> Conditioning:
    """epsilon_b = e_b + sum over j with samples[j] = b of weights[j] (e_j - e_b).

    e_b is the estimate under `negative` [B, key, D], e_j that under `contexts` [n, key, D]. The rows are the negatives,
    then the contexts. The first context of each sample stands for its prompt.
    """
    count = len(negative)
    index = torch.tensor([*range(count), *samples], device="cpu")
    matrix = torch.zeros(count, len(index), dtype=torch.float32, device="cpu")
    for row, (sample, weight) in enumerate(zip(samples, weights, strict=True), start=count):
        matrix[sample, row] = weight
    matrix[:, :count] = torch.diag(1 - matrix.sum(dim=1))
    prompt_rows = torch.tensor([count + list(samples).index(sample) for sample in range(count)], device="cpu")
    device = negative.device
    contexts = torch.cat([negative, contexts])
    return Conditioning(contexts, index.to(device), matrix.to(device), prompt_rows.to(device), negatives=True)


def combine(epsilons: Tensor, weights: Tensor) -> Tensor:
    """Noise estimates [R, 4, h, w] of all rows, weighted by [B, R], to those of the samples [B, 4, h, w]."""
    with torch.autocast(epsilons.device.type, enabled=False):
        combined: Tensor = torch.tensordot(weights, epsilons, dims=1)
    return combined
