"""Pictures of no object of this world: two objects blended or cut together, half of one, a pink horse.

Guided pictures hold such things, and a judge that never saw them takes them for what they resemble.
All pictures are premultiplied, [h, w, 4]: RGB in 0..255 and alpha in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from ebama.weights.miniature.world import ANIMALS, COLOURS

from .icons import load_icons
from .sprites import Array, body_mask, lab_to_rgb, load_sprites, recolour, rgb_to_lab

_HUES = ("red", "orange", "yellow", "green", "blue", "purple", "pink")  # a black or a white animal may pass
_FAR = 45.0  # distance in Lab at which two colours are never taken for each other


def is_far(a: str, b: str) -> bool:
    """Whether two colours cannot be taken for each other."""
    first, second = (rgb_to_lab(np.array(COLOURS[name]) / 255) for name in (a, b))
    return bool(np.linalg.norm(first - second) > _FAR)


def blended(rng: np.random.Generator, a: Array, b: Array) -> Array:
    """Two objects seen through each other."""
    a, b = _on_one_canvas(a, b)
    return _mix(a, b, rng.uniform(0.35, 0.65))


def cut(rng: np.random.Generator, a: Array, b: Array) -> Array:
    """A part of one object and a part of another."""
    a, b = _on_one_canvas(a, b)
    return _mix(a, b, _ramp(rng, a.shape, 0.35, 0.65, rng.uniform(0.01, 0.3)))


def half(rng: np.random.Generator, a: Array, b: Array) -> Array:
    """An object of which two to three fifths are missing."""
    return _mix(a * 0, a, _ramp(rng, a.shape, 0.42, 0.65, rng.uniform(0.02, 0.25)))


def ragged(rng: np.random.Generator, a: Array, b: Array) -> Array:
    """An object a quarter to two fifths of which have crumbled away."""
    return _mix(a * 0, a, _patches(rng, a.shape, int(rng.integers(5, 8)), rng.uniform(0.25, 0.4)))


def faded(rng: np.random.Generator, a: Array, b: Array) -> Array:
    """A ghost of an object."""
    return _mix(a * 0, a, rng.uniform(0.2, 0.4))


def washed(rng: np.random.Generator, a: Array, b: Array) -> Array:
    """An object without its details, and paler."""
    height, width = a.shape[:2]
    size = [max(2, round(side / rng.uniform(2, 4))) for side in (width, height)]
    planes = [Image.fromarray(np.ascontiguousarray(a[..., i])).resize(size, Image.Resampling.BOX) for i in range(4)]
    blurred = np.stack([_enlarged(np.asarray(plane), height, width) for plane in planes], axis=-1)
    return _mix(a * 0, np.clip(blurred, 0, (255, 255, 255, 1)), rng.uniform(0.5, 0.85))


def scrambled(rng: np.random.Generator, a: Array, b: Array) -> Array:
    """An object's pieces in another order."""
    n = int(rng.integers(2, 4))
    height, width = (size // n for size in a.shape[:2])
    pieces = (
        a[: height * n, : width * n].reshape(n, height, n, width, 4).swapaxes(1, 2).reshape(n * n, height, width, 4)
    )
    shift = int(rng.integers(1, n * n))
    moved = np.roll(pieces, shift, axis=0).reshape(n, n, height, width, 4).swapaxes(1, 2)
    return moved.reshape(height * n, width * n, 4)


MAKERS: dict[str, Callable[[np.random.Generator, Array, Array], Array]] = {
    maker.__name__: maker for maker in (blended, cut, half, ragged, faded, washed, scrambled)
}
"""Everything that makes no object of pictures of two; some use the first only."""


@cache
def miscoloured(sets: tuple[str, ...]) -> tuple[Array, ...]:
    """The animals in every colour far from their own: RGBA [h, w, 4] in [0, 1], not premultiplied."""
    pictures = []
    for name, noun in ((name, noun) for name in sets for noun in ANIMALS if noun in load_icons(name)):
        rgba = load_sprites((name,))[noun, None][0]
        lab, alpha = rgb_to_lab(rgba[..., :3]), rgba[..., 3]
        mask = body_mask(lab, alpha, name, noun)
        if (mask * alpha).sum() < 0.4 * alpha.sum():  # a gray animal, whose ears have a hue
            mask = np.clip((lab[..., 0] - 12) / 18, 0, 1)
        weight = (mask * alpha)[..., None]
        natural = (lab * weight).sum(axis=(0, 1)) / weight.sum()
        for colour in _HUES:
            if np.linalg.norm(rgb_to_lab(np.array(COLOURS[colour]) / 255) - natural) > _FAR:
                painted = lab_to_rgb(recolour(lab, mask, alpha, colour))
                pictures.append(np.concatenate([painted, alpha[..., None]], axis=-1))
    return tuple(pictures)


def two_coloured(rng: np.random.Generator, a: Array, b: Array) -> Array:
    """One drawing in two colours, a part in each."""
    return _mix(a, b, _ramp(rng, a.shape, 0.35, 0.65, rng.uniform(0.01, 0.3)))


def _mix(a: Array, b: Array, share: Array | float) -> Array:
    return np.asarray(a * (1 - share) + b * share, dtype=np.float32)


def _on_one_canvas(a: Array, b: Array) -> list[Array]:
    height, width = (max(a.shape[axis], b.shape[axis]) for axis in (0, 1))
    canvases = []
    for picture in (a, b):
        top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
        canvas = np.zeros((height, width, 4), dtype=np.float32)
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        canvases.append(canvas)
    return canvases


def _ramp(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float, softness: float) -> Array:
    """A mask [h, w, 1] that goes from 0 to 1 across a line at a random angle; `low` to `high` of it is 0."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (x / shape[1] - 0.5) + np.sin(angle) * (y / shape[0] - 0.5)
    at = np.quantile(along, rng.uniform(low, high))
    return np.asarray(np.clip((along - at) / softness + 0.5, 0, 1)[..., None], dtype=np.float32)


def _patches(rng: np.random.Generator, shape: tuple[int, ...], cells: int, share: float) -> Array:
    """Smooth patches of 0 and 1, a `share` of the area 0: [h, w, 1]."""
    fine = _enlarged(rng.standard_normal((cells, cells)), *shape[:2])
    return np.asarray(np.clip((fine - np.quantile(fine, share)) * 4 + 0.5, 0, 1)[..., None], dtype=np.float32)


def _enlarged(coarse: np.ndarray, height: int, width: int) -> Array:
    image = Image.fromarray(coarse.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)
