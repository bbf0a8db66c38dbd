"""Where in the picture an object should be."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from .checks import is_number, items, short

COARSEST = 16
"""Cells along a side of the map on which a box must hold one cell at least."""


@dataclass(frozen=True)
class Box:
    """Sides of a box in fractions of the picture, from its left and top: `Box(0, 0.2, 0.5, 0.8)`.

    Raises ValueError for sides outside the picture, and for a box that holds no cell of a 16x16 map.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        sides = astuple(self)
        if not all(map(is_number, sides)):
            raise ValueError(f"the box {short(sides)} needs four finite numbers: (left, top, right, bottom).")
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise ValueError(
                f"the box {sides} does not lie in the picture: expected (left, top, right, bottom) in fractions of it, "
                "with 0 <= left < right <= 1 and 0 <= top < bottom <= 1."
            )
        if not all(_rounded(*ends, COARSEST) for ends in ((self.left, self.right), (self.top, self.bottom))):
            raise ValueError(
                f"the box {sides} is too small: expected one that holds a cell of a {COARSEST}x{COARSEST} map; make it "
                f"1/{COARSEST} wide and high at least."
            )
        for name, side in zip(("left", "top", "right", "bottom"), sides, strict=True):
            object.__setattr__(self, name, float(side))

    @classmethod
    def of(cls, sides: object) -> Box:
        """From four numbers in order, as a list or an array has them; ValueError for anything else."""
        if isinstance(sides, Box):
            return sides
        values = items(sides)
        if len(values) != 4:
            raise ValueError(f"the box {short(sides)} needs four numbers: (left, top, right, bottom).")
        return cls(*values)

    def holds(self, x: float, y: float) -> bool:
        """Whether a point, in fractions of the picture, lies in the box."""
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    def cells(self, height: int, width: int) -> tuple[range, range]:
        """(rows, columns) of a map that lie in the box: rows from round(top height) to round(bottom height) - 1, halves
        to the even number, or that of the box's middle if there are none; columns likewise."""
        return _cells(self.top, self.bottom, height), _cells(self.left, self.right, width)


def _rounded(low: float, high: float, count: int) -> range:
    return range(round(low * count), round(high * count))


def _cells(low: float, high: float, count: int) -> range:
    middle = min(int((low + high) / 2 * count), count - 1)
    return _rounded(low, high, count) or range(middle, middle + 1)
