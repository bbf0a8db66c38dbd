"""A recipe is everything that makes an image: it is written into each PNG, read back, compared and run again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields, replace
from math import prod
from pathlib import Path
from typing import Any

from ebama.samplers import Sampler

from ..checks import expect, is_number, short
from ..prompt import Box, Group
from ..prompt.alignment import LONGEST
from .png import MAX_PIXELS, read_metadata
from .stored_sampler import describe_sampler, read_sampler

DTYPES = ("float32", "float16", "bfloat16")
SIZES: dict[str, tuple[int, int] | None] = {"original_size": None, "crop": (0, 0), "target_size": None}


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one image; ValueError, in one line, for a value that no run could have had.

    Attributes:
        seed: of the initial noise; None if it was given as a latent.
        method: its name and all its options, as `Method.describe` says them.
        prompt, sampler, guidance, negative_prompt, groups, parser, original_size, crop, target_size: see
            `Pipeline.__call__`.
        latent: shape of the latent.
        model, fingerprint: name of the model's configuration, and a hash of its weights.
        versions: of the library, of torch and of Python.
        weights, dtype: what the model was loaded from (None: the miniature) and in which precision; a dtype of None
            says that neither is known.
        image: of a picture that the run started from, its "sha256" (see `ebama.starts.digest`) and "strength", or how
            it was inverted ("inversion").
    """

    prompt: str
    seed: int | None
    method: Mapping[str, Any]
    sampler: Sampler
    guidance: float
    negative_prompt: str
    groups: tuple[Group, ...]
    parser: str
    latent: tuple[int, ...] = ()
    model: str = ""
    fingerprint: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    weights: str | None = None
    dtype: str | None = None
    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    image: Mapping[str, Any] | None = None

    def loaded_from(self, weights: Path | str | None, dtype: str) -> Recipe:
        """The same recipe, which also says what the model was loaded from: all that it takes to run it again."""
        return replace(self, weights=str(weights) if weights else None, dtype=dtype)

    def arguments(self) -> dict[str, Any]:
        """The recipe as arguments of `Pipeline.__call__`, all but the method and a picture."""
        same = ["prompt", "sampler", "guidance", "negative_prompt", "groups", "parser"]
        same += [name for name, usual in SIZES.items() if getattr(self, name) != usual]
        strength = {"strength": self.image["strength"]} if self.image and "strength" in self.image else {}
        seeds = {} if self.seed is None else {"seeds": [self.seed]}
        return {**seeds, **{name: getattr(self, name) for name in same}, **strength}

    @property
    def inversion(self) -> Any:
        """How the picture was inverted that the run started from, None if it was not."""
        return (self.image or {}).get("inversion")

    def size(self, channels: int, factor: int) -> tuple[int, int] | None:
        """Height and width of the picture in pixels, by a model whose latents have so many `channels`, and so many
        pixels to the side of one of theirs; None if the recipe does not say it. ValueError for another model's latent,
        and for a picture too large to be read.
        """
        if not self.latent:
            return None
        stored, height, width = self.latent
        expect("latent", self.latent, stored == channels, f"{channels} channels, as this model has")
        size = height * factor, width * factor
        expect("latent", self.latent, prod(size) <= MAX_PIXELS, f"a picture of at most {MAX_PIXELS:,} pixels")
        return size

    def to_metadata(self) -> dict[str, Any]:
        """The recipe as values of JSON."""
        metadata = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        metadata |= {
            "method": dict(self.method),
            "sampler": describe_sampler(self.sampler),
            "groups": [_describe_group(group) for group in self.groups],
            "latent": list(self.latent),
            "versions": dict(self.versions),
        }
        if self.dtype is None:
            del metadata["weights"], metadata["dtype"]
        if self.image is None:
            del metadata["image"]
        for name, usual in SIZES.items():
            value = metadata.pop(name)
            metadata |= {} if value == usual else {name: list(value)}
        return metadata

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Recipe:
        """Read values that `to_metadata` made, also those of older versions, which said less.

        Names that are not a recipe's are ignored. Raises ValueError, in one line, for a name that is missing.
        """
        values = {entry.name: metadata[entry.name] for entry in fields(cls) if entry.name in metadata}
        needed = [entry.name for entry in fields(cls) if entry.default is entry.default_factory]  # both are MISSING
        if missing := sorted(set(needed) - values.keys()):
            raise ValueError(f"{', '.join(missing)} are missing.")
        values["sampler"] = read_sampler(metadata["sampler"])
        groups = metadata["groups"]
        expect("groups", groups, isinstance(groups, list) and len(groups) <= LONGEST, f"a list of at most {LONGEST}")
        values["groups"] = tuple(read_group(group) for group in groups)
        positions = [at for group in values["groups"] for word in (group.object, *group.modifiers) for at in word]
        if odd := [position for position in positions if position > LONGEST]:  # of what model, the run will tell
            raise ValueError(f"groups: {odd[0]} is no position from 0 to {LONGEST}.")
        for name in ("latent", *SIZES):
            if isinstance(sides := values.get(name), list):
                values[name] = tuple(sides)
        return cls(**values)

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt", "parser", "model", "fingerprint"):
            expect(name, getattr(self, name), isinstance(getattr(self, name), str), "a string")
        whole = type(self.seed) is int and 0 <= self.seed < 2**63
        expect("seed", self.seed, self.seed is None or whole, "a whole number from 0 to 2**63 - 1")
        named = isinstance(self.method, Mapping) and isinstance(self.method.get("name"), str)
        expect("method", self.method, named and _is_plain(self.method), "a name and options that are plain values")
        expect("guidance", self.guidance, is_number(self.guidance), "a finite number")
        sides = isinstance(self.latent, tuple) and all(type(side) is int and 0 < side < 2**16 for side in self.latent)
        sides = sides and len(self.latent) in (0, 3)  # 0: of older recipes, which did not say it
        expect("latent", self.latent, sides, "the sizes of a latent, its channels, height and width")
        for name, usual in SIZES.items():
            size = getattr(self, name)
            pair = isinstance(size, tuple) and len(size) == 2
            fits = size == usual or (pair and all(type(side) is int and 0 <= side < 2**16 for side in size))
            expect(name, size, fits, "two whole numbers of pixels, below 65536")
        image: Any = self.image if isinstance(self.image, Mapping) and _is_plain(self.image) else {}
        strength = image.get("strength", 1)
        hashed = re.fullmatch("[0-9a-f]{64}", str(image.get("sha256"))) is not None
        fits = self.image is None or (hashed and is_number(strength) and 0 < strength <= 1)
        expect("image", self.image, fits, "the sha256 of a picture and a strength of at most 1")
        texts = isinstance(self.versions, Mapping) and all(isinstance(text, str) for text in self.versions.values())
        expect("versions", self.versions, texts, "strings by name")
        expect("weights", self.weights, self.weights is None or isinstance(self.weights, str), "a path or null")
        expect("dtype", self.dtype, self.dtype is None or self.dtype in DTYPES, f"one of {', '.join(DTYPES)}")


