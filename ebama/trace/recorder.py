"""Recording a trace: which maps are kept, and how they are collected call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ebama.models import AttentionRecords, Site

from ..guidance import Conditioning, Task, guidance_resolution
from .trace import Trace


@dataclass(frozen=True)
class TraceOptions:
    """The parts of every model call that a trace keeps.

    The defaults keep the mean maps that guidance sees, 77 KiB each call of a sample of Stable Diffusion v1.

    Attributes:
        scores: keep the maps before softmax.
        probabilities: keep those after it.
        kind: of the attention layers, "cross" (keys are the text's positions) or "self" (keys are pixels).
        resolution: of their maps, one side or (height, width); None for the one that guides, 16x16 at the model's
            own size.
        sites: names of layers as `Network.sites` lists them, all of one kind and resolution, instead of those of `kind`
            and `resolution`.
        head: one head of every layer; None for the mean over the heads.
        latents: also keep the clean latent that each call predicts; `Pipeline.decode` makes a picture of it.
    """

    scores: bool = True
    probabilities: bool = True
    kind: Literal["cross", "self"] = "cross"
    resolution: int | tuple[int, int] | None = None
    sites: tuple[str, ...] = ()
    head: int | None = None
    latents: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("cross", "self"):
            raise ValueError(f"kind is {self.kind!r}; expected 'cross' or 'self'.")
        sides = self.resolution if isinstance(self.resolution, tuple) else (self.resolution, self.resolution)
        if self.resolution is not None and not (len(sides) == 2 and all(type(n) is int and n > 0 for n in sides)):
            raise ValueError(
                f"resolution is {self.resolution!r}; expected a side in pixels, as 16, or (height, width)."
            )
        if isinstance(self.sites, str) or not all(isinstance(name, str) for name in self.sites):
            raise ValueError(f"sites are {self.sites!r}; expected names of layers, as `Network.sites` lists them.")
        object.__setattr__(self, "sites", tuple(self.sites))
        if self.head is not None and (type(self.head) is not int or self.head < 0):
            raise ValueError(f"head is {self.head!r}; expected a whole number of at least 0, or None for the mean.")

    def choose(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        """The layers of a network whose maps are kept, for latents [..., h, w].

        Raises ValueError, which lists the layers there are, if none fits, if they differ in kind or resolution, or if
        one has no such head.
        """
        available = task.network.sites(latent_shape)
        if self.sites:
            chosen = [site for site in available if site.name in self.sites]
            problem = f"There is no attention site {', '.join(sorted({*self.sites} - {s.name for s in chosen}))}"
            fits = len(chosen) == len(set(self.sites))
        else:
            size = (self.resolution, self.resolution) if isinstance(self.resolution, int) else self.resolution
            size = size or guidance_resolution(task, latent_shape)
            chosen = [site for site in available if site.kind == self.kind and site.resolution == size]
            problem, fits = f"No {self.kind}-attention site has maps of {size[0]}x{size[1]}", bool(chosen)
        if fits and len({(site.kind, site.resolution) for site in chosen}) > 1:
            problem, fits = "The chosen sites differ in kind or resolution, so their maps have no mean", False
        if fits and self.head is not None and self.head >= min(site.heads for site in chosen):
            problem, fits = f"Not every chosen site has a head {self.head} (heads count from 0)", False
        if not fits:
            raise ValueError(f"{problem}; there are: {'; '.join(str(site) for site in available)}.")
        return chosen


class TraceRecorder:
    """Collects one batch's maps call by call."""

    def __init__(
        self, task: Task, conditioning: Conditioning, latent_shape: Sequence[int], options: TraceOptions
    ) -> None:
        self.sites = options.choose(task, latent_shape)
        self._prompts, self._rows, self._options = tuple(task.inputs.prompts), conditioning.prompt_rows, options
        self._calls: list[dict[str, Tensor]] = []
        self._timesteps: list[int] = []

    def add(self, t: int, records: AttentionRecords, clean: Tensor) -> None:
        """Keep what is wanted of one call: records whose batch are the conditioning's rows, and the clean latents
        [B, 4, h, w] that it predicts."""
        options = self._options
        heads = slice(None) if options.head is None else slice(options.head, options.head + 1)
        own = AttentionRecords([record.select(self._rows, heads) for record in records])
        energy = -torch.cat([record.scores.float().logsumexp(dim=-1) for record in own], dim=1).mean(dim=(1, 2))
        kept = {"energy": energy.cpu()}
        if options.scores:
            kept["scores"] = own.mean_scores().half().cpu()
        if options.probabilities:
            kept["probabilities"] = own.mean_probabilities().half().cpu()
        if options.latents:
            kept["latents"] = clean.half().cpu()
        self._calls.append(kept)
        self._timesteps.append(t)

    def trace(self, losses: Tensor, gradient_norms: Tensor) -> Trace:
        """Everything kept so far, with what guidance measured: [B, calls] each."""
        kept = {name: torch.stack([call[name] for call in self._calls], dim=1) for name in self._calls[0]}
        kept |= {"losses": losses, "gradient_norms": gradient_norms}
        return Trace(kept, tuple(self._timesteps), self._prompts, tuple(self.sites), self._options.head)
