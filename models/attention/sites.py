"""Attention layers of a network at one input size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["cross", "self"]


@dataclass(frozen=True)
class Site:
    """One attention layer: where it sits in the network and what its maps look like.

    `name` is the layer's module path in the network, `resolution` the (height, width) of its queries in pixels of the
    feature map ((1, n) for a text of n tokens), `kind` says whether its keys are another sequence ("cross": text
    tokens) or the queries' own ("self").
    """

    name: str
    kind: Kind
    resolution: tuple[int, int]
    heads: int

    def __str__(self) -> str:
        height, width = self.resolution
        return f"{self.name} ({self.kind}, {height}x{width}, {self.heads} heads)"


def sides_of(size: Any) -> Any:
    """A side, or (height, width), of numbers of any library, as (height, width) of Python's; any other value as it
    is."""
    size = size.tolist() if hasattr(size, "tolist") else size
    if isinstance(size, int):
        return size, size
    listed = isinstance(size, Iterable) and not isinstance(size, str | bytes)
    return tuple(side.item() if hasattr(side, "item") else side for side in size) if listed else size


def site_names(sites: Iterable[Site | str] | Site | str) -> tuple[str, ...]:
    """The names of sites, or of a single one."""
    listed = [sites] if isinstance(sites, Site | str) else sites
    return tuple(site.name if isinstance(site, Site) else site for site in listed)


def select_sites(available: Sequence[Site], wanted: Iterable[Site | str], input_size: str) -> frozenset[str]:
    """Names of the `wanted` sites; ValueError, which lists those there are, if one is unknown or none is wanted."""
    names = frozenset(site_names(wanted))
    unknown = names - {site.name for site in available}
    if unknown or not names:
        problem = (
            f"There is no attention site {sorted(unknown)}"
            if unknown
            else "The selection holds no attention site (a resolution is a side, or (height, width))"
        )
        listing = "\n  ".join(str(site) for site in available)
        raise ValueError(f"{problem} for {input_size}; choose among\n  {listing}")
    return names
