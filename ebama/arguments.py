"""What a caller of the pipeline gives: checked, and prompts read."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ebama.weights import StableDiffusion, Vocabulary
from ebama.weights.stable_diffusion import pixels

from .checks import expect, is_number, is_whole, items, short
from .guidance import Method
from .prompt import Parsed, parse
from .prompt.alignment import align, check_characters
from .prompt.parsers import check as check_parser
from .prompt.words import Boxes, place
from .trace import TraceOptions


def check(prompts: Sequence[str], seeds: Iterable[int], guidance: float, output: str, batch_size: int) -> None:
    """Raise ValueError for a value that no run can be made with, naming it."""
    if not prompts:
        raise ValueError("There is no prompt; give at least one.")
    if odd := [prompt for prompt in prompts if not isinstance(prompt, str)]:
        raise ValueError(f"A prompt is {short(odd[0])}; expected a string.")
    for prompt in prompts:
        check_characters(prompt)
    plain_seeds(seeds)
    expect("guidance", guidance, is_number(guidance), "a finite number (7.5 is usual, 1 switches it off)")
    expect("output", output, output in ("pil", "latent"), "'pil' or 'latent'")
    expect("batch_size", batch_size, is_whole(batch_size) and batch_size >= 1, "a whole number of at least 1")


def check_watching(trace: object, progress: object, on_call: object) -> None:
    """Raise ValueError for what cannot watch a run."""
    expect("trace", trace, isinstance(trace, bool | TraceOptions | None), "True, False or TraceOptions(...)")
    expect("progress", progress, isinstance(progress, bool), "True or False")
    expect("on_call", on_call, on_call is None or callable(on_call), "a function of (done, all) model calls")


def listed(prompt: Any) -> list[Any]:
    """One prompt or several as a list."""
    is_one = isinstance(prompt, str | bytes | Mapping | set | frozenset) or getattr(prompt, "ndim", None) == 0
    return [prompt] if is_one or not isinstance(prompt, Iterable) else items(prompt)


def plain_seeds(seeds: Iterable[int]) -> list[int]:
    """Seeds as Python's numbers, which JSON can hold. One that is given twice makes its picture twice."""
    values = items(seeds)
    if not values or not all(is_whole(seed) and 0 <= seed < 2**63 for seed in values):
        raise ValueError(f"seeds are {short(seeds)}; expected a list of at least one whole number from 0 to 2**63 - 1.")
    return [int(seed) for seed in values]


def training_sizes(original_size: Any, crop: Any, target_size: Any) -> dict[str, tuple[int, int] | None]:
    """The sizes of training pictures as `StableDiffusion.condition` takes them."""
    sizes = {"original_size": original_size, "crop": (0, 0) if crop is None else crop, "target_size": target_size}
    return {name: None if size is None else pixels(name, items(size) or size) for name, size in sizes.items()}


def check_negative_prompt(text: str, tokenizer: Any) -> None:
    """Raise ValueError for a negative prompt that is no text; warn of words that the text encoder does not see."""
    if not isinstance(text, str):
        raise ValueError(f"negative_prompt is {short(text)}; expected a string.")
    check_characters(text, "negative_prompt")
    if text.strip() and (lost := align(text, tokenizer).lost()):
        warnings.warn(f"CLIP sees only the beginning of the negative prompt; it does not see: {lost}", stacklevel=3)


def read(
    sd: StableDiffusion,
    prompts: Sequence[str],
    groups: Sequence[Any] | None,
    boxes: Boxes | Sequence[Boxes] | None,
    method: Method,
    parser: str,
    ignore: Collection[str],
) -> list[Parsed]:
    """The readings of prompts by which a method runs, with their boxes; see `Pipeline.__call__` for the arguments.

    Raises ValueError for what cannot be read, and for what the method needs and did not get.
    """
    if sd.vocabulary is not None:
        _warn_unknown_words(prompts, sd.vocabulary)
    if not isinstance(boxes, Mapping | Sequence | None):
        raise ValueError(f"boxes is {short(boxes)}; expected a mapping, as {{'crown': (0, 0.2, 0.5, 0.8)}}.")
    reads_groups = method.needs.groups or bool(boxes)
    if not (reads_groups or method.needs.phrases):
        if isinstance(parser, str):
            check_parser(parser)
        parser = "rules"  # nothing of the reading is used but where the words stand
    if not isinstance(groups, Sequence | None):
        raise ValueError(f"groups is {short(groups)}; expected a list, as [('crown', ['purple'])].")
    if groups is None:
        groups = [None if reads_groups else ()] * len(prompts)
    elif len(prompts) == 1 and not (groups and _are_groups(groups[0])):
        groups = [groups]
    if len(groups) != len(prompts):
        raise ValueError(f"groups has {len(groups)} entries for {len(prompts)} prompts; give one list for each prompt.")
    parsed = [
        parse(prompt, sd.tokenizer, parser, groups=given, ignore=ignore, separator=method.separator)
        for prompt, given in zip(prompts, groups, strict=True)
    ]
    return _placed(parsed, boxes, method)


def _are_groups(given: Any) -> bool:
    """Whether it is a prompt's list of groups, and no group as JSON has it, ["crown", ["purple"]]."""
    return isinstance(given, list) and not (given and isinstance(given[0], str))


def _placed(parsed: list[Parsed], boxes: Boxes | Sequence[Boxes] | None, method: Method) -> list[Parsed]:
    """The prompts with the boxes of their objects; ValueError for boxes that do not fit, and for none where the method
    needs them."""
    given: Any = (
        [boxes or {}] * len(parsed) if not boxes or (isinstance(boxes, Mapping) and len(parsed) == 1) else boxes
    )
    if (
        not isinstance(given, list | tuple)
        or len(given) != len(parsed)
        or not all(isinstance(b, Mapping) for b in given)
    ):
        raise ValueError(
            f"boxes are {short(boxes)} for {len(parsed)} prompts; give one mapping from words to boxes for each."
        )
    parsed = [place(prompt, mapping) for prompt, mapping in zip(parsed, given, strict=True)]
    if method.needs.boxes and not boxes and not any(group.box for prompt in parsed for group in prompt.groups):
        raise ValueError(
            f"{method.name} places objects in boxes, and got none; give them by words, as "
            'boxes={"crown": (0, 0.2, 0.5, 0.8)}: left, top, right and bottom in fractions of the picture.'
        )
    return parsed


def _warn_unknown_words(prompts: Sequence[str], vocabulary: Vocabulary) -> None:
    unknown = list(dict.fromkeys(word for prompt in prompts for word in vocabulary.unknown_words(prompt)))
    if unknown:
        warnings.warn(
            f"The {vocabulary.name} does not know: {', '.join(unknown)}. It knows {', '.join(vocabulary.nouns)}, "
            f"in {', '.join(vocabulary.colours)}.",
            stacklevel=4,
        )
