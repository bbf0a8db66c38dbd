"""Whose mean some maps are."""

from __future__ import annotations

from dataclasses import dataclass

from ebama.models import Site
from ebama.models.attention import Kind


@dataclass(frozen=True)
class Source:
    """The layers, of one kind and resolution, and the head over which maps are averaged; None is every head.

    `number` is its place among those of the run, from 0.
    """

    sites: tuple[Site, ...]
    head: int | None = None
    number: int = 0

    @property
    def kind(self) -> Kind:
        """Of the layers."""
        return self.sites[0].kind

    @property
    def resolution(self) -> tuple[int, int]:
        """(h, w) of the maps."""
        return self.sites[0].resolution

    @property
    def count(self) -> int:
        """Maps in the mean."""
        return sum(site.heads for site in self.sites) if self.head is None else len(self.sites)

    def kept_name(self, name: str) -> str:
        """What a trace keeps its maps as: those of the first under the plain name."""
        return f"{name}/{self.number}" if self.number else name

    def is_part_of(self, other: Source) -> bool:
        """Whether its maps are in the mean of another."""
        return self != other and {*self.sites} <= {*other.sites} and other.head in (None, self.head)

    @property
    def layers(self) -> str:
        """The layers in words."""
        height, width = self.resolution
        names = self.sites[0].name if len(self.sites) == 1 else f"{len(self.sites)} layers"
        return f"{self.kind}-attention {height}x{width}, {names}"

    @property
    def heads(self) -> str:
        """The head in words."""
        return "mean over heads" if self.head is None else f"head {self.head}"

    def __str__(self) -> str:
        return f"{self.layers}, {self.heads}"
