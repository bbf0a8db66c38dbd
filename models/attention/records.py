"""The scores of attention layers in one call, as callers get them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, SupportsIndex, overload

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from .sites import Kind, Site, sides_of
from .thumbnails import records_html


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """Scores of one site in one call: QK^T / sqrt(d), [batch, head, query, key], before softmax.

    Queries are the pixels of `site.resolution` in row-major order. These are the scores that the layer used: a mask
    has set those of hidden keys to -inf, a control may have rewritten them. `given_probabilities` are those of a layer
    whose softmax runs over more keys than these, as where text and image are one sequence.
    """

    site: Site
    scores: Tensor
    given_probabilities: Tensor | None = None

    def __post_init__(self) -> None:
        if self.scores.ndim != 4 or self.scores.shape[-2] != math.prod(self.site.resolution):
            raise ValueError(
                f"Scores of {self.site} have shape {list(self.scores.shape)}; expected [batch, head, query, key] with "
                f"{math.prod(self.site.resolution)} queries, its pixels."
            )

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax of the scores over the keys, or the given ones, [batch, head, query, key]; float32 for half precision
        scores."""
        return softmax(self.scores) if self.given_probabilities is None else self.given_probabilities

    def select(self, rows: Any, heads: Any = slice(None)) -> AttentionRecord:
        """The record of some rows of the batch, and of some of the heads."""
        given = self.given_probabilities
        return AttentionRecord(self.site, self.scores[rows][:, heads], None if given is None else given[rows][:, heads])


class AttentionRecords(Sequence[AttentionRecord]):
    """The records of one call, in execution order; index by position, slice or site name."""

    def __init__(self, records: Sequence[AttentionRecord]) -> None:
        self._records = tuple(records)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[AttentionRecord]:
        return iter(self._records)

    @overload
    def __getitem__(self, index: SupportsIndex | str) -> AttentionRecord: ...
    @overload
    def __getitem__(self, index: slice) -> AttentionRecords: ...
    def __getitem__(self, index: SupportsIndex | str | slice) -> AttentionRecord | AttentionRecords:
        if isinstance(index, slice):
            return AttentionRecords(self._records[index])
        if not isinstance(index, str):
            return self._records[index]
        for record in self._records:
            if record.site.name == index:
                return record
        raise KeyError(f"No record of site {index!r}; recorded: {', '.join(r.site.name for r in self._records)}.")

    def __repr__(self) -> str:
        return f"AttentionRecords({', '.join(str(record.site) for record in self._records)})"

    def _repr_html_(self) -> str:
        """In a notebook: a row for each site, with small maps."""
        return records_html(self._records)

    def where(
        self, *, kind: Kind | None = None, resolution: int | tuple[int, int] | None = None, name: str | None = None
    ) -> AttentionRecords:
        """The records of the sites of a kind, a resolution (side or (h, w)) and a name, which may have wildcards as
        "up_blocks.*"; None for any."""
        size = sides_of(resolution)
        return AttentionRecords(
            [
                record
                for record in self._records
                if kind in (None, record.site.kind)
                and size in (None, record.site.resolution)
                and (name is None or fnmatchcase(record.site.name, name))
            ]
        )

    def mean_scores(self) -> Tensor:
        """Uniform mean of the scores over sites x heads, [batch, h, w, key].

        Raises ValueError if the sites differ in kind, in resolution or in the number of keys.
        """
        return self._mean([record.scores for record in self._records])

    def mean_probabilities(self) -> Tensor:
        """Uniform mean of the probabilities over sites x heads, [batch, h, w, key]; errors as `mean_scores`."""
        return self._mean([record.probabilities for record in self._records])

    def pooled(self, size: int | tuple[int, int] | None = None) -> Tensor:
        """Probabilities of all sites and heads, brought to one size and summed, [batch, h, w, key].

        So DAAM joins maps of several sizes (Tang et al. 2023, "What the DAAM", Section 2.2, there bicubically).

        Args:
            size: of the result, a side or (h, w); None for that of the largest maps.

        Raises:
            ValueError: sites that differ in kind or in the number of keys, as those of self-attention do; none at all.
        """
        self._check_alike(sizes=False)
        pixels = max((record.site.resolution for record in self._records), key=math.prod) if size is None else size
        total = torch.zeros((), device="cpu")
        for record in self._records:
            height, width = record.site.resolution
            maps = rearrange(record.probabilities.sum(dim=1), "b (h w) k -> b k h w", h=height, w=width)
            total = total.to(maps) + resized(maps, pixels)
        return rearrange(total, "b k h w -> b h w k")

    def _mean(self, maps: Sequence[Tensor]) -> Tensor:
        self._check_alike()
        height, width = self._records[0].site.resolution
        mean = torch.cat([m.float() if m.itemsize < 4 else m for m in maps], dim=1).mean(dim=1)
        return rearrange(mean, "b (h w) k -> b h w k", h=height, w=width)

    def _check_alike(self, sizes: bool = True) -> None:
        """Raise ValueError unless the sites agree in kind and keys, and in their maps' resolution if `sizes`."""
        kinds = {(r.site.kind, sizes and r.site.resolution, r.scores.shape[-1]) for r in self._records}
        if len(kinds) != 1:
            recorded = ", ".join(str(record.site) for record in self._records) or "none"
            alike = "averaged only over sites of one kind, one resolution" if sizes else "pooled over sites of one kind"
            raise ValueError(
                f"Maps can be {alike} and one number of keys; recorded: {recorded}. Choose some of them (`where`), "
                "record fewer, or average by hand."
            )


def softmax(scores: Tensor) -> Tensor:
    """Over the keys, in float32 at least."""
    return scores.softmax(dim=-1, dtype=torch.float32 if scores.itemsize < 4 else scores.dtype)


def resized(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Maps [..., h, w] at another size, a side or (h, w), bilinearly; where they shrink, each pixel counts. ValueError
    for a size that is none."""
    size = sides_of(size)
    if not isinstance(size, tuple) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"size is {size!r}; expected a side in pixels, as 32, or (height, width).")
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    return F.interpolate(flat, size, mode="bilinear", antialias=True).view(*maps.shape[:-2], *size)
