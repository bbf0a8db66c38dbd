"""Which occurrences in a prompt an object and its modifiers, given as words, mean."""

from __future__ import annotations

from collections.abc import Sequence

from .alignment import find_all, listed_words
from .tokenization import PromptError, Span

Words = tuple[str, Sequence[str]]
"""An object and its modifiers, as words of the prompt: `("crown", ["purple"])`; the second of two is "crown#2"."""

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
    with_modifiers = [k for k, (_, words) in enumerate(groups) if words]
    longest_first = sorted(range(len(groups)), key=lambda k: -len(groups[k][0]))  # "hot dog" before "dog"
    for k in sorted(filter(with_modifiers.__contains__, longest_first), key=lambda k: -len(groups[k][1])):
        objects[k] = _nearest_object(prompt, groups[k], list(objects.values()))
    occurrences = {(k, m): _find(prompt, word) for k in with_modifiers for m, word in enumerate(groups[k][1])}
    choices = sorted(
        (_distance(prompt, objects[k], span), (k, m), span) for (k, m), spans in occurrences.items() for span in spans
    )
    for _, key, span in choices:
        if key not in modifiers and _is_free(span, [*objects.values(), *modifiers.values()]):
            modifiers[key] = span
    for _, (k, m), span in choices:
        taken = [objects[k], *(other for (group_index, _), other in modifiers.items() if group_index == k)]
        if (k, m) not in modifiers and _is_free(span, taken):
            modifiers[k, m] = span
    for k in longest_first:
        if k not in objects:
            objects[k] = _nearest_object(prompt, groups[k], [*objects.values(), *modifiers.values()])
    for k, m in occurrences:
        if (k, m) not in modifiers:
            raise PromptError(f"{groups[k][1][m]!r} is asked for more often than it is in the prompt {prompt!r}")
    return [(objects[k], [modifiers[k, m] for m in range(len(words))]) for k, (_, words) in enumerate(groups)]


def _well_formed(group: object) -> bool:
    if not (isinstance(group, tuple | list) and len(group) == 2):
        return False
    noun, modifiers = group
    return isinstance(modifiers, tuple | list) and all(isinstance(word, str) for word in (noun, *modifiers))


def _find(prompt: str, word: str) -> list[Span]:
    if not (spans := find_all(prompt, word)):
        message = f"{word!r} is not in the prompt {prompt!r}: its words are {listed_words(prompt)}"
        within = (
            "; it is a part of one: give the positions of its tokens, as Group((2,))" if word and word in prompt else ""
        )
        raise PromptError(message + within)
    return spans


def _is_free(span: Span, taken: Sequence[Span]) -> bool:
    return all(span[1] <= start or end <= span[0] for start, end in taken)


def _nearest_object(prompt: str, group: Words, taken: Sequence[Span]) -> Span:
    noun, modifiers = group
    free = [span for span in _find(prompt, noun) if _is_free(span, taken)]
    if not free:
        raise PromptError(f"{noun!r} is asked for more often than it is in the prompt {prompt!r}")
    return min(
        free, key=lambda span: sum(min(_distance(prompt, span, m) for m in _find(prompt, word)) for word in modifiers)
    )


def _distance(prompt: str, noun: Span, modifier: Span) -> int:
    before = modifier[0] < noun[0]
    between = prompt[modifier[1] : noun[0]] if before else prompt[noun[1] : modifier[0]]
    words = between.lower().split()
    distance = len(words) + 10 * any(word in _ARTICLES for word in words)
    return distance if before else 2 * distance + 1
