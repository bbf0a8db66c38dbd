"""From a picture's recipe back to the request that asks for it."""

from __future__ import annotations

from dataclasses import asdict, astuple
from typing import Any

from ebama.weights import StableDiffusion

from .. import methods
from ..checks import expect
from ..output.recipe import SIZES, Recipe
from ..prompt import parse
from ..prompt.words import in_words
from .request import GenerateRequest, pixels


def request_of(recipe: Recipe, sd: StableDiffusion) -> dict[str, Any]:
    """The `GenerateRequest` of a recipe as values of JSON; of a picture that it started from there is no id.

    Raises ValueError for a recipe that this page, with its model, has no request for.
    """
    options, config = dict(recipe.method), sd.config
    choice = methods.get(options.pop("name"), **options)
    expect("seed", recipe.seed, recipe.seed is not None or recipe.inversion is not None, "a seed: latents were given")
    sampler = type(recipe.sampler).__name__.lower()
    usual = sd.sampler(sampler, recipe.sampler.steps)
    expect("sampler", recipe.sampler, recipe.sampler == usual, f"{sampler} along this model's schedule")
    for name, value in SIZES.items():
        expect(name, getattr(recipe, name), getattr(recipe, name) == value, f"{value} on this page")
    parsed = parse(recipe.prompt, sd.tokenizer, "rules", groups=recipe.groups)
    groups = in_words(parsed)
    boxes = {word: astuple(group.box) for (word, _), group in zip(groups, parsed.groups, strict=True) if group.box}
    request = GenerateRequest(
        recipe.prompt,
        groups=tuple((word, tuple(modifiers)) for word, modifiers in groups) if groups or choice.needs.groups else None,
        methods=(choice.text(config),),
        seeds=str(recipe.seed or 0),
        size=recipe.size(config.vae.latent_channels, config.vae.factor),
        steps=recipe.sampler.steps,
        guidance=recipe.guidance,
        sampler=sampler,
        negative_prompt=recipe.negative_prompt,
        boxes=boxes,
    )
    pixels(config, request.size)
    image = recipe.image and {"strength": recipe.image.get("strength"), "invert": recipe.inversion is not None}
    return {**asdict(request), "image": image}
