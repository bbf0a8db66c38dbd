"""Captioned pictures of the miniature's world: one to three sprites on a pastel background, square RGB, seeded.

A scene is laid out on a canvas of 64 x 64 units and drawn at any multiple of it: one seed gives the same scene at 64
and at 128 pixels.

Captions on the web are not always right, which is one source of neglect and of wrong binding. So some captions here
name an object that is not drawn ("neglect") or give an object another colour than it has ("colour").
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ebama.models import MINIATURE
from ebama.weights.miniature.world import ANIMALS, COLOURS, OBJECTS, WORN, Named, caption

from .sprites import Array, load_sprites

T = TypeVar("T")
Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom."""
UNITS = 64
SIDE = MINIATURE.sample_size * MINIATURE.vae.factor
"""Pixels along one side of the miniature's pictures."""
_COLOURS = tuple(COLOURS)
_PASTEL = (185, 225)
_TOUCH = 2  # units by which two boxes may overlap


@dataclass(frozen=True)
class SceneConfig:
    """What the pictures look like and how honest the captions are. The defaults are the U-Net's training world.

    ``counts`` are the shares of captions that name 1, 2 and 3 objects, ``longest`` the range (units) of their sprites'
    longest side; ``pairs`` the shares of animal + animal, animal + object and object + object in those of two.
    ``neglect`` and ``miscolour`` are the shares of wrong captions where the mistake is possible: among those of two
    objects, and among those of two coloured objects. ``plain`` is the share of objects without a colour among those
    named alone. ``grid`` is the step (units) of the sprites' positions. A unit is a 64th of the picture's side.

    Raises:
        ValueError: shares that do not sum to 1, a grid that does not divide the side.
    """

    sets: tuple[str, ...] = ("noto",)
    flips: bool = False
    grid: int = 4
    gradients: bool = False
    counts: tuple[float, float, float] = (0.25, 0.67, 0.08)
    longest: tuple[tuple[int, int], ...] = ((28, 40), (24, 32), (20, 24))
    pairs: tuple[float, float, float] = (0.25, 0.37, 0.38)
    plain: float = 0.2
    neglect: float = 0.10
    miscolour: float = 0.10

    def __post_init__(self) -> None:
        for name in ("counts", "pairs"):
            shares = getattr(self, name)
            if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
                raise ValueError(f"{name}={shares}: shares must be non-negative and sum to 1")
        if self.grid < 1 or UNITS % self.grid:
            raise ValueError(f"grid={self.grid}: must divide the picture's side of {UNITS} units")
        if min(self.neglect, self.miscolour) < 0 or self.neglect + self.miscolour > 1:
            raise ValueError(f"neglect={self.neglect}, miscolour={self.miscolour}: shares must sum to at most 1")


TRAINING = SceneConfig()
SIMPLE = replace(TRAINING, counts=(0.3, 0.65, 0.05), longest=((28, 28), (28, 28), (22, 22)))
"""What the U-Net begins with: one size for each sprite, as the fewer things there are to learn, the sooner they are."""
HARDER = SceneConfig(sets=("noto", "fluent", "noto-v1"), flips=True, grid=1, gradients=True, neglect=0.0, miscolour=0.0)
"""What the judge learns from: every set, flips, free positions, gradients, true captions."""
VARIED = replace(HARDER, gradients=False)
"""What the VAE's decoder learns from: the more shapes and places, the less it learns by heart."""


@dataclass(frozen=True)
class Drawn:
    """One sprite of a picture; ``colour`` is None for natural colours, ``box`` (left, top, right, bottom) in pixels."""

    noun: str
    colour: str | None
    box: Box


@dataclass(frozen=True)
class Scene:
    """A picture [side, side, 3], its caption, what the caption names in its order, and what is drawn."""

    image: npt.NDArray[np.uint8]
    caption: str
    named: tuple[Named, ...]
    drawn: tuple[Drawn, ...]
    noise: str  # "clean", "neglect" or "colour"


