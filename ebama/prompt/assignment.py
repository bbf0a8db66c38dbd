"""Which occurrences in a prompt are meant by an object and its modifiers that are given as words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from .alignment import PromptError

Span = tuple[int, int]
Words = tuple[str, Sequence[str]]
"""An object and its modifiers, as words of the prompt: `("crown", ["purple"])`."""

_ARTICLES = frozenset({"a", "an", "the"})


def assign(prompt: str, groups: Sequence[Words]) -> list[tuple[Span, list[Span]]]:
    """Characters (start, end) of every object and its modifiers, in the order given.

    Of an object that recurs, the occurrence nearest to its modifiers is taken, else the first that is free. Of a
    modifier that recurs, each occurrence goes to the nearest object that asks for it; if none is left, objects share it
    ("the dog and the cat are black"). Near means few words between: words after the object count twice, and an article
    among them counts as ten, for it begins another noun phrase.
    """
    for group in groups:
        if not _well_formed(group):
            raise PromptError(
                f"groups holds {group!r}: expected an object and a list of modifiers, as in ('crown', ['purple'])"
            )
    objects: dict[int, Span] = {}
    modifiers: dict[tuple[int, int], Span] = {}
    bare = [k for k, (_, words) in enumerate(groups) if not words]
    for k in sorted(set(range(len(groups))) - set(bare), key=lambda k: -len(groups[k][1])):
        objects[k] = _nearest_object(prompt, groups[k], list(objects.values()))
    wanted = {(k, m): _find(prompt, word) for k, (_, words) in enumerate(groups) for m, word in enumerate(words)}
    choices = [(_apart(prompt, objects[k], span), (k, m), span) for (k, m), spans in wanted.items() for span in spans]
    for _, key, span in sorted(choices):
        if key not in modifiers and _free(span, [*objects.values(), *modifiers.values()]):
            modifiers[key] = span
    for _, (k, m), span in sorted(choices):
        own = [objects[k], *(other for (group, _), other in modifiers.items() if group == k)]
        if (k, m) not in modifiers and _free(span, own):
            modifiers[k, m] = span
    for k in bare:
        objects[k] = _nearest_object(prompt, groups[k], [*objects.values(), *modifiers.values()])
    for k, m in wanted:
        if (k, m) not in modifiers:
            raise PromptError(f"{groups[k][1][m]!r} is asked for more often than it is in the prompt {prompt!r}")
    return [(objects[k], [modifiers[k, m] for m in range(len(words))]) for k, (_, words) in enumerate(groups)]


def _well_formed(group: object) -> bool:
    if not (isinstance(group, tuple | list) and len(group) == 2):
        return False
    noun, modifiers = group
    return isinstance(modifiers, tuple | list) and all(isinstance(word, str) for word in (noun, *modifiers))


def _find(prompt: str, word: str) -> list[Span]:
    text = " ".join(unicodedata.normalize("NFC", word).split())
    found = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", prompt, re.IGNORECASE)] if text else []
    if not found:
        there = ", ".join(dict.fromkeys(re.findall(r"\w+(?:-\w+)*", prompt)))
        raise PromptError(f"{word!r} is not in the prompt {prompt!r}: its words are {there}")
    return found


def _free(span: Span, taken: Sequence[Span]) -> bool:
    return all(span[1] <= start or end <= span[0] for start, end in taken)


def _nearest_object(prompt: str, group: Words, taken: Sequence[Span]) -> Span:
    noun, modifiers = group
    free = [span for span in _find(prompt, noun) if _free(span, taken)]
    if not free:
        raise PromptError(f"{noun!r} is asked for more often than it is in the prompt {prompt!r}")
    return min(
        free, key=lambda span: sum(min(_apart(prompt, span, m) for m in _find(prompt, word)) for word in modifiers)
    )


def _apart(prompt: str, noun: Span, modifier: Span) -> int:
    before = modifier[0] < noun[0]
    between = prompt[modifier[1] : noun[0]] if before else prompt[noun[1] : modifier[0]]
    words = between.lower().split()
    distance = len(words) + 10 * any(word in _ARTICLES for word in words)
    return distance if before else 2 * distance + 1
