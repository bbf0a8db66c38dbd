"""Prompt-to-Prompt: the pictures of several prompts share the first one's attention maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..checks import is_number, short
from ..guidance import Conditioning, Controls, Method, Needs, Task
from ..guidance.gradient_method import base_resolution
from ..guidance.options import one_of, option, pairs
from ..models import Control, Site
from ..models.attention import AttentionCall
from ..prompt import Parsed
from ..prompt.tokenization import tokenize
from .correspondence import refining, replacing, word_positions

Window = float | tuple[float, float]
"""Shares of the run: (from, to), or x for (0, x)."""


def _window(name: str, window: Any) -> Window:
    low, high = window if isinstance(window, tuple | list) and len(window) == 2 else (0, window)
    if not all(isinstance(x, int | float) for x in (low, high)) or not 0 <= low <= high <= 1:
        raise ValueError(f"{name} has the window {short(window)}; expected a share from 0 to 1, or (from, to).")
    return window if isinstance(window, int | float) else (low, high)


def _check_word(name: str, word: object) -> None:
    if not isinstance(word, str):
        raise ValueError(f"{name} names {short(word)}; expected words of the prompts.")


def _word_window(name: str, pair: tuple[str, Any]) -> tuple[str, Window]:
    _check_word(name, pair[0])
    return pair[0], _window(repr(pair[0]), pair[1])


def _word_factor(name: str, pair: tuple[str, Any]) -> tuple[str, float]:
    _check_word(name, pair[0])
    if not is_number(pair[1]):
        raise ValueError(f"{name} has {short(pair[1])} for {pair[0]!r}; expected a finite number (1 changes nothing).")
    return pair


@dataclass(frozen=True)
class PromptToPrompt(Method):
    """The first prompt of a call is the source, a plain Stable Diffusion picture; each other one is an edit of it.

    An edit starts from the source's latent and takes over its attention maps after softmax, in the prompts' rows only.
    In cross-attention M <- a edit(M_source, M) + (1 - a) M, where a, for each token, is 1 in the window and 0 outside;
    the result is not normalised again. In self-attention the map itself becomes the source's, where the site has at
    most 16x16 queries at the model's own size. LocalBlend is not included. `latents`, if given, should be the same for
    all prompts. A trace shows each prompt's own maps, before the edit.

    One prompt alone is a ValueError, as are replacing with another number of words and a word that no edit has.

    Attributes:
        edit: "replace": a token has the map of the source's word in its place (words are what spaces separate; both
            prompts need as many). "refine": a token that the edit shares with the source (by `align_tokens`) has the
            source's map, a new one its own. "auto", our default: replace where the words are as many, else refine.
        cross_steps: window of cross-attention in model calls over steps + 1: 0.8 in the authors' examples.
        self_steps: window of self-attention in model calls over steps: 0.4 in the authors' examples.
        word_steps: {word: window} of the tokens of words of the edits, instead of `cross_steps`.
        reweight: {word: factor} on the edited maps of the tokens of words of the edits. As in `word_steps` every
            occurrence of a word counts, in any case; punctuation that touches a word is part of it.
    """

    name: ClassVar[str] = "p2p"
    changes: ClassVar[str] = "further prompts take over the first one's attention maps"
    reference: ClassVar[str] = "Hertz et al. 2022 (Prompt-to-Prompt)"
    needs: ClassVar[Needs] = Needs(sites="every cross, self up to 16x16")
    edits_prompts: ClassVar[bool] = True

    edit: Literal["auto", "replace", "refine"] = option("auto", one_of("auto", "replace", "refine"))
    cross_steps: float | tuple[float, float] = option(0.8, _window)
    self_steps: float | tuple[float, float] = option(0.4, _window)
    word_steps: Mapping[str, Window] | tuple[tuple[str, Window], ...] = option((), pairs("{'cat': 0.5}", _word_window))
    reweight: Mapping[str, float] | tuple[tuple[str, float], ...] = option((), pairs("{'cat': 2.0}", _word_factor))

    def control(self, task: Task, conditioning: Conditioning) -> Controls:
        """In each call what is in its windows."""
        inputs = task.inputs
        if inputs.prompts_per_group < 2:
            raise ValueError(
                f"p2p edits the first prompt's picture for the others, and got {inputs.prompts[0].prompt!r} alone; "
                "give two prompts or more in one call."
            )
        source, edits = inputs.prompts[0], inputs.prompts[1 : inputs.prompts_per_group]
        self._check_words(edits)
        size = (inputs.sample_size,) * 2
        self_sites = frozenset(
            site.name
            for site in task.network.sites(size)
            if site.kind == "self" and math.prod(site.resolution) <= base_resolution(inputs.sample_size) ** 2
        )
        runs = conditioning.prompt_rows.view(-1, inputs.prompts_per_group)  # the rows of one seed, source first
        sources, targets = runs[:, :1].expand(-1, len(edits)).flatten(), runs[:, 1:].flatten()
        length = task.context.shape[1]
        taken = torch.stack([self._matrix(task, source, edit) for edit in edits])
        own = (taken.sum(dim=1) == 0).float()
        factor = torch.stack([_of_words(edit, dict(self.reweight).items(), 1.0, length) for edit in edits])

        def control(i: int) -> Control | None:
            windows = [
                (word, float(_inside(i, task.steps + 1, window))) for word, window in dict(self.word_steps).items()
            ]
            rest = float(_inside(i, task.steps + 1, self.cross_steps))
            inside = torch.stack([_of_words(edit, windows, rest, length) for edit in edits])
            copied = self_sites if _inside(i, task.steps, self.self_steps) else frozenset()
            if not copied and not inside.any():
                return None
            return SharedMaps(
                sources,
                targets,
                (taken * (inside * factor)[:, None, :]).repeat(len(runs), 1, 1).to(task.context),
                (inside * factor * own + 1 - inside).repeat(len(runs), 1).to(task.context),
                copied,
                cross=bool(inside.any()),
            )

        return control

    def _matrix(self, task: Task, source: Parsed, edit: Parsed) -> Tensor:
        """Columns: the edit's tokens as sums of the source's; 0 for a new one."""
        as_many = len(source.prompt.split()) == len(edit.prompt.split())
        if self.edit == "replace" or (self.edit == "auto" and as_many):
            return replacing(source, edit, task.context.shape[1])
        tokenizer = task.inputs.tokenizer
        ids, edit_ids = (tokenize(prompt.prompt, tokenizer).ids[: len(prompt.tokens)] for prompt in (source, edit))
        return refining(source, edit, ids, edit_ids, task.context.shape[1])

    def _check_words(self, edits: Sequence[Parsed]) -> None:
        known = {word for edit in edits for word, _ in word_positions(edit)}
        for field, words in (("word_steps", dict(self.word_steps)), ("reweight", dict(self.reweight))):
            for word in words:
                if word.lower() not in known:
                    raise ValueError(f"{field} names {word!r}; the edits have the words {', '.join(sorted(known))}.")


class SharedMaps(Control):
    """Map of row targets[k] <- map of row sources[k] times taken[k] [77, 77], plus its own times kept[k] [77]; at the
    self-attention sites `copied`, the map of row sources[k] itself."""

    def __init__(
        self, sources: Tensor, targets: Tensor, taken: Tensor, kept: Tensor, copied: frozenset[str], *, cross: bool
    ) -> None:
        self._sources, self._targets, self._copied, self._cross = sources, targets, copied, cross
        self._taken, self._kept = taken[:, None], kept[:, None, None]

    def edits_maps(self, site: Site) -> bool:
        """Where this call is in a window."""
        return site.name in self._copied or (self._cross and site.kind == "cross")

    def probabilities(self, call: AttentionCall, probabilities: Tensor) -> Tensor:
        """The sources' maps in the edits' rows."""
        maps = probabilities[self._sources]
        if call.site.kind == "cross":
            maps = maps @ self._taken + probabilities[self._targets] * self._kept
        return probabilities.index_copy(0, self._targets, maps)


def _of_words(prompt: Parsed, values: Iterable[tuple[str, float]], rest: float, length: int) -> Tensor:
    """[length]: a value for the tokens of some words, `rest` for the others."""
    found = torch.full((length,), rest, dtype=torch.float32, device="cpu")
    for word, value in values:
        for other, positions in word_positions(prompt):
            if other == word.lower():
                found[positions] = value
    return found


def _inside(i: int, count: int, window: Window) -> bool:
    low, high = window if isinstance(window, tuple) else (0, window)
    return int(low * count) <= i < int(high * count)
