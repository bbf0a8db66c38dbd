"""Composable Diffusion: a noise estimate for each part of a prompt, and their weighted sum."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from ..checks import is_number, plain
from ..guidance import Conditioning, Cost, Method, Needs, Task, classifier_free
from ..guidance.options import option
from ..prompt import Parsed

BAR = "|"
_JOINT = re.compile(r"\b(?:and|with)\b|[\s.,;]", re.IGNORECASE)


def _part_weights(name: str, value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    weights = tuple(map(plain, value)) if isinstance(value, tuple | list) else ()
    if not weights or not all(map(is_number, weights)):
        raise ValueError(f"{name} are {value!r}; expected a finite number for each part, as [7.5, -3.0].")
    return weights


@dataclass(frozen=True)
class ComposableDiffusion(Method):
    """epsilon = e_u + sum over parts j of w_j (e_j - e_u): weights add, and a negative one negates its part.

    Parts are what stands between bars, "a cat | a dog", or else the prompt's noun phrases, see `parts` (the authors'
    code knows bars only); a prompt of one part is plain Stable Diffusion. Each part is encoded on its own, so each may
    fill CLIP's 75 tokens. The sum is the same under every sampler; the authors' default is DDIM, 50 steps, eta 0, so
    for their pictures choose `sampler="ddim"`. It is also the same at a guidance scale of 1: parts then weigh 1, and
    the negative prompt is run unless no prompt of the batch has several parts or weights are given. A trace shows the
    first part's attention.

    Attributes:
        weights: w_j, a number for each part, in their order; None: the guidance scale for each, as the authors do
            (they give 7.5: two parts then have a total of 15). Every prompt of a call must have that many parts.
    """

    name: ClassVar[str] = "cd"
    changes: ClassVar[str] = "sums the noise estimates of the prompt's parts"
    reference: ClassVar[str] = "Liu et al. 2022 (Composable Diffusion)"
    needs: ClassVar[Needs] = Needs(phrases=True)
    separator: ClassVar[str | None] = BAR

    weights: tuple[float, ...] | None = option(None, _part_weights)

    def conditioning(self, task: Task) -> Conditioning:
        """Rows: one negative for each sample, then its parts."""
        inputs = task.inputs
        each = [parts(prompt) for prompt in inputs.prompts]
        if self.weights is None and all(len(own) == 1 for own in each):
            return super().conditioning(task)
        for prompt, own in zip(inputs.prompts, each, strict=True):
            if self.weights is not None and len(own) != len(self.weights):
                raise ValueError(
                    f"There are {len(self.weights)} weights for the {len(own)} parts of {prompt.prompt!r}: "
                    f"{' | '.join(own)}. Give one weight for each part, or none."
                )
        texts = list(dict.fromkeys(part for own in each for part in own))
        rows = [texts.index(part) for own in each for part in own]
        samples = [sample for sample, own in enumerate(each) for _ in own]
        weights = [w for own in each for w in self.weights or [inputs.guidance] * len(own)]
        return classifier_free(inputs.negative_context, inputs.encode(texts)[rows], samples, weights)

    def cost(self, prompt: Parsed, calls: int) -> Cost:
        """A prediction for the negative prompt and one for each part."""
        return Cost(predictions=(1 + len(parts(prompt))) * calls)


def parts(prompt: Parsed) -> list[str]:
    """The parts of a prompt, none of its words lost.

    With bars, what stands between them. Without, the prompt is taken apart into its outermost noun phrases, and each
    of these again into those inside it, wherever only "and", "with" and punctuation stand between: "a red car and a
    bear with a crown" has three parts, "a cat on a bench" and "a cat and dogs" (one bare noun) have one. On the
    benchmark of Attend-and-Excite these are the two halves that its metric takes.

    Raises ValueError if nothing stands beside a bar.
    """
    if BAR in prompt.prompt:
        found = [part.strip() for part in prompt.prompt.split(BAR)]
        if not all(found):
            raise ValueError(f"A part of {prompt.prompt!r} is empty; put words on both sides of each |.")
        return found
    characters = [prompt.stretch(first, last - 1) for first, last, _ in prompt.phrases]
    found = [prompt.prompt[start:end] for start, end in _apart((0, len(prompt.prompt)), characters, prompt.prompt)]
    return found if len(found) > 1 else [prompt.prompt]


def _apart(whole: tuple[int, int], phrases: list[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """A stretch of characters as the phrases it consists of; `phrases` come by where they begin, outer before inner."""
    inside: list[tuple[int, int]] = []
    at, between = whole[0], ""
    for start, end in phrases:
        if at <= start and end <= whole[1] and (start, end) != whole:
            inside.append((start, end))
            at, between = end, between + " " + text[at:start]
    if not inside or _JOINT.sub("", between + " " + text[at : whole[1]]):
        return [whole]
    return [part for stretch in inside for part in _apart(stretch, phrases, text)]
