"""What attention did during a run, kept for looking at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebama.models import AttentionRecords

from .methods.base import Conditioning, Task
from .methods.gradient import guidance_sites


@dataclass(frozen=True, eq=False)
class Trace:
    """Mean cross-attention maps of the prompt's branch at each model call, taken from the noise prediction itself.

    Attributes:
        scores: before softmax, [N, calls, h, w, key], float16 on the CPU.
        probabilities: after softmax, same shape and type.
        energy: of cross-attention in the sense of Park et al. 2023, [N, calls], float32 on the CPU: minus the
            logarithm of the sum over the keys of exp(scores), averaged over the same sites, their heads and pixels.
        timesteps: of the calls.

    All are of the scores that softmax sees; what a control makes of the probabilities after it is not in them.
    """

    scores: Tensor
    probabilities: Tensor
    energy: Tensor
    timesteps: tuple[int, ...]

    @staticmethod
    def joined(parts: Sequence[Trace], order: Sequence[int]) -> Trace:
        """The traces of several batches as one, whose sample k is the `order[k]`th of theirs."""
        scores, probabilities, energy = (
            torch.cat([getattr(part, name) for part in parts])[list(order)]
            for name in ("scores", "probabilities", "energy")
        )
        return Trace(scores, probabilities, energy, parts[0].timesteps)


class TraceRecorder:
    """Collects one batch's maps call by call."""

    def __init__(self, task: Task, conditioning: Conditioning, latents: Tensor) -> None:
        self.sites = guidance_sites(task, latents.shape)
        self._rows = conditioning.main
        self._maps: list[tuple[Tensor, Tensor, Tensor]] = []
        self._timesteps: list[int] = []

    def add(self, t: int, records: AttentionRecords) -> None:
        """Keep the maps of one call, whose batch are the conditioning's rows."""
        scores, probabilities = records.mean_scores(), records.mean_probabilities()
        per_head = torch.cat([record.scores[self._rows].float().logsumexp(dim=-1) for record in records], dim=1)
        energy = -per_head.mean(dim=(1, 2))
        self._maps.append((scores[self._rows].half().cpu(), probabilities[self._rows].half().cpu(), energy.cpu()))
        self._timesteps.append(t)

    def trace(self) -> Trace:
        """Everything kept so far."""
        scores, probabilities, energy = (torch.stack(maps, dim=1) for maps in zip(*self._maps, strict=True))
        return Trace(scores, probabilities, energy, tuple(self._timesteps))
