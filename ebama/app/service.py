"""From an order to pictures, with what is shown of their attention."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..output.naming import slug
from ..output.png import encoded
from ..prompt import Parsed, PromptError, parse
from ..prompt.alignment import align
from ..prompt.words import words
from ..trace import Trace, curves
from .jobs import Job
from .request import MAX_PASSES, Order

if TYPE_CHECKING:
    from pathlib import Path

    from ..pipeline import Pipeline


@dataclass(frozen=True)
class Task:
    """An order whose prompt has been read; `notes` are lines that its visitor should see."""

    order: Order
    reading: Parsed
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and what is shown beside it.

    Attributes:
        method: as the order names it.
        png: the file, its recipe inside; `name` is what to call it.
        maps: of the prompt's words after softmax, [words, calls, h, w] float16.
        lines: for each quantity of `ebama.trace.curves` its name and lines, a label, a group and a value for each call.
    """

    method: str
    seed: int
    png: bytes
    name: str
    maps: npt.NDArray[np.float16]
    timesteps: tuple[int, ...]
    sites: str
    lines: dict[str, list[dict[str, Any]]]


class Studio:
    """A pipeline, and what is the same for all orders.

    Prompts are read in another thread than the one in which pictures are made, so they have a tokenizer of their own:
    one tokenizer cannot do both at once.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        weights: Path | None = None,
        dtype: str = "float32",
        batch: int = 4,
        parser: str = "auto",
    ) -> None:
        self.pipeline, self.weights, self.dtype, self.batch = pipeline, weights, dtype, batch
        self.parser = parser
        self._tokenizer = deepcopy(pipeline.sd.tokenizer)
        parse("a cat", self._tokenizer, parser)  # opens the parser now, so that no visitor waits for it

    def read(self, order: Order) -> Task:
        """Read an order's prompt; ValueError if a method cannot work with it or would take too long."""
        config = self.pipeline.sd.config
        chosen = {name: method.resolved(config) for name, method in order.systems.items()}
        try:
            reading = parse(order.prompt, self._tokenizer, self.parser)
        except PromptError:
            if any(method.needs.groups for method in chosen.values()):
                raise
            reading = parse(order.prompt, self._tokenizer, self.parser, groups=())
        for name, method in chosen.items():
            cost = method.cost(reading, order.calls)
            if (passes := cost.predictions + cost.attention + cost.backwards) > MAX_PASSES:
                raise ValueError(f"{name} may take {passes} passes a picture; expected at most {MAX_PASSES}.")
        notes = []
        if lost := align(order.prompt, self._tokenizer).lost():
            notes.append(f"The text encoder sees only the beginning of this prompt; it does not see: {lost}.")
        vocabulary = self.pipeline.sd.vocabulary
        if vocabulary is not None and (unknown := vocabulary.unknown_words(order.prompt)):
            notes.append(f"The {vocabulary.name} does not know: {', '.join(unknown)}.")
        return Task(order, reading, tuple(notes))

    @property
    def vocabulary(self) -> dict[str, list[str]]:
        """The nouns and colours that the model knows; nothing for a model whose words nobody has listed."""
        known = self.pipeline.sd.vocabulary
        return {} if known is None else {"nouns": list(known.nouns), "colours": list(known.colours)}

    def make(self, job: Job) -> None:
        """The work of a job whose task is a `Task`: its pictures join the job's results method by method."""
        task: Task = job.task
        order = task.order
        for name, method in order.systems.items():
            job.begin(name)
            result = self.pipeline(
                order.prompt,
                seeds=order.numbers,
                method=method,
                steps=order.steps,
                guidance=order.guidance,
                sampler=order.sampler,
                negative_prompt=order.negative_prompt,
                groups=task.reading.groups,
                parser=self.parser,
                batch_size=self.batch,
                trace=True,
                progress=False,
                on_call=job.progress,
            )
            assert result.images is not None
            assert result.trace is not None
            for sample, (image, recipe) in enumerate(zip(result.images, result.recipes, strict=True)):
                png = encoded(image, recipe.loaded_from(self.weights, self.dtype).to_metadata())
                seed = order.numbers[sample]
                file = f"{slug(order.prompt)}-{slug(name)}-seed{seed:04d}.png"
                job.results.append(_picture(name, seed, png, file, result.trace, sample))


def _picture(method: str, seed: int, png: bytes, name: str, trace: Trace, sample: int) -> Picture:
    height, width = trace.sites[0].resolution
    maps = np.zeros((len(trace.words(sample)), len(trace.timesteps), height, width), np.float16)
    for map_, word in zip(maps, trace.words(sample), strict=True):
        map_[:] = trace.maps(word.positions, sample=sample).numpy()
    groups = trace.prompts[sample].groups
    owners = {
        "intensity": list(range(len(groups))),
        "similarity": [index for index, group in enumerate(groups) for _ in group.modifiers],
    }
    lines = {
        found.quantity: [
            {"label": label, "group": group, "values": [round(float(value), 5) for value in values]}
            for label, group, values in zip(found.labels, owners[found.quantity], found.values, strict=True)
        ]
        for found in (curves.intensity(trace, sample=sample), curves.similarity(trace, sample=sample))
    }
    sites = f"cross-attention {height}x{width}, mean over {len(trace.sites)} layers and their heads"
    return Picture(method, seed, png, name, maps, trace.timesteps, sites, lines)


def words_of(reading: Parsed) -> list[dict[str, Any]]:
    """The words of a prompt as they are written, with what separates them, and which group and role each has."""
    found: list[dict[str, Any]] = []
    for word in words(reading):
        group, role = next(
            (
                (index, "object" if set(word.positions) & set(each.object) else "modifier")
                for index, each in enumerate(reading.groups)
                if set(word.positions) & {*each.object, *(at for modifier in each.modifiers for at in modifier)}
            ),
            (None, ""),
        )
        found.append({"text": word.text, "group": group, "role": role})
    return found
