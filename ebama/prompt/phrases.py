"""What of a parser's answer is one word, and which words are one noun phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import lexicon
from .alignment import Alignment
from .objects import MODIFIER, SIGNS, ParsedWord, depth
from .signs import core

_ADJECTIVES = lexicon.ADJECTIVES - (lexicon.NOUNS_TOO - lexicon.COLOURS) | {"colored", "coloured"}
_BEFORE = ("DET", "PRON", "NUM", "ADJ", "PUNCT", "CCONJ")
_GOES_ON = ("NOUN", "PROPN", "ADJ")
_ADVERBS = ("advmod", "npadvmod")


def joined(words: Sequence[ParsedWord], alignment: Alignment) -> list[ParsedWord]:
    """A parser's words as the words of a prompt.

    Those that share a token are one word, and so are hyphenated ones ("t-shirt"): the uppermost in the tree speaks for
    all. Symbols at a word's edge are no part of it; a word that has no letter or digit, or no token, is a sign.
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
        whole.append(replace(top, text=prompt[start:end], start=start, end=end, pos=pos, head=unit_of[top.head]))
    return whole


def _uppermost(words: Sequence[ParsedWord], unit: Sequence[int]) -> int:
    return min(unit, key=lambda i: (depth(words, i), words[i].dep not in MODIFIER))


def _goes_on_from_a_number(before: Sequence[ParsedWord], word: ParsedWord) -> bool:
    """Whether a number goes on without a space: "10kg"."""
    return any(last.end == word.start and last.text[-1].isdigit() and word.text[0].isalpha() for last in before)


def _is_hyphenated(last: ParsedWord, word: ParsedWord, *, begun: bool) -> bool:
    """Whether a word goes on after a hyphen; `begun` says that the hyphen itself follows a word."""
    return last.end == word.start and (word.text == "-" or (last.text == "-" and begun))


def with_noun_phrases(words: Sequence[ParsedWord]) -> list[ParsedWord]:
    """The words, in which a known adjective before the last word of a phrase modifies it.

    Statistical parsers learn from sentences, and prompts are phrases: in "a white rose and a gray balloon" spaCy's
    small model reads a verb, "rose", in "a silver dolphin" two nouns, in "red sock, brown whale" one whale. Such an
    adjective leaves no doubt: the word is a noun.
    """
    result = list(words)
    for i in range(len(words) - 1):
        if _is_before_a_noun(result, i):
            _attach_to_next(result, i)
        elif _is_a_side(result, i):
            _attach_to_last(result, i)
    return result


def _is_before_a_noun(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether word `i` is an adjective, and the next can only be its noun."""
    before, (adjective, noun), after = words[:i][-1:], words[i : i + 2], words[i + 2 : i + 3]
    name, colour = noun.text.lower(), adjective.text.lower()
    if colour not in _ADJECTIVES or name in _ADJECTIVES or (before and before[0].pos not in _BEFORE):
        return False
    if before and before[0].end == adjective.start and before[0].text == "-":
        return False  # "snow-white"
    if after and (after[0].pos in _GOES_ON or (after[0].pos == "CCONJ" and noun.dep in MODIFIER)):
        return False  # "a silver wine glass", "a silver wine and water glass"
    if noun.pos in ("VERB", "AUX"):
        is_form = name.endswith(("ing", "ed")) or (name.endswith("s") and not name.endswith("ss"))
        return (name in lexicon.NOUNS or not is_form) and not (
            adjective.pos != "ADJ" and colour in lexicon.COLOURED_THINGS
        )
    begins = not before or before[0].pos == "PUNCT"
    in_a_list = begins and colour in lexicon.COLOURS and after and after[0].text == ","
    return noun.pos in ("NOUN", "PROPN") or bool(noun.pos == "ADJ" and in_a_list)


def _is_a_side(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether word `i` is the place in "a ball right of a cube", whatever a parser took it for."""
    is_place = (words[i].text.lower(), words[i + 1].text.lower()) in lexicon.COMPOUND_PREPOSITIONS
    return is_place and i > 0 and words[i - 1].pos in ("NOUN", "PROPN")


def _attach_to_last(words: list[ParsedWord], i: int) -> None:
    """Make word `i` a preposition of the noun before; if it stood for the noun's phrase, that takes its place."""
    side, top = words[i], i - 1
    while words[top].head not in (top, i):
        top = words[top].head
    if words[top].head == i:
        for k, word in enumerate(words[:i]):
            if word.head == i:
                words[k] = replace(word, head=top)
        words[top] = replace(words[top], dep=side.dep, head=top if side.head == i else side.head)
    words[i] = replace(side, pos="ADP", dep="prep", head=i - 1)


def _attach_to_next(words: list[ParsedWord], i: int) -> None:
    """Hang word `i` and the adjectives before it on the next word, which takes the place of the uppermost of them."""
    noun = first = i + 1
    while first and words[first - 1].text.lower() in _ADJECTIVES:
        first -= 1
    phrase = range(first, noun + 1)
    top = min(phrase, key=lambda k: (depth(words, k), words[k].dep in MODIFIER))
    head = noun if words[top].head == top else words[top].head
    parted = any(word.text == "," for word in words[min(head, noun) : max(head, noun)])
    dep = "appos" if parted and words[top].dep in MODIFIER else words[top].dep
    for k, word in enumerate(words):
        if word.head in phrase and k not in phrase and word.dep not in _ADVERBS:
            words[k] = replace(word, head=noun)
    for k in range(first, noun):
        words[k] = replace(words[k], pos="ADJ", dep="amod", head=noun)
    words[noun] = replace(words[noun], pos="NOUN", dep=dep, head=head)
