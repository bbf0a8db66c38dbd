"""A parser's words as the words of a prompt: what of its answer is one word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..alignment import Alignment
from ..objects import MODIFIER, SIGNS, ParsedWord, depth
from ..signs import core, in_plain_letters


def joined(words: Sequence[ParsedWord], alignment: Alignment) -> list[ParsedWord]:
    """A parser's words as the words of a prompt.

    Those that share a token are one word, and so are hyphenated ones ("t-shirt"): the uppermost in the tree that is no
    sign speaks for all ("'re" and "d" are the tokens of "'red"). Symbols at a word's edge are no part of it; a word
    that has no letter or digit, or no token, is a sign.
    """
    prompt = alignment.prompt
    units: list[list[int]] = []
    before: tuple[int, ...] = ()
    for i, word in enumerate(words):
        at = alignment.positions(word.span)
        unit = units[-1] if units else []
        shared = bool(at and before and at[0] <= before[-1]) or _goes_on_from_a_number(words[i - 1 : i], word)
        if unit and (shared or _is_hyphenated(words[unit[-1]], word, begun=len(unit) > 1)):
            unit.append(i)
        else:
            units.append([i])
        before = at or before
    unit_of = {i: k for k, unit in enumerate(units) for i in unit}
    whole = []
    for unit in units:
        top = words[_uppermost(words, unit) if len(unit) > 1 else unit[0]]
        stretch = words[unit[0]].start, words[unit[-1]].end
        start, end = span = core(prompt, stretch)
        is_sign = start == end or (alignment.sees(span) and not alignment.positions(span))
        if start == end:
            start, end = stretch
        pos = "SYM" if is_sign and top.pos not in SIGNS else top.pos
        read = top.text if len(unit) == 1 and (start, end) == top.span else prompt[start:end]  # "without" for "w/o"
        text = in_plain_letters(read)[0]
        whole.append(replace(top, text=text, start=start, end=end, pos=pos, head=unit_of[top.head]))
    return whole


def _uppermost(words: Sequence[ParsedWord], unit: Sequence[int]) -> int:
    return min(
        unit, key=lambda i: (not any(map(str.isalnum, words[i].text)), depth(words, i), words[i].dep not in MODIFIER)
    )


def _goes_on_from_a_number(before: Sequence[ParsedWord], word: ParsedWord) -> bool:
    """Whether a number goes on without a space: "10kg"."""
    return any(last.end == word.start and last.text[-1].isdigit() and word.text[0].isalnum() for last in before)


def _is_hyphenated(last: ParsedWord, word: ParsedWord, *, begun: bool) -> bool:
    """Whether a word goes on after a hyphen; `begun` says that the hyphen itself follows a word."""
    return last.end == word.start and (word.text == "-" or (last.text == "-" and begun))
