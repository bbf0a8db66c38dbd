"""Between a prompt and its parsers: the text that they read, and which of the words they give back are one word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from . import lexicon
from .alignment import Alignment, normalised
from .objects import SIGNS, ParsedWord
from .tokenization import Span

_CHUNK = re.compile(r"\S+")
_SENTENCE = frozenset(".,;:!?")
_KEPT_INSIDE = _SENTENCE | frozenset("-'’_&@")
_ENCLOSING = ("Ps", "Pe", "Pi", "Pf")  # Unicode's brackets and quotes
_HYPHENS = frozenset("‐‑–")
_ENCLOSED = re.compile(r"""(?<!\w)["“„«(\[{<'‘]([^"“”„«»()\[\]{}<>‘]+)["”“»)\]}>'’](?!\w)""")
_IN_A_PHRASE = lexicon.DETERMINERS | lexicon.NUMBERS | lexicon.ADJECTIVES
_BETWEEN_PHRASES = lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS
_NO_NOUN = _BETWEEN_PHRASES | lexicon.DETERMINERS | lexicon.PRONOUNS | lexicon.AUXILIARIES


def without_signs(prompt: str) -> tuple[str, list[int]]:
    """A prompt as a parser should read it, and the index in the prompt of each of its characters.

    Symbols at a word's edge are left out, those between words become commas, and so do quotes and brackets, unless
    they stand around modifiers of the noun that follows: '"red" car' and "a red car | a bowl" are read like the same
    words in plain writing.
    """
    commas = _parting_signs(prompt)
    text = list(prompt)
    for match in _CHUNK.finditer(prompt):
        start, end = match.span()
        first, after = core(prompt, match.span())
        if first == after:
            stays = _SENTENCE.issuperset(match[0]) or match[0] == "&"
            text[start:end] = match[0] if stays else ("," if start else " ") + " " * (end - start - 1)
            continue
        text[start:first] = ("," if i in commas else " " for i in range(start, first))
        text[first:after] = map(_inside, prompt[first:after])
        apostrophe = prompt[after] if prompt[after - 1 : after + 1] in ("s'", "s’") and start == first else ""
        for i in range(after, end):
            if prompt[i] not in _SENTENCE and prompt[i] != apostrophe:
                text[i] = "," if i in commas else " "
    kept = [i for i, c in enumerate(text) if not c.isspace() or (i and not text[i - 1].isspace())]
    return "".join(text[i] for i in kept), kept


def _parting_signs(prompt: str) -> set[int]:
    """Where quotes and brackets stand that part the words between them from the rest: all but those around modifiers
    of the noun that follows, as in 'a "bright red" car'."""
    commas: set[int] = set()
    for match in _ENCLOSED.finditer(prompt):
        before = re.findall(r"\w+|[.,;:!?]", prompt[max(0, match.start() - 40) : match.start()].lower())[-1:]
        after = re.match(r"[^\w.,;:!?]*(\w+)", prompt[match.end() : match.end() + 40].lower())
        alone = " " not in match[1].strip()
        inside = bool(before) and before[0] in _IN_A_PHRASE
        begins = inside or not before or before[0] in _BETWEEN_PHRASES | _SENTENCE
        before_a_noun = after is not None and after[1] not in _NO_NOUN
        if not ((alone and inside) or (before_a_noun and (alone or begins))):
            commas |= {match.start(), match.end() - 1}
    return commas


def core(text: str, span: Span) -> Span:
    """A stretch of a text without the symbols at its edges; empty if it holds no letter or digit."""
    start, end = span
    while start < end and not text[start].isalnum():
        start += 1
    last = end
    while start < last and not text[last - 1].isalnum():
        last -= 1
    while last < end and start < last and unicodedata.category(text[last]) in ("Mn", "Mc") and text[last] != "\ufe0f":
        last += 1  # the marks of the last letter: vowels of Indian scripts
    return start, last


def _inside(character: str) -> str:
    if character.isalnum() or character in _KEPT_INSIDE or unicodedata.category(character).startswith("M"):
        return character
    if character in _HYPHENS:
        return "-"
    return " " if character == '"' or unicodedata.category(character) in _ENCLOSING else ","


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
        shared = bool(at and before and at[0] <= before[-1])
        if unit and (shared or _is_hyphenated(words[unit[-1]], word, begun=len(unit) > 1)):
            unit.append(i)
        else:
            units.append([i])
        before = at or before
    unit_of = {i: k for k, unit in enumerate(units) for i in unit}
    whole = []
    for unit in units:
        top = words[min(unit, key=lambda i: _depth(words, i))] if len(unit) > 1 else words[unit[0]]
        stretch = words[unit[0]].start, words[unit[-1]].end
        start, end = span = core(prompt, stretch)
        is_sign = start == end or (alignment.sees(span) and not alignment.positions(span))
        if start == end:
            start, end = stretch
        pos = "SYM" if is_sign and top.pos not in SIGNS else top.pos
        whole.append(replace(top, text=prompt[start:end], start=start, end=end, pos=pos, head=unit_of[top.head]))
    return whole


def _is_hyphenated(last: ParsedWord, word: ParsedWord, *, begun: bool) -> bool:
    """Whether a word goes on after a hyphen; `begun` says that the hyphen itself follows a word."""
    return last.end == word.start and (word.text == "-" or (last.text == "-" and begun))


def _depth(words: Sequence[ParsedWord], i: int) -> int:
    depth = 0
    while words[i].head != i:
        i, depth = words[i].head, depth + 1
    return depth


def moved(words: Sequence[ParsedWord], indices: Sequence[int]) -> list[ParsedWord]:
    """Words of a text as those of another, in which its characters have these indices."""
    return [replace(word, start=indices[word.start], end=indices[word.end - 1] + 1) for word in words]


def composed(words: Sequence[ParsedWord], text: str) -> list[ParsedWord]:
    """Words of a text as those of the `normalised` text."""
    result = []
    for word in words:
        end = len(normalised(text[: word.end]))
        start = max(end - len(normalised(text[word.start : word.end])), 0)
        result.append(replace(word, start=start, end=end))
    return result
