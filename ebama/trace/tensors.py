"""What a trace holds: tensors of a run by name, and what they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image
from torch import Tensor

from ebama.models import Site

from ..prompt import Parsed
from ..prompt.words import Word, words
from .capture.source import Source
from .capture.stored import Stored
from .capture.texts import OtherTexts

Quantity: TypeAlias = Literal["scores", "probabilities"]
"""Maps before and after softmax."""
QUANTITIES: tuple[Quantity, ...] = ("probabilities", "scores")

OF_SOURCES = ("scores", "probabilities", "energy")
"""The quantities that each layer and head may have of its own."""


@dataclass(frozen=True, eq=False)
class TraceTensors:
    """Tensors of a run by name, and what they are of.

    Attributes:
        kept: the tensors by name, each [N, calls, ...] on the CPU; the properties below say what they are.
        timesteps: of the calls.
        prompts: of the samples, as they were read.
        sites: the layers over which the maps are averaged.
        head: the head that they are of; None for the mean over the heads.
        images: the samples' pictures, if the run made any.
        number: which of the run's sources the maps are of; more: further ones, if there are any, for `select`.
        keys: the positions that the key axis holds, of each sample; () where it holds all.
        texts: the model behind maps of other texts; None where no queries were kept, or it was not given.
    """

    kept: Mapping[str, Tensor]
    timesteps: tuple[int, ...]
    prompts: tuple[Parsed, ...]
    sites: tuple[Site, ...]
    head: int | None = None
    images: tuple[Image.Image, ...] = ()
    number: int = 0
    more: tuple[Source, ...] = ()
    keys: tuple[tuple[int, ...], ...] = ()
    texts: OtherTexts | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The layers and heads of all maps; `maps`, `scores` and `probabilities` are of the first."""
        return Source(self.sites, self.head, self.number), *self.more

    @property
    def recorded(self) -> tuple[Quantity, ...]:
        """Of maps after softmax and before it, those that there are."""
        return tuple(name for name in QUANTITIES if self.sources[0].kept_name(name) in self.kept)

    @property
    def scores(self) -> Tensor:
        """Maps before softmax, [N, calls, h, w, key], float16."""
        return self.get("scores")

    @property
    def probabilities(self) -> Tensor:
        """Maps after softmax, [N, calls, h, w, key], float16."""
        return self.get("probabilities")

    @property
    def latents(self) -> Tensor:
        """The clean latent that each call predicts, [N, calls, 4, h, w], float16."""
        return self.get("latents")

    @property
    def energy(self) -> Tensor:
        """Of attention in the sense of Park et al. 2023, [N, calls], float32: minus the logarithm of the sum over the
        keys of exp(scores), averaged over sites, heads and pixels."""
        return self.get("energy")

    @property
    def losses(self) -> Tensor:
        """The method's energy before its step, [N, calls], float32; NaN where a sample was not guided."""
        return self.get("losses")

    @property
    def gradient_norms(self) -> Tensor:
        """Euclidean norm of the gradient of that loss over the latent, [N, calls], float32; NaN as for `losses`."""
        return self.get("gradient_norms")

    def words(self, sample: int = 0) -> tuple[Word, ...]:
        """The words of a sample's prompt whose maps there are, with their positions along the key axis."""
        every = words(self.prompts[sample])
        return tuple(word for word in every if set(word.positions) <= set(self.keys[sample])) if self.keys else every

    def of_sample(self, name: str, sample: int, positions: Sequence[int] | None = None) -> Tensor:
        """A tensor of one sample, [calls, ...], or some positions of its key axis alone; no more than that is read.

        Raises ValueError for what was not kept, and positions that are not there.
        """
        name = self._stored_name(name)
        stored = self.kept if isinstance(self.kept, Stored) else None
        if positions is None:
            return stored.of_sample(name, sample) if stored else self.kept[name][sample]
        if self.keys:
            keys: Sequence[int] = self.keys[sample]
            there = ", ".join(word.text for word in self.words(sample)) or "none"
            problem = f"This trace keeps some words' maps alone: {there}; there is none at positions {list(positions)}"
        else:
            keys = range((stored.shape(name) if stored else self.kept[name].shape)[-1])
            problem = f"Positions {list(positions)} do not all lie on the key axis of length {len(keys)}"
        if not positions or not {*positions} <= {*keys}:
            raise ValueError(f"{problem}.")
        columns = [keys.index(position) for position in positions]
        return stored.of_sample(name, sample, columns) if stored else self.kept[name][sample][..., columns]

    def get(self, name: str) -> Tensor:
        """A tensor of all samples, [N, calls, ...]; ValueError for what was not kept."""
        return self.kept[self._stored_name(name)]

    def _stored_name(self, name: str) -> str:
        stored = self.sources[0].kept_name(name) if name in OF_SOURCES else name
        if stored not in self.kept:
            raise ValueError(f"This trace kept no {name}; ask for them with trace=TraceOptions({name}=True).")
        return stored
