"""The words of a prompt and their positions, for people, who think in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from ..boxes import Box
from .alignment import find_all, listed_words, named, word_spans
from .given_words import Words
from .groups import Parsed
from .tokenization import PromptError, Span

Boxes = Mapping[str, Box | Sequence[float]]
"""A box for words of a prompt: `{"crown": (0, 0.2, 0.5, 0.8)}`; the second of two is "crown#2"."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's, which can be told apart by colour-blind eyes, on white and on black."""

_UNDERLINED = """<p style="font-size: 1.3em; margin: .3em 0">
{%- for text, word in parts %}
{%- if word and word.role %}<span title="{{ word.role }} of group {{ word.group + 1 }}" \
style="text-decoration: underline {{ "solid" if word.role == "object" else "dashed" }} 3px \
{{ colours[word.group % 6] }}; text-underline-offset: .25em">{{ text }}</span>{% else %}{{ text }}{% endif %}
{%- endfor %}</p>
<p style="font-size: .85em; margin: .3em 0">{{ groups | join("; ") or "no groups" }} (parser: {{ parser }})</p>"""


class Word(NamedTuple):
    """A word as it is written and the positions of its tokens in the encoder's sequence."""

    text: str
    positions: tuple[int, ...]


def words(prompt: Parsed) -> tuple[Word, ...]:
    """The words of a prompt in order, without punctuation and without those that the encoder does not see."""
    spans = [span for span in word_spans(prompt.prompt) if _is_seen(prompt, span)]
    return tuple(Word(prompt.prompt[slice(*span)], prompt.positions(span)) for span in spans)


def find(prompt: Parsed, word: str, occurrence: int = 0) -> tuple[int, ...]:
    """Positions of the tokens of a word, or of several words as they stand in the prompt ("blue suitcase").

    Upper and lower case count alike. `occurrence` chooses among those of a word that recurs, 0 the first and -1 the
    last. Raises ValueError, which lists the words there are, for a word that the prompt does not have as often.
    """
    places = occurrences(prompt, word)
    if not -len(places) <= occurrence < len(places):
        times = f"{len(places)} times in" if places else "not among the words of"
        listing = ", ".join(one.text for one in words(prompt))
        asked = f", and occurrence {occurrence} was asked for" if places else ""
        raise ValueError(f"{word!r} is {times} {prompt.prompt!r}{asked}; its words are: {listing}.")
    return places[occurrence]


def occurrences(prompt: Parsed, word: str) -> list[tuple[int, ...]]:
    """Positions of the tokens of a word, or of several as they stand in the prompt, wherever the encoder sees them."""
    return [prompt.positions(span) for span in find_all(prompt.prompt, word) if _is_seen(prompt, span)]


def describe_words(parsed: Parsed) -> list[dict[str, Any]]:
    """The words of a prompt as they are written, which group and role each has, an object's box, and the name by which
    `groups=` and `boxes=` mean it, or the longer member of a group that it is part of."""
    members: list[tuple[int, str, tuple[int, ...]]] = []
    for index, group in enumerate(parsed.groups):
        members += [(index, "object", group.object), *((index, "modifier", at) for at in group.modifiers)]
    described: list[dict[str, Any]] = []
    for word in words(parsed):
        plain: tuple[None, str, tuple[int, ...]] = (None, "", word.positions)
        k, role, at = next((member for member in members if set(member[2]) & set(word.positions)), plain)
        described.append({"text": word.text, "name": _name(parsed, at), "group": k, "role": role})
        if role == "object" and k is not None and (box := parsed.groups[k].box):
            described[-1]["box"] = astuple(box)
    return described


def in_words(parsed: Parsed) -> list[Words]:
    """The groups of a prompt as words, which `parse(groups=)` reads as the same groups."""
    return [(_name(parsed, group.object), [_name(parsed, at) for at in group.modifiers]) for group in parsed.groups]


def _name(parsed: Parsed, positions: Sequence[int]) -> str:
    return named(parsed.prompt, parsed.stretch(*positions))


def underlined(parsed: Parsed) -> str:
    """The prompt as HTML: a colour for each group, a line below its object and dashes below its modifiers."""
    parts: list[tuple[str, dict[str, Any] | None]] = []
    end = 0
    for word, described in zip(words(parsed), describe_words(parsed), strict=True):
        start, stop = parsed.stretch(*word.positions)
        parts += [(parsed.prompt[end:start], None), (parsed.prompt[start:stop], described)]
        end = stop
    parts.append((parsed.prompt[end:], None))
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_UNDERLINED)
    groups = [" + ".join(parsed.text(*word) for word in (group.object, *group.modifiers)) for group in parsed.groups]
    return template.render(parts=parts, colours=_COLOURS, groups=groups, parser=parsed.parser_name)


def _is_seen(prompt: Parsed, span: tuple[int, int]) -> bool:
    """Whether the encoder sees a word whole."""
    return prompt.sees(span) and bool(prompt.positions(span))


def place(prompt: Parsed, boxes: Boxes) -> Parsed:
    """The prompt whose groups have the boxes of their words.

    A word is an object's, or several words that hold one ("blue suitcase"); of one that recurs, the first that is an
    object, or the n-th with "#n". Raises `PromptError` for a word that is not in the prompt or no object there, for a
    box that is none, and for two boxes of one object.
    """
    groups = list(prompt.groups)
    placed: dict[int, str] = {}
    for word, sides in boxes.items():
        k = _group_of(prompt, word)
        if k in placed:
            raise PromptError(f"{placed[k]!r} and {word!r} are one object of {prompt.prompt!r}: give it one box")
        placed[k] = word
        try:
            groups[k] = replace(groups[k], box=Box.of(sides))
        except ValueError as error:
            raise PromptError(f"boxes[{word!r}]: {error}") from None
    return replace(prompt, groups=tuple(groups))


def _group_of(prompt: Parsed, word: str) -> int:
    """Index of the group that a word names."""
    if not isinstance(word, str):
        raise PromptError(f"boxes has {word!r}: expected words of the prompt, as {{'crown': (0, 0.2, 0.5, 0.8)}}")
    spans = [span for span in find_all(prompt.prompt, word) if prompt.sees(span)]
    if not spans:
        raise PromptError(
            f"boxes[{word!r}]: {word!r} is not in the prompt {prompt.prompt!r}; its words are "
            f"{listed_words(prompt.prompt)}"
        )
    if (k := _first_object(prompt, spans)) is None:
        objects = ", ".join(prompt.text(*group.object) for group in prompt.groups) or "none"
        raise PromptError(
            f"boxes[{word!r}]: {word!r} is no object of {prompt.prompt!r}; its objects are {objects}; "
            "name it in groups= to have it as one"
        )
    return k


def _first_object(prompt: Parsed, spans: Sequence[Span]) -> int | None:
    for span in spans:
        at = set(prompt.positions(span))
        for k, group in enumerate(prompt.groups):
            if at & set(group.object):
                return k
    return None
