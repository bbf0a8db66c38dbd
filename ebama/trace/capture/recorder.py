"""Recording a trace: maps are averaged as the network runs, and kept, or written, call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ebama.models import AttentionCall, Control, Watch

from ...guidance import Conditioning, Task
from ...guidance.control import ChainedControl
from ..trace import Trace
from .files import call_file, load, write
from .options import TraceOptions
from .texts import OtherTexts


class TraceRecorder:
    """Collects one batch's maps call by call; `samples` are its numbers in the run, for the names of files."""

    def __init__(
        self,
        task: Task,
        conditioning: Conditioning,
        latent_shape: Sequence[int],
        options: TraceOptions,
        samples: Sequence[int] = (),
    ) -> None:
        self.sources = options.choose(task, latent_shape)
        prompts = tuple(task.inputs.prompts)
        self._options, self._rows, self._calls = options, conditioning.prompt_rows, task.calls
        self._samples = tuple(samples) or tuple(range(len(prompts)))
        keys = tuple(options.keys(prompt) for prompt in prompts) if options.words else ()
        self._columns = _padded(keys)
        texts = None
        if options.queries:
            texts = OtherTexts(task.network, task.inputs.encode, task.inputs.tokenizer, tuple(latent_shape[1:]))
        first, *more = self.sources
        self._empty = Trace(
            {},
            (),
            prompts,
            first.sites,
            first.head,
            more=tuple(more),
            keys=keys,
            texts=texts,
        )
        self._kept: dict[str, Tensor] = {}
        self._timesteps: list[int] = []

    def watching(self, control: Control | None) -> Control:
        """A control for one call: the given one, then the look at what it made of the scores."""
        self._sums: dict[str, Tensor] = {}
        sites = dict.fromkeys(site for source in self.sources for site in source.sites)
        self._watch = Watch(sites, self._look)
        return self._watch if control is None else ChainedControl([control, self._watch])

    def add(self, t: int, clean: Tensor, losses: Tensor, gradient_norms: Tensor) -> None:
        """Keep what was watched of one call, the clean latents [B, 4, h, w] that it predicts, and what guidance
        measured before it, [B] each."""
        self._watch.check_seen()
        values = {"losses": losses, "gradient_norms": gradient_norms}
        for source in self.sources:
            for name in ("scores", "probabilities"):
                if getattr(self._options, name):
                    maps = self._sums[source.kept_name(name)] / source.count
                    values[source.kept_name(name)] = maps.unflatten(1, source.resolution).half()
            values[source.kept_name("energy")] = self._sums[source.kept_name("energy")] / source.count
        values |= {name: query for name, query in self._sums.items() if name.startswith("queries/")}
        if self._options.latents:
            values["latents"] = clean.half()
        call = len(self._timesteps)
        self._timesteps.append(t)
        if self._options.folder is not None:
            made = replace(self._empty, kept={n: value[:, None].cpu() for n, value in values.items()}, timesteps=(t,))
            write(made, call_file(Path(self._options.folder), self._samples, call), call=call, samples=self._samples)
            return
        for name, value in values.items():
            if name not in self._kept:
                self._kept[name] = value.new_empty(len(value), self._calls, *value.shape[1:], device="cpu")
            self._kept[name][:, call] = value.cpu()

    def trace(self) -> Trace:
        """Everything kept so far."""
        if self._options.folder is not None:
            return load(Path(self._options.folder), self._empty.texts)
        kept = {name: values[:, : len(self._timesteps)] for name, values in self._kept.items()}
        return replace(self._empty, kept=kept, timesteps=tuple(self._timesteps))

    def _look(self, call: AttentionCall, scores: Tensor) -> None:
        """Add the maps of one layer to the sums of those sources that it belongs to."""
        scores = scores[self._rows].float()
        log_sums = scores.logsumexp(dim=-1)
        maps = {"scores": scores} if self._options.scores else {}
        if self._options.probabilities:
            maps["probabilities"] = (scores - log_sums[..., None]).exp()
        for source in self.sources:
            if call.site in source.sites:
                heads = slice(None) if source.head is None else slice(source.head, source.head + 1)
                for name, values in maps.items():
                    self._sum(source.kept_name(name), self._selected(values[:, heads].sum(dim=1)))
                self._sum(source.kept_name("energy"), -log_sums[:, heads].mean(dim=2).sum(dim=1))
        if self._options.queries:
            self._sums[f"queries/{call.site.name}"] = call.query[self._rows].half()

    def _sum(self, name: str, values: Tensor) -> None:
        self._sums[name] = values + self._sums[name] if name in self._sums else values

    def _selected(self, maps: Tensor) -> Tensor:
        """The keys to keep of maps [B, query, key]."""
        if self._columns is None:
            return maps
        columns = self._columns.to(maps.device)[:, None]
        return maps.gather(-1, columns.expand(-1, maps.shape[1], -1))


def _padded(keys: Sequence[Sequence[int]]) -> Tensor | None:
    """Positions of the keys to keep of each sample, [B, most keys], filled up with 0; None for all keys."""
    if not keys:
        return None
    most = max(map(len, keys))
    return torch.tensor([[*some, *[0] * (most - len(some))] for some in keys], dtype=torch.long, device="cpu")
