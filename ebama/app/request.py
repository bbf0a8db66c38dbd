"""The requests that the page may send, and their limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, TypeAlias

from pydantic import BeforeValidator

from ebama.models import StableDiffusionConfig
from ebama.samplers import get as get_sampler

from .. import methods
from ..methods import Choice
from ..output import seeds
from ..prompt.alignment import check_characters
from ..starts import check_strength, latent_size

MAX_PROMPT = 1000  # characters
MAX_METHODS = 6
MAX_SEEDS = 8
MAX_BOXES = 8
MAX_WORDS = 75  # of groups; CLIP sees as many tokens
MAX_STEPS = 100
MAX_GUIDANCE = 30.0
MAX_ENLARGEMENT = 2  # of the sides of pictures, to the model's own
MAX_PASSES = 2000  # of one picture through the U-Net; the dearest method's defaults need 652 at 100 steps
MAX_UPLOAD = 2**24  # bytes of a picture's file
LIMITS = {
    "upload": MAX_UPLOAD,
    "prompt": MAX_PROMPT,
    "methods": MAX_METHODS,
    "seeds": MAX_SEEDS,
    "steps": MAX_STEPS,
    "guidance": MAX_GUIDANCE,
}

# pydantic takes the texts of the page's fields for numbers, as it should, and true for 1.
_NOT_OF_TRUTH = BeforeValidator(lambda value: str(value) if isinstance(value, bool) else value)
Whole: TypeAlias = Annotated[int, _NOT_OF_TRUTH]
Number: TypeAlias = Annotated[float, _NOT_OF_TRUTH]
# A program's lists and nulls, where the page sends texts.
Seeds: TypeAlias = Annotated[
    str, BeforeValidator(lambda value: ",".join(map(str, value)) if isinstance(value, list) else value)
]
Names: TypeAlias = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]
Text: TypeAlias = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


@dataclass(frozen=True)
class ReadRequest:
    """The words of a prompt. ValueError, in one line, for what is out of bounds.

    Attributes:
        prompt, groups: see `Pipeline.__call__`; groups are words, None for the parser's.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a misspelt name is not passed over

    prompt: str
    groups: tuple[tuple[str, tuple[str, ...]], ...] | None = None

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        if (words := sum(1 + len(modifiers) for _, modifiers in self.groups or ())) > MAX_WORDS:
            raise ValueError(f"groups have {words} words; expected at most {MAX_WORDS}.")


@dataclass(frozen=True)
class StartPicture:
    """A picture that runs start from: covered with noise as far as `strength` says, or inverted.

    Attributes:
        id: of the picture, which was sent before.
    """

    __pydantic_config__ = ReadRequest.__pydantic_config__

    id: str
    strength: Number | None = None
    invert: bool = False

    def __post_init__(self) -> None:
        if self.invert and self.strength is not None:
            raise ValueError(f"strength is {self.strength}; expected none for a picture that is inverted.")
        check_strength(self.strength)


@dataclass(frozen=True)
class GenerateRequest(ReadRequest):
    """Pictures of one prompt: every method at every seed. ValueError, in one line, for what is out of bounds.

    Attributes:
        methods: names, with options as `ebama.methods.parse` reads them; none that edits prompts.
        seeds: as on the command line: "0:4" is 0 1 2 3; or "3"; or "1,5,9"; or a list of numbers.
        image: an inverted one takes the sampler ddim and a single seed, which changes nothing.
        size, steps, guidance, sampler, negative_prompt, boxes: see `Pipeline.__call__`.
    """

    methods: Names = ("sd", "ebama")
    seeds: Seeds = "0:2"
    size: tuple[Whole, Whole] | None = None
    steps: Whole = 50
    guidance: Number = 7.5
    sampler: str = "pndm"
    negative_prompt: Text = ""
    boxes: dict[str, tuple[Number, Number, Number, Number]] = field(default_factory=dict)
    image: StartPicture | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_text("negative prompt", self.negative_prompt)
        if not 1 <= len(self.methods) <= MAX_METHODS:
            raise ValueError(f"{len(self.methods)} methods are chosen; expected 1 to {MAX_METHODS}.")
        for name, choice in self.parsed_methods.items():
            if choice.method.edits_prompts:
                raise ValueError(f"{name} edits one prompt's picture by another's; this page takes a single prompt.")
        if len(self.boxes) > MAX_BOXES:
            raise ValueError(f"{len(self.boxes)} boxes are drawn; expected at most {MAX_BOXES}.")
        if not self.boxes and (placing := [n for n, choice in self.parsed_methods.items() if choice.needs.boxes]):
            raise ValueError(f"{placing[0]} places objects in boxes; draw one for a word of the prompt.")
        if not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps is {self.steps}; expected 1 to {MAX_STEPS}.")
        if not 0 <= self.guidance <= MAX_GUIDANCE:
            raise ValueError(f"guidance is {self.guidance}; expected 0 to {MAX_GUIDANCE:g} (7.5 is usual).")
        _ = self.calls  # which checks what it reads
        if self.inverts and (self.sampler != "ddim" or len(self.seed_numbers) > 1):
            raise ValueError("An inverted picture brings its noise, and only ddim leads back; take ddim and one seed.")

    @property
    def parsed_methods(self) -> dict[str, Choice]:
        """The methods by the texts that name them, each once."""
        return {text: methods.parse(text) for text in self.methods}

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds, each once."""
        return tuple(seeds.parse(self.seeds, MAX_SEEDS))

    @property
    def calls(self) -> int:
        """How often a picture calls the model."""
        return len(get_sampler(self.sampler, self.steps).timesteps)

    @property
    def inverts(self) -> bool:
        """Whether pictures start from an inverted one."""
        return self.image is not None and self.image.invert


def longest_side(config: StableDiffusionConfig) -> int:
    """Pixels of a picture's side by that model, at most."""
    return MAX_ENLARGEMENT * config.sample_size * config.vae.factor


def pixels(config: StableDiffusionConfig, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of pictures of that size, None for the model's; ValueError for one that is not made here."""
    height, width = (side * config.vae.factor for side in latent_size(config, size))
    if max(height, width) > (most := longest_side(config)):
        raise ValueError(f"size is {size}; expected at most {most} pixels a side here.")
    return height, width


def _check_text(name: str, text: str) -> None:
    if len(text) > MAX_PROMPT:
        raise ValueError(f"the {name} has {len(text)} characters; expected at most {MAX_PROMPT}.")
    check_characters(text, name)
