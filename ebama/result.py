"""What a run gives back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from .output.recipe import Recipe
from .trace import Trace


@dataclass(frozen=True, eq=False)
class Result:
    """The outcome of a run; samples are prompt-major (all seeds of the first prompt, then of the second...).

    Attributes:
        images: PIL images; None for `output="latent"`.
        latents: final latents [N, 4, h, w], float32 on the CPU.
        losses: [N, calls], NaN where a model call was not guided.
        trace: attention of every call if asked for, else None.
        recipes: for each sample all that is needed to make it again.
    """

    images: list[Image.Image] | None
    latents: Tensor
    losses: Tensor
    trace: Trace | None
    recipes: tuple[Recipe, ...]

    @cached_property
    def metadata(self) -> list[dict[str, Any]]:
        """The recipes as values of JSON."""
        return [recipe.to_metadata() for recipe in self.recipes]

    def _repr_html_(self) -> str:
        """In a notebook: the pictures with seeds, methods and losses, and the maps if attention was recorded."""
        from .trace.result_sheet import result_html

        maps = self.trace._repr_html_() if self.trace else None
        return result_html(self.images, self.losses, self.recipes) + (maps or "")

    def _repr_png_(self) -> bytes | None:
        """The pictures as one, where a notebook shows no HTML."""
        from .trace.result_sheet import result_png

        return result_png(self.images, self.recipes) if self.images else None