class Composer:
    """Draws scenes of one configuration, `side` pixels wide; thousands of scaled sprites stay in memory.

    Raises:
        ValueError: a side that is no multiple of 64.
    """

    def __init__(self, config: SceneConfig, side: int = SIDE) -> None:
        if side < 1 or side % UNITS:
            raise ValueError(f"side={side}: must be a multiple of {UNITS} pixels")
        self.config, self.side, self._unit = config, side, side // UNITS
        self.sprites = load_sprites(config.sets)
        self._scaled = lru_cache(maxsize=4000)(self._scale)

    def compose(self, rng: np.random.Generator) -> Scene:
        """One scene; consecutive calls with one generator give a reproducible stream."""
        config = self.config
        count = _index(rng, config.counts) + 1
        named = _name_objects(rng, count, config)
        noise, shown = self._mistake(rng, named)
        low, high = config.longest[count - 1]
        unit, pictures = self._unit, list[Array]()
        placed: list[Box] | None = None
        while placed is None:
            pictures = [self.sprite(rng, noun, colour, int(rng.integers(low, high + 1))) for noun, colour in shown]
            placed = place(rng, [(p.shape[1] // unit, p.shape[0] // unit) for p in pictures], config.grid)
        boxes = [(left * unit, top * unit, right * unit, bottom * unit) for left, top, right, bottom in placed]
        canvas = background(rng, config.gradients, self.side)
        for picture, (left, top, right, bottom) in zip(pictures, boxes, strict=True):
            region = canvas[top:bottom, left:right]
            region *= 1 - picture[..., 3:]
            region += picture[..., :3]
        drawn = tuple(Drawn(noun, colour, box) for (noun, colour), box in zip(shown, boxes, strict=True))
        return Scene(np.rint(canvas).astype(np.uint8), caption(named), named, drawn, noise)

    def _mistake(self, rng: np.random.Generator, named: tuple[Named, ...]) -> tuple[str, tuple[Named, ...]]:
        """Which mistake the caption makes, and the objects that are drawn for it."""
        draw = float(rng.random())
        if len(named) == 2 and draw < self.config.neglect:
            return "neglect", (pick(rng, named),)
        coloured = len(named) == 2 and all(colour for _, colour in named)
        if coloured and self.config.neglect <= draw < self.config.neglect + self.config.miscolour:
            (first, a), (second, b) = named
            if a != b and rng.random() < 0.7:
                return "colour", ((first, b), (second, a))
            noun, colour = changed = pick(rng, named)
            wrong = noun, pick(rng, [other for other in _COLOURS if other != colour])
            return "colour", tuple(wrong if pair == changed else pair for pair in named)
        return "clean", named

    def sprite(self, rng: np.random.Generator, noun: str, colour: str | None, longest: int) -> Array:
        """A sprite, `longest` units on its longest side: premultiplied RGB in 0..255 and alpha in 0..1, [h, w, 4]."""
        sprite = self._scaled(noun, colour, int(rng.integers(len(self.sprites[noun, colour]))), longest)
        return sprite[:, ::-1] if self.config.flips and rng.random() < 0.5 else sprite

    def _scale(self, noun: str, colour: str | None, variant: int, longest: int) -> Array:
        return scale(self.sprites[noun, colour][variant], longest, self._unit)


def scenes(config: SceneConfig = TRAINING, seed: int = 0, side: int = SIDE) -> Iterator[Scene]:
    """An endless stream of scenes, the same for the same configuration, seed and side."""
    composer, rng = Composer(config, side), np.random.default_rng(seed)
    while True:
        yield composer.compose(rng)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of the choices, all equally likely."""
    return choices[int(rng.integers(len(choices)))]


def _index(rng: np.random.Generator, shares: tuple[float, ...]) -> int:
    """An index drawn with the given shares."""
    return min(bisect(list(accumulate(shares)), rng.random()), len(shares) - 1)


def _name_objects(rng: np.random.Generator, count: int, config: SceneConfig) -> tuple[Named, ...]:
    """What the caption names, in its order.

    Objects joined by "and" always have a colour: natural colours there would teach that a colour is a mere hint.
    """

    def animal() -> Named:
        return pick(rng, ANIMALS), None

    def coloured() -> Named:
        return pick(rng, OBJECTS), pick(rng, _COLOURS)

    if count == 1:
        if rng.random() < 0.5:
            return (animal(),)
        noun, colour = coloured()
        return ((noun, colour if rng.random() < 1 - config.plain else None),)
    makers: tuple[Callable[[], Named], ...]
    if count == 2:
        kind = _index(rng, config.pairs)
        if kind == 1 and rng.random() < 0.25:
            return animal(), (pick(rng, WORN), None)
        makers = ((animal, animal), (animal, coloured), (coloured, coloured))[kind]
    else:
        makers = tuple(animal if rng.random() < 0.5 else coloured for _ in range(count))
    named: list[Named] = []
    while len({noun for noun, _ in named}) < count:
        named = [make() for make in makers]
    return tuple(named[i] for i in rng.permutation(count))


def place(rng: np.random.Generator, sizes: list[tuple[int, int]], grid: int) -> list[Box] | None:
    """Boxes for (width, height) sprites at multiples of the grid that hardly touch; None when 40 tries found none.

    Everything is in units.
    """
    draws = rng.random((40, len(sizes), 2)).tolist()
    for attempt in draws:
        boxes: list[Box] = []
        for (width, height), (u, v) in zip(sizes, attempt, strict=True):
            left = int(u * ((UNITS - width) // grid + 1)) * grid
            top = int(v * ((UNITS - height) // grid + 1)) * grid
            box = (left, top, left + width, top + height)
            if any(overlaps(box, other) for other in boxes):
                break
            boxes.append(box)
        else:
            return boxes
    return None


def overlaps(a: Box, b: Box, touch: int = _TOUCH) -> bool:
    """Whether two boxes share more than `touch` units either way."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    return across > touch and down > touch


def scale(rgba: Array, longest: int, unit: int = 1) -> Array:
    """Scale RGBA [h, w, 4] in [0, 1] -> premultiplied RGB in 0..255 and alpha in 0..1, whole units of pixels a side."""
    height, width = rgba.shape[:2]
    factor = longest / max(height, width)
    size = (max(1, round(width * factor)) * unit, max(1, round(height * factor)) * unit)
    alpha = rgba[..., 3]
    planes = [*(rgba[..., i] * alpha for i in range(3)), alpha]
    scaled = [np.asarray(Image.fromarray(p.astype(np.float32)).resize(size, Image.Resampling.HAMMING)) for p in planes]
    return np.asarray(np.clip(np.stack(scaled, axis=-1), 0, 1) * (255, 255, 255, 1), dtype=np.float32)


def background(rng: np.random.Generator, gradients: bool, side: int) -> Array:
    """A flat pastel, or a linear gradient between two at a random angle: [side, side, 3] in 0..255."""
    ends = rng.uniform(*_PASTEL, size=(2, 3)).astype(np.float32)
    if not gradients:
        return np.broadcast_to(ends[0], (side, side, 3)).copy()
    angle = rng.uniform(0, 2 * np.pi)
    line = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    ramp = np.clip(np.cos(angle) * line[None] + np.sin(angle) * line[:, None] + 0.5, 0, 1)
    return np.asarray(ends[0] + ramp[..., None] * (ends[1] - ends[0]), dtype=np.float32)
