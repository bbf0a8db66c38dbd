"""The attention maps of a run."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from ebama.models.attention import resized
from ebama.models.attention.sites import sides_of

from ..checks import expect, is_whole, plain, plain_all, several
from ..output.files import write_text
from ..prompt.words import find
from .capture.source import Source
from .capture.stored import Stored, joined
from .capture.texts import OtherTexts
from .masks import intersection_over_union, otsu
from .tensors import Quantity, TraceTensors

if TYPE_CHECKING:
    from ebama.weights import StableDiffusion

Keys: TypeAlias = str | int | Sequence[int]
"""A word or words of the prompt, as `ebama.prompt.words.find` finds them, or positions along the key axis."""


class Trace(TraceTensors):
    """Mean attention maps of the prompt's branch at each model call, taken from the noise prediction itself.

    All are of the scores that softmax sees; what a control makes of the probabilities after it is not in them.
    """

    def select(
        self, *, resolution: int | tuple[int, int] | None = None, site: str | None = None, head: int | None = None
    ) -> Trace:
        """The trace of some layers and heads alone; None for any.

        Args:
            resolution: of the maps, a side or (height, width).
            site: a layer by its name, which may have wildcards, instead of a mean over several.
            head: one head.

        Raises:
            ValueError: no maps of these were kept; the message lists those that were.
        """
        resolution, head = plain_all(resolution), plain(head)
        size = sides_of(resolution)
        fitting = [
            source
            for source in self.sources
            if size in (None, source.resolution)
            and head in (None, source.head)
            and (site is None or (len(source.sites) == 1 and fnmatchcase(source.sites[0].name, site)))
        ]
        if not fitting:
            asked = {"resolution": resolution, "site": site, "head": head}
            wanted = ", ".join(f"{name}={value!r}" for name, value in asked.items() if value is not None)
            raise ValueError(f"This trace has no maps of {wanted}; it has {'; '.join(map(str, self.sources))}.")
        return self.of_sources(*fitting)

    def maps(
        self,
        word: Keys,
        *,
        sample: int = 0,
        of: Quantity = "probabilities",
        occurrence: int = 0,
        text: str | None = None,
    ) -> Tensor:
        """The maps of a word at every call, [calls, h, w] float32: the mean over its tokens.

        Args:
            word: see `Keys`.
            sample: which of the N.
            of: "scores" or "probabilities".
            occurrence: which of a word that recurs, 0 the first.
            text: another text than the prompt, with the word in it: its keys against the queries that the run had.

        Raises:
            ValueError: a word that is not in the prompt (the message lists those that are), a quantity that was not
                kept, or maps of self-attention, whose keys are no words.
        """
        if of not in ("scores", "probabilities"):
            raise ValueError(f"of is {of!r}; expected 'scores' or 'probabilities'.")
        if isinstance(word, str) and self.sites[0].kind == "self":
            raise ValueError(
                "This trace is of self-attention, whose keys are pixels: give a pixel's number, row by row, for "
                "the map of all that look at it."
            )
        word, sample, count = plain(word), plain(sample), len(self.prompts)
        expect("sample", sample, is_whole(sample) and -count <= sample < count, f"one of the trace's {count}")
        prompt = self.prompts[sample] if text is None else self._texts().read(text)
        if isinstance(word, str):
            word = find(prompt, word, occurrence)
        positions, mask = several(word), "those of a mask are mask.nonzero().flatten()"
        expect("word", word, all(map(is_whole, positions)), f"a word of the prompt, or positions ({mask})")
        if text is not None:
            queries = [self.of_sample(f"queries/{site.name}", sample) for site in self.sites]
            return self._texts().maps(text, positions, self.sources[0], queries, of)
        return self.of_sample(of, sample, positions).float().mean(dim=-1)

    def map(self, word: Keys, *, call: int = -1, **options: Any) -> Tensor:
        """The map of a word at one call, [h, w] float32; the other arguments are those of `maps`."""
        return self.maps(word, **options)[self._call(call)]

    def pooled(self, word: Keys, *, size: int | tuple[int, int] | None = None, **options: Any) -> Tensor:
        """The maps of a word at all resolutions, brought to one size bilinearly and summed over layers and heads,
        [calls, h, w]; see `AttentionRecords.pooled`.

        Args:
            word: see `Keys`.
            size: of the result, a side or (height, width); None for that of the largest maps.
            options: see `maps`.
        """
        apart = [source for source in self.sources if not any(map(source.is_part_of, self.sources))]
        largest = max((source.resolution for source in apart), key=math.prod)
        size, total = largest if size is None else sides_of(size), torch.zeros((), device="cpu")
        for source in apart:
            total = total + source.count * resized(self.of_sources(source).maps(word, **options), size)
        return total

    def mask(self, word: Keys, *, call: int | None = None, **options: Any) -> Tensor:
        """Where a word is, [h, w] booleans: its pooled map above Otsu's threshold.

        Args:
            word: see `Keys`.
            call: one model call; None for the mean over all.
            options: see `pooled`.
        """
        maps = self.pooled(word, **options)
        return otsu(maps.nanmean(dim=0) if call is None else maps[self._call(call)])

    def overlap(self, first: Keys, second: Keys, **options: Any) -> float:
        """Intersection over union of the masks of two words, 0 to 1; `options` are those of `mask`."""
        return intersection_over_union(self.mask(first, **options), self.mask(second, **options))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all."""
        from .capture.files import write

        write(self, Path(path))

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
        from .view import document, frame, shown

        still = self._repr_png_()
        return None if still is None else frame(document(shown(self), of=self.recorded[0]), still)

    def _repr_png_(self) -> bytes | None:
        """Maps of the first samples and words as one picture, where a notebook shows no HTML."""
        from .result_sheet import maps_png

        return maps_png(self, self.recorded[0]) if self.recorded and self.prompts else None

    @classmethod
    def load(cls, path: str | os.PathLike[str], sd: StableDiffusion | None = None) -> Trace:
        """Read a file that `save` wrote, or open the folder of a run whose calls were written one by one.

        Of a folder, tensors are read when they are asked for. A run that broke off has its whole calls there; batches
        that got less far than others have NaN for the rest. `sd` is the model, for maps of other texts.

        Raises:
            ValueError: it is something else.
        """
        from .capture.files import load

        return load(Path(path), None if sd is None else OtherTexts.of(sd))

    @staticmethod
    def joined(parts: Sequence[Trace], order: Sequence[int]) -> Trace:
        """The traces of several batches as one, whose sample k is the `order[k]`th of theirs."""
        from .capture.files import load

        first = parts[0]
        if isinstance(first.kept, Stored):
            return load(first.kept.folder, first.texts)
        lists = {name: [one for part in parts for one in getattr(part, name)] for name in ("prompts", "images", "keys")}
        some: dict[str, Any] = {name: tuple(ones[k] for k in order) if ones else () for name, ones in lists.items()}
        kept = {name: joined([part.kept[name] for part in parts], order) for name in first.kept}
        return replace(first, kept=kept, **some)

    def of_sources(self, first: Source, *more: Source) -> Trace:
        """The trace of some of its sources alone."""
        return replace(self, sites=first.sites, head=first.head, number=first.number, more=more)

    def _call(self, call: Any) -> Any:
        """The index of a model call; ValueError for one that there was not."""
        call, count = plain(call), len(self.timesteps)
        there = not isinstance(call, Real) or (is_whole(call) and call in range(-count, count))
        return expect("call", call, there, f"one of the trace's {count} model calls, which count from 0")

    def _texts(self) -> OtherTexts:
        """What makes keys of other texts; ValueError, which says how to have it, without it."""
        if self.texts is None:
            kept = any(name.startswith("queries/") for name in self.kept)
            remedy = (
                "it was read from a file: give the model, Trace.load(path, sd)"
                if kept
                else "it kept no queries: ask for them with trace=TraceOptions(queries=True), or see sd.maps_of"
            )
            raise ValueError(f"This trace has no maps of other texts, since {remedy}.")
        return self.texts
