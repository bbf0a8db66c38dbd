"""The attention maps of a run."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ebama.models import Site
from ebama.weights.files.tensors import write_tensors

from ..output.files import write_text, written_whole
from ..output.recipe import read_group
from ..prompt import Parsed
from ..prompt.words import Word, find, words

Quantity = Literal["scores", "probabilities"]
"""Maps before and after softmax."""

Keys: TypeAlias = str | int | Sequence[int]
"""A word or words of the prompt, as `ebama.prompt.words.find` finds them, or positions along the key axis."""

KEY = "ebama"
PICTURE = "image/"
"""What the names of pictures in a file begin with; their numbers follow."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Mean attention maps of the prompt's branch at each model call, taken from the noise prediction itself.

    All are of the scores that softmax sees; what a control makes of the probabilities after it is not in them.

    Attributes:
        kept: the tensors by name, each [N, calls, ...] on the CPU; the properties below say what they are.
        timesteps: of the calls.
        prompts: of the samples, as they were read.
        sites: the layers over which the maps are averaged.
        head: the head that they are of; None for the mean over the heads.
        images: the samples' pictures, if the run made any.
    """

    kept: Mapping[str, Tensor]
    timesteps: tuple[int, ...]
    prompts: tuple[Parsed, ...]
    sites: tuple[Site, ...]
    head: int | None = None
    images: tuple[Image.Image, ...] = ()

    @property
    def scores(self) -> Tensor:
        """Maps before softmax, [N, calls, h, w, key], float16."""
        return self._get("scores")

    @property
    def probabilities(self) -> Tensor:
        """Maps after softmax, [N, calls, h, w, key], float16."""
        return self._get("probabilities")

    @property
    def latents(self) -> Tensor:
        """The clean latent that each call predicts, [N, calls, 4, h, w], float16."""
        return self._get("latents")

    @property
    def energy(self) -> Tensor:
        """Of attention in the sense of Park et al. 2023, [N, calls], float32: minus the logarithm of the sum over the
        keys of exp(scores), averaged over sites, heads and pixels."""
        return self._get("energy")

    @property
    def losses(self) -> Tensor:
        """The method's energy before its step, [N, calls], float32; NaN where a sample was not guided."""
        return self._get("losses")

    @property
    def gradient_norms(self) -> Tensor:
        """Euclidean norm of the gradient of that loss over the latent, [N, calls], float32; NaN as for `losses`."""
        return self._get("gradient_norms")

    def words(self, sample: int = 0) -> tuple[Word, ...]:
        """The words of a sample's prompt with their positions along the key axis."""
        return words(self.prompts[sample])

    def maps(self, word: Keys, *, sample: int = 0, of: Quantity = "probabilities", occurrence: int = 0) -> Tensor:
        """The maps of a word at every call, [calls, h, w] float32: the mean over its tokens.

        Args:
            word: see `Keys`.
            sample: which of the N.
            of: "scores" or "probabilities".
            occurrence: which of a word that recurs, 0 the first.

        Raises:
            ValueError: a word that is not in the prompt (the message lists those that are), a quantity that was not
                kept, or maps of self-attention, whose keys are no words.
        """
        if of not in ("scores", "probabilities"):
            raise ValueError(f"of is {of!r}; expected 'scores' or 'probabilities'.")
        if isinstance(word, str):
            if self.sites[0].kind == "self":
                raise ValueError(
                    "This trace is of self-attention, whose keys are pixels: give a pixel's number, row by row, for "
                    "the map of all that look at it."
                )
            word = find(self.prompts[sample], word, occurrence)
        positions = [word] if isinstance(word, int) else list(word)
        maps = self._get(of)[sample]
        if not positions or not all(0 <= position < maps.shape[-1] for position in positions):
            raise ValueError(f"Positions {positions} do not all lie on the key axis of length {maps.shape[-1]}.")
        return maps[..., positions].float().mean(dim=-1)

    def map(
        self, word: Keys, *, sample: int = 0, call: int = -1, of: Quantity = "probabilities", occurrence: int = 0
    ) -> Tensor:
        """The map of a word at one call, [h, w] float32; the arguments are those of `maps`."""
        return self.maps(word, sample=sample, of=of, occurrence=occurrence)[call]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all."""
        facts = {
            "timesteps": self.timesteps,
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "sites": [asdict(site) for site in self.sites],
            "head": self.head,
        }
        pictures = {f"{PICTURE}{k}": torch.from_numpy(np.array(image)) for k, image in enumerate(self.images)}
        with written_whole(Path(path)) as partial:
            write_tensors(partial, {**self.kept, **pictures}, {KEY: json.dumps(facts)})

    def save_html(
        self,
        path: str | os.PathLike[str],
        *,
        of: Quantity = "probabilities",
        words: Sequence[str] = (),
        pixels: Sequence[tuple[int, int]] = (),
        calls: Sequence[int] = (),
    ) -> None:
        """Write a page that opens in any browser without a network, whole or not at all.

        Point at a word (or reach it with Tab) to see its map over the pictures, click to keep it, slide over the calls.
        The page stays below about 3 MB: large maps are averaged, calls and samples thinned out, and it says so.

        Args:
            of: the maps that are shown first, "probabilities" or "scores"; the page switches between those recorded.
            words: of the prompt; without any, all of them.
            pixels: (y, x) for self-attention instead of words; without any, nine that are evenly spread.
            calls: the model calls to show; without any, all that there is room for.

        Raises:
            ValueError: words, pixels or calls that are not there; a quantity that was not kept.
        """
        from .view import document, shown

        page = document(shown(self), of=of, chosen_words=words, pixels=pixels, calls=calls)
        write_text(Path(path), page)

    def _repr_html_(self) -> str | None:
        """The page of `save_html` in a frame, for a notebook; None for a trace without maps."""
        from .view import QUANTITIES, document, frame, shown

        recorded = [name for name in QUANTITIES if name in self.kept]
        return frame(document(shown(self), of=recorded[0])) if recorded and self.prompts else None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read a file that `save` wrote; ValueError if the file is something else."""
        if not stat.S_ISREG(os.stat(path).st_mode):  # which raises OSError for a file that is not there
            raise ValueError(f"{path} is no trace; expected a file that `Trace.save` wrote.")
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()[KEY])
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            count = sum(name.startswith(PICTURE) for name in kept)
            images = [Image.fromarray(kept.pop(f"{PICTURE}{k}").numpy()) for k in range(count)]
            return cls(
                kept,
                tuple(facts["timesteps"]),
                tuple(_parsed(prompt) for prompt in facts["prompts"]),
                tuple(Site(**{**site, "resolution": tuple(site["resolution"])}) for site in facts["sites"]),
                facts["head"],
                tuple(images),
            )
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no trace; expected a file that `Trace.save` wrote.") from error

    @staticmethod
    def joined(parts: Sequence[Trace], order: Sequence[int]) -> Trace:
        """The traces of several batches as one, whose sample k is the `order[k]`th of theirs."""
        first = parts[0]
        kept = {name: torch.cat([part.kept[name] for part in parts])[list(order)] for name in first.kept}
        prompts = [prompt for part in parts for prompt in part.prompts]
        images = [image for part in parts for image in part.images]
        return Trace(
            kept,
            first.timesteps,
            tuple(prompts[k] for k in order),
            first.sites,
            first.head,
            tuple(images[k] for k in order) if images else (),
        )

    def _get(self, name: str) -> Tensor:
        if name not in self.kept:
            raise ValueError(f"This trace kept no {name}; ask for them with trace=TraceOptions({name}=True).")
        return self.kept[name]


def _parsed(values: dict[str, Any]) -> Parsed:
    """A prompt from JSON, whose tuples are lists."""
    return Parsed(
        groups=tuple(map(read_group, values["groups"])),
        tokens=tuple(values["tokens"]),
        phrases=tuple((first, end, text) for first, end, text in values["phrases"]),
        parser_name=values["parser_name"],
        prompt=values["prompt"],
        spans=tuple((start, end) for start, end in values["spans"]),
    )
