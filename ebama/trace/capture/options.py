"""The parts of every model call that a trace keeps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ebama.models import Site

from ...checks import expect, plain_all
from ...guidance import Task, guidance_resolution
from ...prompt import Parsed
from ...prompt.words import occurrences
from .files import check_empty
from .source import Source

Size: TypeAlias = int | tuple[int, int]
"""One side or (height, width)."""


@dataclass(frozen=True)
class TraceOptions:
    """The parts of every model call that a trace keeps.

    The defaults keep the mean maps that guidance sees, 77 KiB each call of a sample of Stable Diffusion v1. Maps are
    averaged as the network runs: what is not kept costs no memory beyond the layer that makes it.

    Attributes:
        scores: keep the maps before softmax.
        probabilities: keep those after it.
        kind: of the attention layers, "cross" (keys are the text's positions) or "self" (keys are pixels).
        resolution: of their maps, one side or (height, width); a list of several, each with maps of its own; "all";
            None for the one that guides, 16x16 at the model's own size.
        sites: names of layers as `Network.sites` lists them, of one kind, instead of those of `kind` and `resolution`;
            of one resolution too, unless `by_site`.
        by_site: beside the mean over layers also the maps of each layer.
        head: one head of every layer, for the mean over the heads None; several, or "all", have maps of their own
            beside that mean.
        words: keep the keys of these words of the prompts alone, wherever they stand, or of "all" words; without any,
            all keys: also start, end and padding.
        latents: also keep the clean latent that each call predicts; `Pipeline.decode` makes a picture of it.
        queries: also keep the layers' queries, for the maps of other texts (`Trace.maps(word, text=...)`): 3 MiB each
            call for the five layers of the defaults, 22 MiB with all cross-attention.
        folder: write each call to a file of its own in this folder, new or without such files, instead of holding it;
            `Trace.load` opens the folder, also after a run that broke off.
    """

    scores: bool = True
    probabilities: bool = True
    kind: Literal["cross", "self"] = "cross"
    resolution: Size | Sequence[Size] | Literal["all"] | None = None
    sites: Sequence[str] = ()
    head: int | Sequence[int] | Literal["all"] | None = None
    latents: bool = False
    by_site: bool = False
    words: Sequence[str] | Literal["all"] = ()
    queries: bool = False
    folder: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("cross", "self"):
            raise ValueError(f"kind is {self.kind!r}; expected 'cross' or 'self'.")
        named = isinstance(self.folder, str | os.PathLike) and bool(os.fspath(self.folder))
        expect("folder", self.folder, self.folder is None or named, "a folder's name, or None to hold the calls")
        for name in ("resolution", "head"):
            object.__setattr__(self, name, plain_all(getattr(self, name)))
        if self.resolution not in (None, "all"):
            object.__setattr__(self, "resolution", self._sizes())
        for name, holds in (("sites", "names of layers, as `Network.sites` lists them"), ("words", "words of prompts")):
            given = plain_all(getattr(self, name))
            if name == "words" and given == "all":
                continue
            texts = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
            if texts == (given,) or not all(isinstance(one, str) for one in texts):
                raise ValueError(f"{name} are {given!r}; expected {holds}.")
            object.__setattr__(self, name, texts)
        if self.head is not None and self.head != "all":
            heads = tuple(self.head) if isinstance(self.head, list | tuple) else (self.head,)
            if not heads or not all(type(head) is int and head >= 0 for head in heads):
                raise ValueError(
                    f"head is {self.head!r}; expected a whole number of at least 0, a list of them, 'all', or None for "
                    "the mean."
                )
            object.__setattr__(self, "head", heads if isinstance(self.head, list | tuple) else self.head)
        if self.kind == "self" and (self.words or self.queries):
            raise ValueError("words and queries are for cross-attention; the keys of self-attention are pixels.")

    def _sizes(self) -> tuple[tuple[int, int], ...]:
        """The resolutions as (height, width); ValueError for what is none."""
        given: Any = self.resolution
        nested = isinstance(given, list) or (isinstance(given, tuple) and all(isinstance(one, tuple) for one in given))
        sizes: list[Any] = [one if isinstance(one, tuple) else (one, one) for one in (given if nested else [given])]
        if not sizes or not all(len(size) == 2 and all(type(n) is int and n > 0 for n in size) for size in sizes):
            raise ValueError(
                f"resolution is {given!r}; expected a side in pixels, as 16, or (height, width), a list of them, or "
                "'all'."
            )
        return tuple(dict.fromkeys(sizes))

    def check(self, prompts: Sequence[Parsed]) -> None:
        """Raise ValueError for words that no prompt has, or a folder that holds a trace."""
        for word in () if self.words == "all" else self.words:
            if not any(occurrences(prompt, word) for prompt in prompts):
                asked = " and ".join(dict.fromkeys(repr(prompt.prompt) for prompt in prompts))
                raise ValueError(f"The word {word!r}, whose maps the trace should keep, is not in {asked}.")
        if self.folder is not None:
            check_empty(Path(self.folder))

    def keys(self, prompt: Parsed) -> tuple[int, ...]:
        """Positions along the key axis of the `words` that a prompt has."""
        if self.words == "all":
            return tuple(prompt.tokens)
        return tuple(sorted({at for word in self.words for place in occurrences(prompt, word) for at in place}))

    def choose(self, task: Task, latent_shape: Sequence[int]) -> list[Source]:
        """What maps are kept of a network, for latents [..., h, w]; the first of each resolution is its mean.

        Raises ValueError, which lists the layers there are, if none fits, if they differ in kind or resolution, or if
        one has no such head.
        """
        sites = self._sites(task, latent_shape)
        order: list[Any] = list(dict.fromkeys(site.resolution for site in sites))
        sources: list[tuple[tuple[Site, ...], int | None]] = []
        for _, same in groupby(sorted(sites, key=lambda site: order.index(site.resolution)), lambda s: s.resolution):
            layers = tuple(same)
            means = [layers, *((site,) for site in layers if self.by_site and len(layers) > 1)]
            sources += [(mean, head) for mean in means for head in self._heads(mean)]
        return [Source(mean, head, number) for number, (mean, head) in enumerate(sources)]

    def _heads(self, sites: Sequence[Site]) -> list[int | None]:
        if self.head == "all":
            return [None, *range(min(site.heads for site in sites))]
        return [None, *self.head] if isinstance(self.head, tuple) else [self.head]  # type: ignore[list-item]

    def _sites(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        available = task.network.sites(latent_shape)
        problem = ""
        if self.sites:
            chosen = [site for site in available if site.name in self.sites]
            if missing := sorted({*self.sites} - {site.name for site in chosen}):
                problem = f"There is no attention site {', '.join(missing)}"
            elif len({(site.kind, self.by_site or site.resolution) for site in chosen}) > 1:
                problem = "The chosen sites differ in kind or resolution, so their maps have no mean"
        else:
            chosen = []
            for size in self._wanted(available, guidance_resolution(task, latent_shape)):
                fitting = [site for site in available if site.kind == self.kind and site.resolution == size]
                chosen += fitting
                if not fitting:
                    problem = f"No {self.kind}-attention site has maps of {size[0]}x{size[1]}"
        heads = self.head if isinstance(self.head, tuple) else (self.head,)
        for head in heads:
            if not problem and isinstance(head, int) and head >= min(site.heads for site in chosen):
                problem = f"Not every chosen site has a head {head} (heads count from 0)"
        if problem:
            raise ValueError(f"{problem}; there are: {'; '.join(str(site) for site in available)}.")
        return chosen

    def _wanted(self, available: Sequence[Site], usual: tuple[int, int]) -> list[Any]:
        if self.resolution == "all":
            sizes = {site.resolution for site in available if site.kind == self.kind}
            return sorted(sizes, key=lambda size: size[0] * size[1], reverse=True)
        return [usual] if self.resolution is None else list(self.resolution)  # type: ignore[arg-type]
