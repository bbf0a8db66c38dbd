"""Benchmark x methods x seeds: the pictures of an evaluation, and the batches in which they are made.

The list is fixed, so that whoever makes a batch, and after how many interruptions, makes the same pictures bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebama.samplers import get as get_sampler

from .. import __version__
from ..arguments import check
from ..methods import Method
from ..prompt.parsers import analyse
from .benchmarks import BenchmarkPrompt

Key = tuple[str, str, int]
"""Method, prompt and seed of a picture."""


@dataclass(frozen=True)
class Batch:
    """One call of the pipeline: every seed of every prompt."""

    method: str
    prompts: Sequence[BenchmarkPrompt]
    seeds: Sequence[int]

    def pictures(self) -> list[Key]:
        """The keys of its pictures."""
        return [(self.method, prompt.text, seed) for prompt in self.prompts for seed in self.seeds]


@dataclass(frozen=True)
class Run:
    """The pictures to make; `methods` are complete for the pipeline's model, under the names of their folders.

    Raises ValueError for settings that no picture could be made with: later it would look like a refusal of each one.
    """

    prompts: Sequence[BenchmarkPrompt]
    methods: Mapping[str, Method]
    seeds: Sequence[int]
    benchmark: str = ""
    steps: int = 50
    sampler: str = "pndm"
    guidance: float = 7.5
    batch_size: int = 8
    parser: str = "auto"
    weights: str | None = None
    prediction: str | None = None
    dtype: str = "float32"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if coupled := [name for name, method in self.methods.items() if method.edits_prompts]:
            raise ValueError(f"{', '.join(coupled)} edits one prompt's picture by another's: no benchmark is for it.")
        if not (self.prompts and self.methods and self.seeds) or self.batch_size < 1:
            raise ValueError("An evaluation needs at least one prompt, one method, one seed, and a batch size of 1.")
        if not self.boxed and (placing := [name for name, method in self.methods.items() if method.needs.boxes]):
            raise ValueError(
                f"{', '.join(placing)} places objects in boxes, and no prompt has any; choose the benchmark boxed, or "
                'a file of JSON lines with "boxes".'
            )
        check([prompt.text for prompt in self.prompts], self.seeds, self.guidance, "pil", self.batch_size)
        get_sampler(self.sampler, self.steps)
        # "auto" becomes what there is, so that the folder is not continued where there is another parser.
        object.__setattr__(self, "parser", analyse(self.prompts[0].text, self.parser)[1])

    @property
    def boxed(self) -> bool:
        """Whether a prompt has boxes."""
        return any(prompt.boxes for prompt in self.prompts)

    def settings(self, model: str, fingerprint: str) -> dict[str, Any]:
        """The contents of run.json: everything that the pictures depend on."""
        listing = "\n".join(
            f"{prompt.set}\t{prompt.text}\t{prompt.groups}" + (f"\t{prompt.boxes}" if prompt.boxes else "")
            for prompt in self.prompts
        )
        return {
            "benchmark": self.benchmark,
            "prompts": len(self.prompts),
            "prompts_sha256": hashlib.sha256(listing.encode()).hexdigest(),
            "methods": {name: method.describe() for name, method in self.methods.items()},
            "seeds": list(self.seeds),
            "steps": self.steps,
            "sampler": self.sampler,
            "guidance": self.guidance,
            "batch_size": self.batch_size,
            "parser": self.parser,
            "model": model,
            "fingerprint": fingerprint,
            "weights": self.weights,
            "prediction": self.prediction,
            "dtype": self.dtype,
            "size": self.size,
            "version": __version__,
        }

    def batches(self) -> list[Batch]:
        """All the work, no batch of more than `batch_size` samples. The seeds of a prompt stay together if they fit."""
        prompts, seeds, size = self.prompts, self.seeds, self.batch_size
        together = max(size // len(seeds), 1)
        return [
            Batch(name, prompts[first : first + together], seeds[start : start + size])
            for first in range(0, len(prompts), together)
            for start in range(0, len(seeds), size)
            for name in self.methods
        ]

    def share(self, shard: int, shards: int) -> list[Batch]:
        """The batches of one of `shards` processes. It gets other methods for each next set of prompts, since some
        methods take three times as long as others."""
        count = len(self.methods)
        return [batch for i, batch in enumerate(self.batches()) if (i // count + i % count) % shards == shard]

    def pictures(self) -> list[Key]:
        """Every picture in the order of images.jsonl."""
        return [key for name in self.methods for key in Batch(name, self.prompts, self.seeds).pictures()]
