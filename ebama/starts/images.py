"""Pictures to latents and back."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor

from ebama.models import VAE

from ..checks import expect, short
from ..output.png import as_rgb, read_picture
from .noise import as_tensor

Picture: TypeAlias = Image.Image | str | os.PathLike[str]
"""A picture, or the file that holds it."""

_PIXELS_AT_ONCE = 512 * 512
"""Of full-size pictures one, since each takes the memory of the encoder or decoder anew."""


def fitted(pictures: Picture | Sequence[Picture], size: tuple[int, int]) -> list[Image.Image]:
    """Pictures in RGB of exactly `size` (height, width): scaled until they cover it, then cut evenly on both sides.

    They are read as `as_rgb` says. Raises ValueError for what is no picture, and OSError for a file that cannot be
    opened.
    """
    listed = pictures if isinstance(pictures, list | tuple) else [pictures]
    expect("image", pictures, bool(listed), "at least one picture")
    return [ImageOps.fit(_opened(picture), size[::-1], Image.Resampling.LANCZOS) for picture in listed]


def digest(image: Image.Image) -> str:
    """SHA-256 of a picture's size and pixels, 64 hex digits: the same for the same picture in another file."""
    return hashlib.sha256(f"{image.width}x{image.height} {image.mode}\n".encode() + image.tobytes()).hexdigest()


@torch.no_grad()
def encode(vae: VAE, images: Sequence[Image.Image]) -> Tensor:
    """Latents [N, 4, h, w] of pictures in RGB and of one size, float32 on the CPU: the mean of the VAE's posterior, so
    that a picture has one latent, without noise."""
    like, parts = next(vae.parameters()), []
    for part in _parts(len(images), images[0].width * images[0].height):
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images[part]])).to(like.device)
        x = rearrange(pixels.to(torch.float32), "b h w c -> b c h w") / 127.5 - 1
        parts.append(vae.encode(x.to(like)).mean.float().cpu() * vae.scale)
    latents = torch.cat(parts)
    if not latents.isfinite().all():
        raise FloatingPointError(f"The VAE made infinite or NaN values of a picture in {like.dtype}; use float32.")
    return latents


@torch.no_grad()
def decode(vae: VAE, latents: Tensor, at_most: int) -> list[Image.Image]:
    """Pictures of final latents [N, 4, h, w], at most so many at once; a warning if some are black since their values
    are infinite or NaN."""
    like, images = next(vae.parameters()), []
    latents, finite = as_tensor(latents), True
    for part in _parts(len(latents), latents.shape[-2:].numel() * vae.config.factor**2, at_most):
        pixels = vae.decode(latents[part].to(like) / vae.scale).float()
        finite = finite and bool(pixels.isfinite().all())
        pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to("cpu", torch.uint8)
        images += [Image.fromarray(p.numpy()) for p in rearrange(pixels, "b c h w -> b h w c").contiguous()]
    if not finite:
        warnings.warn(f"pictures are black: latents, or the VAE in {like.dtype}, are infinite or NaN", stacklevel=3)
    return images


def _parts(count: int, pixels: int, at_most: int = 8) -> Iterator[slice]:
    """Slices of `count` pictures of so many pixels: what goes through the VAE at once."""
    size = max(min(at_most, _PIXELS_AT_ONCE // pixels), 1)
    return (slice(first, first + size) for first in range(0, count, size))


def _opened(picture: Any) -> Image.Image:
    if isinstance(picture, str | os.PathLike):
        name = os.fsdecode(picture)
        expect("image", picture, bool(name) and "\0" not in name, "a picture of PIL, or the path of one")
        picture = read_picture(Path(picture))
    if not isinstance(picture, Image.Image):
        raise ValueError(f"image is {short(picture)}; expected a picture of PIL, or the path of one.")
    if not (picture.width and picture.height):
        raise ValueError(f"image has {picture.width}x{picture.height} pixels; expected a picture.")
    return as_rgb(picture)
