"""From a request to pictures, with what is shown of their attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..output.naming import slug
from ..output.png import encoded
from ..prompt import Parsed, PromptError, parse
from ..prompt.alignment import align
from ..prompt.words import place
from ..starts import latent_size
from ..trace import Trace, TraceOptions, curves
from ..trace.view import layer_of
from .jobs import Job
from .request import MAX_ENLARGEMENT, MAX_PASSES, GenerateRequest

if TYPE_CHECKING:
    from pathlib import Path

    from ..pipeline import Pipeline

MAX_MAPS = 4_000_000
"""Bytes of a picture's maps, at most, but for the mean, which is always there."""


@dataclass(frozen=True)
class PreparedRequest:
    """A request whose prompt has been parsed; `notes` are lines that its visitor should see."""

    request: GenerateRequest
    parsed: Parsed
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and what is shown beside it.

    Attributes:
        method: as the request names it.
        png: the file, its recipe inside; `name` is what to call it.
        maps: of the prompt's words after softmax, [layers, words, calls, h, w] float16: `layers` says what each is of.
        lines: for each quantity of `ebama.trace.curves` its name and lines, a label, a group and a value for each call.
    """

    method: str
    seed: int
    png: bytes
    name: str
    maps: npt.NDArray[np.float16]
    timesteps: tuple[int, ...]
    layers: list[dict[str, str]]
    lines: dict[str, list[dict[str, Any]]]


@dataclass(eq=False)
class Service:
    """A pipeline, and what is the same for all requests.

    Prompts are parsed in another thread than the one in which pictures are made.
    """

    pipeline: Pipeline
    weights: Path | None = None
    dtype: str = "float32"
    batch: int = 4
    parser: str = "auto"

    def __post_init__(self) -> None:
        parse("a cat", self.pipeline.sd.tokenizer, self.parser)  # opens the parser now, so that no visitor waits for it

    @property
    def longest_side(self) -> int:
        """Pixels of a picture's side, at most."""
        config = self.pipeline.sd.config
        return MAX_ENLARGEMENT * config.sample_size * config.vae.factor

    def prepare(self, request: GenerateRequest) -> PreparedRequest:
        """Parse the prompt; ValueError if a method cannot work with it or would take too long."""
        config, tokenizer = self.pipeline.sd.config, self.pipeline.sd.tokenizer
        latent_size(config, request.size)
        if request.size and max(request.size) > self.longest_side:
            raise ValueError(f"size is {request.size}; expected at most {self.longest_side} pixels a side here.")
        chosen = {name: choice.complete(config) for name, choice in request.parsed_methods.items()}
        try:
            parsed = parse(request.prompt, tokenizer, self.parser)
        except PromptError:
            if request.boxes or any(method.needs.groups for method in chosen.values()):
                raise
            parsed = parse(request.prompt, tokenizer, self.parser, groups=())
        parsed = place(parsed, request.boxes)
        for name, method in chosen.items():
            cost = method.cost(parsed, request.calls)
            if (passes := cost.predictions + cost.attention + cost.backwards) > MAX_PASSES:
                raise ValueError(f"{name} may take {passes} passes a picture; expected at most {MAX_PASSES}.")
        notes = []
        if lost := align(request.prompt, tokenizer).lost():
            notes.append(f"The text encoder sees only the beginning of this prompt; it does not see: {lost}.")
        vocabulary = self.pipeline.sd.vocabulary
        if vocabulary is not None and (unknown := vocabulary.unknown_words(request.prompt)):
            notes.append(f"The {vocabulary.name} does not know: {', '.join(unknown)}.")
        return PreparedRequest(request, parsed, tuple(notes))

    def make(self, job: Job) -> None:
        """The work of a job whose payload is a `PreparedRequest`: its pictures join the results method by method."""
        prepared: PreparedRequest = job.payload
        request = prepared.request
        for name, method in request.parsed_methods.items():
            job.begin(name)
            result = self.pipeline(
                request.prompt,
                seeds=request.seed_numbers,
                size=request.size,
                method=method,
                steps=request.steps,
                guidance=request.guidance,
                sampler=request.sampler,
                negative_prompt=request.negative_prompt,
                groups=prepared.parsed.groups,
                parser=self.parser,
                batch_size=self.batch,
                trace=TraceOptions(by_site=True, head="all", words="all"),
                progress=False,
                on_call=job.progress,
            )
            assert result.images is not None
            assert result.trace is not None
            pictures = zip(request.seed_numbers, result.images, result.recipes, strict=True)
            for sample, (seed, image, recipe) in enumerate(pictures):
                png = encoded(image, recipe.loaded_from(self.weights, self.dtype).to_metadata())
                file = f"{slug(request.prompt)}-{slug(name)}-seed{seed:04d}.png"
                job.results.append(_picture(name, seed, png, file, result.trace, sample))


def _picture(method: str, seed: int, png: bytes, name: str, trace: Trace, sample: int) -> Picture:
    words, groups = trace.words(sample), trace.prompts[sample].groups
    height, width = trace.sites[0].resolution
    shape = len(words), len(trace.timesteps), height, width
    most = max(MAX_MAPS // max(2 * math.prod(shape), 1), 1)
    sources = sorted(trace.sources, key=lambda source: source.head is not None)[:most]  # means before single heads
    maps = np.zeros((len(sources), *shape), np.float16)
    for layer, source in zip(maps, sources, strict=True):
        for index, word in enumerate(words):
            layer[index] = trace.of_sources(source).maps(word.positions, sample=sample).numpy()
    lines = {}
    for curve, owners in (
        (curves.intensity(trace, sample=sample), list(range(len(groups)))),
        (curves.similarity(trace, sample=sample), [i for i, group in enumerate(groups) for _ in group.modifiers]),
    ):
        lines[curve.quantity] = [
            {"label": label, "group": group, "values": [round(float(value), 5) for value in values]}
            for label, group, values in zip(curve.labels, owners, curve.values, strict=True)
        ]
    layers = [layer_of(source, "probabilities") for source in sources]
    return Picture(method, seed, png, name, maps, trace.timesteps, layers, lines)
