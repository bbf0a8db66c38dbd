"""What a judge reads in a picture, and whether that is what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .world import Named


@dataclass(frozen=True)
class Sighting:
    """A thing that a judge sees: its noun (None for what is no object), its colour (None for animals), the place of its
    middle (row, column), how sure the judge is of the noun, and its centre (x, y) in fractions of the picture from its
    left and top.
    """

    noun: str | None
    colour: str | None
    place: tuple[int, int]
    probability: float
    centre: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Reading:
    """What a judge sees: the nouns present, the colour of each object among them, and every thing."""

    present: frozenset[str]
    colours: dict[str, str]
    things: tuple[Sighting, ...] = ()

    @property
    def places(self) -> dict[str, tuple[float, float]]:
        """The centre (x, y) of each noun, where it is seen best."""
        return {noun: thing.centre for noun, thing in surest(self.things).items()}

    def extras(self, named: Sequence[Named]) -> int:
        """How many things nobody asked for: other nouns, second copies, and what is no object."""
        counts = Counter(thing.noun for thing in self.things)
        return sum(count - (noun in dict(named)) for noun, count in counts.items())


def distance(a: tuple[int, int], b: tuple[int, int]) -> int:
    """How many places lie between two, either way."""
    return max(abs(a[0] - b[0]), abs(a[1] - b[1]))


def surest(things: Sequence[Sighting]) -> dict[str, Sighting]:
    """Of each noun the thing that is most likely one."""
    best: dict[str, Sighting] = {}
    for thing in things:
        if thing.noun is not None and (thing.noun not in best or thing.probability > best[thing.noun].probability):
            best[thing.noun] = thing
    return best


def satisfied(reading: Reading, named: Sequence[Named]) -> tuple[bool, bool]:
    """Whether a picture shows all named nouns, and shows them in all the colours named.

    >>> satisfied(Reading(frozenset({"car", "cat"}), {"car": "red"}), [("cat", None), ("car", "blue")])
    (True, False)
    """
    present = all(noun in reading.present for noun, _ in named)
    return present, present and all(colour in (None, reading.colours.get(noun)) for noun, colour in named)
