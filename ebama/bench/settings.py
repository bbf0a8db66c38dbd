"""What a benchmark runs: the cases by name, and what a process that runs one of them is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

PROMPT = "a purple crown and a blue suitcase"
PAIR = ("a red car", "a blue car")
"""For methods that make one picture from another."""

BATCHES = (1, 2, 4, 8, 16, 32)
CASES = {
    "forward": "U-Net, one row, no gradient",
    "guided": "one model call of ebama, one step: attention pass, backward, both rows of guidance",
    "unguided": "one model call of plain Stable Diffusion: both rows of guidance",
    "decode": "VAE, one latent to a picture",
    "images": "a whole picture of every method, on the miniature",
    "batch": "some pictures in one call, on the miniature",
    "smoothing": "peaks of 8 smoothed 16x16 maps and their gradient, 100 times",
    "loading": "a checkpoint from files to networks",
    "import": "a fresh Python that imports the package, shows the help, imports the pipeline",
}
PARTS = {"batch": ("1", "4"), "import": ("package", "help", "pipeline")}
"""What a case is measured for in turn; those of `images` are the methods."""

SIDES = ("ours", "diffusers")


@dataclass(frozen=True)
class Setting:
    """What one process measures: a case (`name` or `name:part`), whose, on which model and how.

    Attributes:
        weights: folder of the model, or None for the embedded miniature.
        threads: of PyTorch; None leaves its own choice.
        steps: of whole pictures.
    """

    case: str
    side: str = "ours"
    weights: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    steps: int = 50

    @property
    def name(self) -> str:
        """The case without its part."""
        return self.case.partition(":")[0]

    @property
    def part(self) -> str:
        """What follows the colon, or nothing."""
        return self.case.partition(":")[2]

    def written(self) -> str:
        """As one line that `read` takes."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Setting:
        """The setting that `written` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(**values)


def expanded(chosen: Sequence[str], methods: Sequence[str]) -> list[str]:
    """The cases of these names with their parts, each once; ValueError for a name that is none, with those there are.

    `images:METHOD` and `batch:N` are names, too.
    """
    cases: list[str] = []
    for case in chosen:
        name, colon, part = case.partition(":")
        parts = methods if name == "images" else PARTS.get(name, ())
        known = part in parts or (name == "batch" and part.isdecimal() and int(part) > 0)
        if name not in CASES or (colon and not known):
            raise ValueError(f"There is no case {case!r}; choose among {', '.join(CASES)} (or one part, as images:sd).")
        cases += [case] if colon else [f"{name}:{part}" for part in parts] or [name]
    return list(dict.fromkeys(cases))
