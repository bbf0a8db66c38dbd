"""Pictures for the judge: whole objects beside things that are no object of this world, in different places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebama.weights.miniature.judge import MIXED, SIDE
from ebama.weights.miniature.world import COLOURS, NOUNS, OBJECTS

from .broken import MAKERS, is_far, miscoloured, two_coloured
from .scenes import HARDER, Box, Composer, SceneConfig, background, overlaps, pick, place, scale
from .sprites import Array

_COLOURS = tuple(COLOURS)
_COVERED = 3  # pixels that a thing and one over it must share


@dataclass(frozen=True)
class Thing:
    """What stands in a place; `noun` is None for what is no object, `colour` where none can be told."""

    noun: str | None
    colour: str | None
    box: Box


@dataclass(frozen=True)
class Gallery:
    """A picture [64, 64, 3] and the things in it; what another covers in part is not among them."""

    image: npt.NDArray[np.uint8]
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class GalleryConfig:
    """How galleries look: `world` says how whole objects do.

    `counts` are the shares of 0, 1, 2, ... things, `longest` the ranges (pixels) of their longest sides where there are
    1, 2, or more; `broken` is the share of things that are no object, made by
    `makers` (of `broken.MAKERS`, or "miscoloured"); `mixed` the share of coloured objects in two colours; `covered` the
    share of pictures where the last thing stands in another's place.
    """

    world: SceneConfig
    makers: tuple[str, ...]
    counts: tuple[float, ...] = (0.03, 0.25, 0.4, 0.25, 0.07)
    longest: tuple[tuple[int, int], ...] = ((24, 40), (22, 34), (20, 26))
    broken: float = 0.3
    mixed: float = 0.15
    covered: float = 0.12


class Painter:
    """Draws galleries of one configuration; consecutive calls with one generator give a reproducible stream."""

    def __init__(self, config: GalleryConfig) -> None:
        self.config, self.composer = config, Composer(config.world, SIDE)

    def paint(self, rng: np.random.Generator) -> Gallery:
        """One gallery."""
        config, boxes = self.config, None
        count = int(rng.choice(len(config.counts), p=config.counts))
        covered = count > 1 and rng.random() < config.covered
        low, high = config.longest[min(count, 3) - 1] if count else (1, 1)
        while boxes is None:
            longest = int(rng.integers(low, high + 1))
            made = [self._thing(rng, longest) for _ in range(count)]
            sizes = [(picture.shape[1], picture.shape[0]) for picture, _, _ in made]
            boxes = place(rng, sizes[: count - covered], config.world.grid)
        if covered:
            boxes.append(_over(rng, boxes[-1], *sizes[-1]))
        canvas = background(rng, config.world.gradients and rng.random() < 0.5, SIDE)
        things: list[Thing] = []
        for (picture, noun, colour), (left, top, right, bottom) in zip(made, boxes, strict=True):
            region = canvas[top:bottom, left:right]
            region *= 1 - picture[..., 3:]
            region += picture[..., :3]
            box = left, top, right, bottom
            things = [thing for thing in things if not overlaps(thing.box, box, _COVERED)]
            things.append(Thing(noun, colour, box))
        return Gallery(np.rint(np.clip(canvas, 0, 255)).astype(np.uint8), tuple(things))

    def _thing(self, rng: np.random.Generator, longest: int) -> tuple[Array, str | None, str | None]:
        """Premultiplied picture [h, w, 4], noun and colour."""
        if rng.random() < self.config.broken:
            return self._broken(rng, longest), None, None
        noun, colour = _named(rng)
        if colour is None or rng.random() >= self.config.mixed:
            return self.composer.sprite(rng, noun, colour, longest), noun, colour
        other, seed = pick(rng, [name for name in _COLOURS if is_far(name, colour)]), int(rng.integers(2**32))
        both = [self.composer.sprite(np.random.default_rng(seed), noun, name, longest) for name in (colour, other)]
        return two_coloured(rng, *both), noun, MIXED

    def _broken(self, rng: np.random.Generator, longest: int) -> Array:
        maker = pick(rng, self.config.makers)
        if maker == "miscoloured":
            return scale(pick(rng, miscoloured(self.config.world.sets)), longest)
        first = second = _named(rng)
        while second[0] == first[0]:
            second = _named(rng)
        return MAKERS[maker](rng, *(self.composer.sprite(rng, *named, longest) for named in (first, second)))


def _named(rng: np.random.Generator) -> tuple[str, str | None]:
    noun = pick(rng, NOUNS)
    return noun, pick(rng, _COLOURS) if noun in OBJECTS and rng.random() < 0.85 else None


def _over(rng: np.random.Generator, under: Box, width: int, height: int) -> Box:
    """A box whose centre lies in the middle of the box under it."""
    left, top, right, bottom = under
    x = (left + right - width) / 2 + rng.uniform(-0.2, 0.2) * (right - left)
    y = (top + bottom - height) / 2 + rng.uniform(-0.2, 0.2) * (bottom - top)
    x, y = (int(np.clip(at, 0, SIDE - size)) for at, size in ((x, width), (y, height)))
    return x, y, x + width, y + height


GALLERIES = GalleryConfig(HARDER, ("blended", "cut", "half", "ragged", "faded", "washed", "scrambled", "miscoloured"))
"""What the judge learns from: every art style, anywhere."""
