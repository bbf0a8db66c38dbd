"""The noise that samples start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebama.models import StableDiffusionConfig


@dataclass(frozen=True, eq=False)
class InitialNoise:
    """Where one sample starts: its noise [4, h, w] and the generator, on the CPU, of any noise that it still needs."""

    noise: Tensor
    seed: int | None
    generator: torch.Generator

    @classmethod
    def from_seed(cls, shape: Sequence[int], seed: int) -> InitialNoise:
        """The noise of a seed."""
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = torch.randn(tuple(shape), generator=generator, device="cpu", dtype=torch.float32)
        return cls(noise, seed, generator)


def latent_size(config: StableDiffusionConfig, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the latents of pictures of `size` pixels, None for the model's own; ValueError for a size
    that the networks cannot make."""
    side, factor, multiple = config.sample_size, config.vae.factor, config.size_multiple
    if size is None:
        return side, side
    if any(pixels < 1 or pixels % multiple for pixels in size):
        raise ValueError(
            f"size is {tuple(size)}; expected a height and a width that are multiples of {multiple} pixels, as "
            f"({side * factor}, {side * factor})."
        )
    height, width = size
    return height // factor, width // factor


def as_tensor(latents: Any) -> Tensor:
    """Latents of any library as a tensor; ValueError for what is none."""
    if isinstance(latents, Tensor):
        return latents
    try:
        if isinstance(latents, np.ndarray):  # of either byte order, its axes turned around or not
            latents = np.ascontiguousarray(latents, latents.dtype.newbyteorder("="))
        return torch.as_tensor(latents, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"latents are {type(latents).__name__}; expected a tensor [N, C, h, w] ({error}).") from error


def initial_noise(
    config: StableDiffusionConfig,
    prompts: int,
    seeds: Sequence[int],
    latents: Tensor | None,
    size: tuple[int, int] | None = None,
) -> list[InitialNoise]:
    """That of every sample, prompt-major: from the seeds, for pictures of `size` pixels (height, width), or the
    `latents` [N, 4, h, w] that were given."""
    height, width = latent_size(config, size)
    if latents is None:
        shape = (config.unet.in_channels, height, width)
        return [InitialNoise.from_seed(shape, seed) for _ in range(prompts) for seed in seeds]
    latents = as_tensor(latents)
    if latents.layout is not torch.strided or latents.is_meta or latents.is_complex():
        raise ValueError(
            f"latents are {latents.dtype}, {latents.layout} on {latents.device}; expected dense, real values."
        )
    latents = latents.detach().float()
    fits = latents.ndim == 4 and latents.shape[1] == config.unet.in_channels and len(latents) % prompts == 0
    if not fits or not latents.numel():
        raise ValueError(
            f"latents have shape {list(latents.shape)}; expected [N, {config.unet.in_channels}, h, w] with N a "
            f"multiple of the number of prompts, {prompts}."
        )
    if size is not None and latents.shape[-2:] != (height, width):
        raise ValueError(
            f"latents have shape {list(latents.shape)}, and size {tuple(size)} asks for [N, "
            f"{config.unet.in_channels}, {height}, {width}]; leave one of them out."
        )
    if not latents.isfinite().all():
        raise ValueError("latents hold infinite or NaN values; expected initial noise, finite throughout.")
    count = len(latents) // prompts
    later = list(seeds) if len(seeds) == count else range(count)  # of the noise that a sampler draws in between
    return [
        InitialNoise(latent, None, torch.Generator("cpu").manual_seed(later[sample % count]))
        for sample, latent in enumerate(latents.cpu())
    ]