def read_recipe(path: Path) -> Recipe:
    """The recipe of an image that `generate` wrote; ValueError, which names the file, if it holds none."""
    return recipe_of(read_metadata(path), path)


def recipe_of(metadata: Mapping[str, Any], path: Path | str) -> Recipe:
    """The recipe that a picture's metadata are; messages name `path`."""
    try:
        recipe = Recipe.from_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"{path} holds no recipe of a single picture: {error}") from error
    if recipe.dtype is None:  # a figure, whose metadata say what it shows
        raise ValueError(f"{path} holds no recipe of a single picture: weights, dtype are missing.")
    return recipe


def read_group(stored: object) -> Group:
    """A group from JSON, whose tuples are lists."""
    try:
        values: Any = stored
        words = tuple(values["object"]), tuple(tuple(word) for word in values["modifiers"])
        sides = values.get("box")
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"A group is {short(stored)}; expected positions of an object and its modifiers.") from None
    return Group(*words, box=None if sides is None else Box.of(sides))


def _describe_group(group: Group) -> dict[str, Any]:
    stored = {"object": group.object, "modifiers": group.modifiers}
    return stored if group.box is None else stored | {"box": list(astuple(group.box))}


def _is_plain(value: object, depth: int = 5) -> bool:
    """Whether a value is one of JSON's, of finite numbers, and not nested deeper than any option is."""
    if isinstance(value, Mapping):
        return depth > 0 and all(isinstance(key, str) and _is_plain(inner, depth - 1) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(inner, depth - 1) for inner in value)
    return value is None or isinstance(value, bool | str) or is_number(value)
