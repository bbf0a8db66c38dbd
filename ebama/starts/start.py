"""Where the samples of a run begin: in noise, in a picture that noise covers in part, or in an inverted one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor

from ebama.samplers import Sampler
from ebama.weights import StableDiffusion

from ..checks import expect, is_number, plain
from ..guidance import Method, Task
from .images import Picture, digest, encode, fitted
from .inversion import Inversion
from .noise import InitialNoise, initial_noise

Images: TypeAlias = Picture | Inversion | Sequence[Picture]
"""A picture for all prompts, or a list of one for each; or pictures that were inverted, likewise."""

STRENGTH = 0.8


@dataclass(frozen=True, eq=False)
class Start:
    """The samples' first latents, and the sampler of the run.

    Attributes:
        samples: prompt-major.
        sampler: of the run.
        asked_sampler: of which `sampler` may be the last part.
        images: what a recipe says of each sample's picture, None without one.
        null_texts: see `PipelineInputs`.
    """

    samples: list[InitialNoise]
    sampler: Sampler
    asked_sampler: Sampler
    images: Sequence[Mapping[str, Any] | None]
    null_texts: Tensor | None = None

    def applied(self, task: Task, method: Method) -> Task:
        """The task with what this start says of it; ValueError for a method that makes noise of its own, where a
        picture is what samples begin with."""
        if any(self.images) and method.start(task) is not None:
            raise second_start(method.name)
        return replace(task, pipeline=replace(task.inputs, null_texts=self.null_texts))


def second_start(method: str) -> ValueError:
    """The error of a method that makes noise of its own, where a picture is what samples begin with."""
    return ValueError(
        f"{method} chooses the initial noise, and here a picture says where sampling begins; leave the picture out, or "
        "take a method that acts later."
    )


def check_strength(strength: Any) -> None:
    """ValueError unless a picture can be covered with noise that far; None for the usual."""
    fits = strength is None or (is_number(strength) and 0 < strength <= 1)
    expect("strength", strength, fits, "a share of the steps, above 0 and at most 1")


def start(
    sd: StableDiffusion,
    image: Images | None,
    strength: float | None,
    sampler: Sampler,
    prompts: int,
    seeds: Sequence[int],
    latents: Tensor | None,
    size: tuple[int, int] | None,
) -> Start:
    """The start of `prompts` x `seeds` samples; see `Pipeline.__call__` for the arguments, which are checked here."""
    if isinstance(image, Inversion):
        return _inverted(sd, image, strength, prompts, seeds, latents, size)
    samples = initial_noise(sd.config, prompts, seeds, latents, size)
    if image is None:
        expect("strength", strength, strength is None, "none where no image is given")
        return Start(samples, sampler, sampler, [None] * len(samples))
    check_strength(strength := plain(strength))
    strength = STRENGTH if strength is None else strength
    rest, factor = sampler.last(strength), sd.config.vae.factor
    height, width = samples[0].noise.shape[-2:]
    images = fitted(image, (height * factor, width * factor))
    index = _of_samples(len(images), prompts, len(samples))
    pictures = encode(sd.vae, images)
    samples = [
        replace(sample, noise=rest.schedule.add_noise(pictures[k], sample.noise, rest.timesteps[0]))
        for k, sample in zip(index, samples, strict=True)
    ]
    facts = [{"sha256": digest(image), "strength": strength} for image in images]
    return Start(samples, rest, sampler, [facts[k] for k in index])


def _inverted(
    sd: StableDiffusion,
    image: Inversion,
    strength: float | None,
    prompts: int,
    seeds: Sequence[int],
    latents: Tensor | None,
    size: tuple[int, int] | None,
) -> Start:
    """The start in inverted pictures, whose sampler and length of way were chosen when they were inverted."""
    expect("strength", strength, strength is None, "none beside an Inversion, which starts where its sampler does")
    expect("latents", latents, latents is None, "none beside an Inversion, which has its own")
    index = _of_samples(len(image.latents), prompts, prompts * len(seeds))
    samples = initial_noise(sd.config, prompts, seeds, image.latents[index], size)
    sampler = image.sampler.predicting(sd.config.prediction)
    null_texts = None if image.null_texts is None else image.null_texts[index]
    return Start(samples, sampler, sampler, [image.recipes[k] for k in index], null_texts)


def _of_samples(pictures: int, prompts: int, samples: int) -> list[int]:
    """Which picture each sample begins with."""
    if pictures not in (1, prompts):
        raise ValueError(f"image has {pictures} pictures for {prompts} prompts; give one for all or one for each.")
    return [sample * pictures // samples for sample in range(samples)]
