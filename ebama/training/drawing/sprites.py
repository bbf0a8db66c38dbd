"""Rasterised, recoloured sprites of the miniature's nouns (needs resvg-py; the "train" extra).

Recolouring works in CIE Lab. The body is the part of the drawing that has the drawing's dominant hue, so tyres, windows
and buckles stay. Its mean lightness becomes the target's, with less contrast; its hue becomes the target's, and its
chroma too, but for deep shadows and highlights.
"""

from __future__ import annotations

import io
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

from ebama.weights.miniature.world import COLOURS, NOUNS, OBJECTS, Named

from .icons import load_icons

Array: TypeAlias = npt.NDArray[np.float32]
Sprites: TypeAlias = dict[Named, list[Array]]

_TO_XYZ = np.array(  # linear sRGB to CIE XYZ
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65

# How much of the target's contrast the shading keeps; light and dark bodies have no room for all of it.
_CONTRAST = {"white": 0.35, "black": 0.45, "yellow": 0.6, "pink": 0.7}
_WIDE_HUE = {("fluent", "suitcase"), ("fluent", "bowl")}
_DARKENED = {("noto", "elephant"): 0.78}  # factor of its Lab colours: it is as light as the backgrounds
_FRAME_HUE = {("noto", "glasses"): 50.0, ("fluent", "glasses"): 315.0}  # the frame, not the lenses


def rgb_to_lab(rgb: npt.ArrayLike) -> Array:
    """Convert sRGB in [0, 1] to CIE Lab (D65) along the last axis."""
    values = np.asarray(rgb, dtype=np.float64)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def lab_to_rgb(lab: Array) -> Array:
    """Convert CIE Lab (D65) to sRGB clipped to [0, 1] along the last axis."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    ratio = np.where(f > 6 / 29, f**3, (116 * f - 16) * 27 / 24389)
    linear = np.clip((ratio * _WHITE) @ np.linalg.inv(_TO_XYZ).T, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(rgb, dtype=np.float32)


def _smoothstep(x: Array, low: float, high: float) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def body_mask(lab: Array, alpha: Array, sprite_set: str, noun: str) -> Array:
    """The part of a drawing that carries the object's colour: Lab [h, w, 3], alpha [h, w] -> weights [h, w]."""
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    weight = alpha * _smoothstep(chroma, 12, 28)
    if weight.sum() < 0.03 * alpha.sum():
        return _smoothstep(lab[..., 0], 12, 30)
    histogram = np.bincount((hue // 5).astype(int).ravel() % 72, weights=weight.ravel(), minlength=72)
    smooth = sum(np.roll(histogram, shift) for shift in range(-4, 5))
    dominant = _FRAME_HUE.get((sprite_set, noun), 5.0 * float(np.argmax(smooth)) + 2.5)
    distance = np.abs((hue - dominant + 180) % 360 - 180)
    low, high = (39, 72) if (sprite_set, noun) in _WIDE_HUE else (30, 55)
    return _smoothstep(chroma, 8, 20) * (1 - _smoothstep(distance, low, high))


def recolour(lab: Array, mask: Array, alpha: Array, colour: str) -> Array:
    """Give the masked body a colour of ``COLOURS``: Lab [h, w, 3] -> Lab [h, w, 3]."""
    target = rgb_to_lab(np.array(COLOURS[colour]) / 255)
    weight = mask * alpha
    mean = float((lab[..., 0] * weight).sum() / weight.sum())
    light = np.clip(target[0] + _CONTRAST.get(colour, 0.8) * (lab[..., 0] - mean), 3, 99)
    shadow, highlight = (light / target[0]) ** 0.6, ((100 - light) / (100 - target[0])) ** 0.9
    scale = np.minimum(np.where(light < target[0], shadow, highlight), 1.15)
    painted = np.stack([light, target[1] * scale, target[2] * scale], axis=-1)
    return np.asarray(lab + mask[..., None] * (painted - lab), dtype=np.float32)


def rasterise(svg: str, size: int) -> Array:
    """An SVG document -> RGBA [size, size, 4] in [0, 1], alpha not multiplied in."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    return np.asarray(np.array(Image.open(io.BytesIO(png)).convert("RGBA")) / 255, dtype=np.float32)


@cache
def load_sprites(sets: tuple[str, ...] = ("noto",), size: int = 192) -> Sprites:
    """All sprites: (noun, colour or None for natural colours) -> RGBA [h, w, 4] in [0, 1] for each set that draws it.

    Animals have natural colours only. Each drawing is rasterised at ``size`` x ``size`` and cropped to what is drawn.
    """
    sprites: Sprites = {}
    for sprite_set in sets:
        icons = load_icons(sprite_set)
        for noun in NOUNS:
            if noun not in icons:
                continue
            rgba = rasterise(icons[noun], size)
            rows, columns = np.nonzero(rgba[..., 3] > 0.1)
            rgba = rgba[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            lab, alpha = rgb_to_lab(rgba[..., :3]), rgba[..., 3]
            if (sprite_set, noun) in _DARKENED:
                rgba = np.concatenate([lab_to_rgb(lab * _DARKENED[sprite_set, noun]), alpha[..., None]], axis=-1)
            sprites.setdefault((noun, None), []).append(rgba)
            if noun not in OBJECTS:
                continue
            mask = body_mask(lab, alpha, sprite_set, noun)
            for colour in COLOURS:
                rgb = lab_to_rgb(recolour(lab, mask, alpha, colour))
                sprites.setdefault((noun, colour), []).append(np.concatenate([rgb, alpha[..., None]], axis=-1))
    return sprites
