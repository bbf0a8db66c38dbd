"""What attention did during a run, kept for looking at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebama.models import AttentionRecords, Site

from .methods.base import Conditioning, Task
from .methods.gradient import guidance_resolution


@dataclass(frozen=True, eq=False)
class Trace:
    """Mean cross-attention maps of the prompt's branch at each model call, taken from the noise prediction itself.

    Attributes:
        scores: before softmax, [N, calls, h, w, key], float16 on the CPU.
        probabilities: after softmax, same shape and type.
        timesteps: of the calls.
    """

    scores: Tensor
    probabilities: Tensor
    timesteps: tuple[int, ...]

    @staticmethod
    def joined(parts: Sequence[Trace], order: Sequence[int]) -> Trace:
        """The traces of several batches as one, whose sample k is the `order[k]`th of theirs."""
        scores, probabilities = (
            torch.cat([getattr(part, name) for part in parts])[list(order)] for name in ("scores", "probabilities")
        )
        return Trace(scores, probabilities, parts[0].timesteps)


class TraceRecorder:
    """Collects one batch's maps call by call."""

    def __init__(self, task: Task, conditioning: Conditioning, latents: Tensor) -> None:
        resolution = guidance_resolution(task, latents)
        self.sites: list[Site] = [
            site for site in task.unet.sites(latents.shape) if site.kind == "cross" and site.resolution == resolution
        ]
        self._rows = conditioning.main
        self._maps: list[tuple[Tensor, Tensor]] = []
        self._timesteps: list[int] = []

    def add(self, t: int, records: AttentionRecords) -> None:
        """Keep the maps of one call, whose batch are the conditioning's rows."""
        scores, probabilities = records.mean_scores(), records.mean_probabilities()
        self._maps.append((scores[self._rows].half().cpu(), probabilities[self._rows].half().cpu()))
        self._timesteps.append(t)

    def trace(self) -> Trace:
        """Everything kept so far."""
        scores, probabilities = (torch.stack(maps, dim=1) for maps in zip(*self._maps, strict=True))
        return Trace(scores, probabilities, tuple(self._timesteps))
