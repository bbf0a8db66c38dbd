"""Words to leave out of the objects: where they stand in a prompt, with the names and owners that belong to them."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice, pairwise

from .alignment import as_typed, find_all, matches, normalised
from .lexicon import AFTER_WHO_IS_SEEN, BEINGS, DETERMINERS, PICTURE_WORDS
from .objects import Object
from .rules.tagging import tag
from .signs import readable
from .tokenization import Span

_STOPS = frozenset(("", *",.;:|!\n"))  # or nothing at all, before and after the prompt
_OWNER = re.compile(r"\b(?:child|children|kid|toddler|student|artist|painter|master|beginner)(?:['’]s|s['’]) +$", re.I)
_PARTED = re.compile(r"[,;.|]|\bof\b")
_LETTERS = re.compile(r"[^\W_]+")
_BETWEEN_PHRASES = re.compile(r"[,;|\n]| [-–—](?= )")
_LONGEST_NAME = 120  # characters


def without(ignore: Collection[str], objects: Sequence[Object], prompt: str) -> list[Object]:
    """The objects that stand in none of the words or phrases to ignore, as they are written or as they are read; and
    what describes them, but for what stands in another phrase to ignore."""
    plain, places = readable(prompt)
    ignored = [
        (at[_begin_of_owner(text, start) if words.endswith(" of") else start], at[end - 1] + 1)
        for text, at in ((as_typed(prompt), range(len(prompt))), (as_typed(plain).replace("-", " "), places))
        for words in _near(frozenset(ignore), text)
        for start, end in _ignored(words, text)
    ]

    def stays(word: Span) -> bool:
        return not any(start <= word[0] and word[1] <= end for start, end in ignored)

    def describes(word: Span, noun: Span) -> bool:
        between = prompt[min(word[1], noun[1]) : max(word[0], noun[0])]
        return stays(word) or not _PARTED.search(between)  # "a new 4k tv"

    return [
        (noun, [modifier for modifier in modifiers if describes(modifier, noun)])
        for noun, modifiers in objects
        if stays(noun)
    ]


def of_the_picture(prompt: str) -> list[Span]:
    """What is said of the picture alone: phrases between commas, as in "a cat, octane render, 8k", if there are others,
    and ends of phrases, as in "a red umbrella oil painting"."""
    prompt = prompt.replace("\\n", "\n\n")  # as programs write line breaks
    shown = list(prompt)
    for words in _near(PICTURE_WORDS, prompt):
        for start, end in _ignored(words, prompt):
            shown[start:end] = " " * (end - start)
    signs = [(0, 0), *(match.span() for match in _BETWEEN_PHRASES.finditer(prompt)), (len(prompt), len(prompt))]
    phrases = [(start, end) for (_, start), (end, _) in pairwise(signs) if any(map(str.isalnum, prompt[start:end]))]
    spans = []
    for start, end in phrases:
        seen = next((i + 1 for i in range(end - 1, start - 1, -1) if shown[i].isalnum()), start)
        first = next((i for i in range(seen, end) if prompt[i].isalnum()), end)
        if seen == start or _ends_with_the_picture(prompt[start:seen], prompt[first:end]):
            spans.append((start if seen == start else first, end))
    return spans if any(map(str.isalnum, shown)) else []


def _ends_with_the_picture(shown: str, rest: str) -> bool:
    """Whether a phrase ends with words for the picture after a thing, unlike "next to an oil painting"; a single word
    is said of a thing with an article, unlike "street photography"."""
    tags = tag([match[0].lower() for match in matches(shown)])
    is_said = " " in rest.strip() or (rest.lower() in PICTURE_WORDS and "DET" in tags[-4:])
    return is_said and tags[-1:] == ["NOUN"]


def _near(ignore: frozenset[str], prompt: str) -> Iterator[str]:
    """Those of many words to ignore that may be in the prompt, at once."""
    by_first, lower = _by_first_word(ignore), prompt.lower()
    present = {"", *_LETTERS.findall(lower)} if prompt.isascii() else [first for first in by_first if first in lower]
    for first in present:
        yield from (words for name, words in by_first.get(first, ()) if not first or name in lower)


@functools.lru_cache(maxsize=8)
def _by_first_word(ignore: frozenset[str]) -> dict[str, list[tuple[str, str]]]:
    """Words to ignore, with their names in small letters, "crown" of "crown#2", by the first word of these; by none
    where the name is not ASCII."""
    by_first: dict[str, list[tuple[str, str]]] = {}
    for words in ignore:
        name = _name(words).partition("#")[0].lower()
        first = _LETTERS.search(name) if name.isascii() else None
        by_first.setdefault(first[0] if first else "", []).append((name, words))
    return by_first


def _ignored(words: str, prompt: str) -> list[Span]:
    """Where words to ignore stand, as `parse` says of commas and dots at their ends; "by the lake" names nobody."""
    name = _name(words)
    spans = find_all(prompt, name)
    if words.startswith("..."):
        spans = [(_begin_of_phrase(prompt, span), span[1]) for span in spans]
    elif words.startswith((",", ".")):
        stops = _STOPS if words[0] == "," else _STOPS - {","}
        spans = [span for span in spans if _sign_before(prompt, span) in stops]
    if words.endswith((",", ":")):
        ends = _STOPS if words[-1] == "," else {":"}
        spans = [span for span in spans if _sign_before(prompt, span) in _STOPS and _sign_after(prompt, span) in ends]
    if not words.endswith("..."):
        return spans
    return [(start, end + length) for start, end in spans if (length := _length_of_name(prompt, end, name))]


@functools.lru_cache(maxsize=4096)
def _name(words: str) -> str:
    """Words to ignore without the signs that say where."""
    return normalised(as_typed(words).lstrip(",.").removesuffix("...").rstrip(",:").strip())


def _begin_of_phrase(prompt: str, span: Span) -> int:
    """Where the phrase begins that ends with a stretch of the prompt, if all words before that describe it."""
    first = max(span[0] - _LONGEST_NAME, 0)
    begin = first + 1 + max(prompt[first : span[0]].rfind(stop) for stop in _STOPS if stop)
    found = matches(prompt[begin : span[1]])
    words = [match[0].lower() for match in found]
    if tag(words[:-2])[-1:] == ["NOUN"] and " ".join(words[-2:]) in PICTURE_WORDS and not prompt[:begin].strip():
        return begin + found[-2].start()  # "white horse stock photo"
    shows_somebody = words[-1] in AFTER_WHO_IS_SEEN and words[-2:-1] and words[-2] in BEINGS
    return begin if set(tag(words)) <= {"NOUN", "ADJ", "ADV", "NUM"} and not shows_somebody else span[0]


def _begin_of_owner(prompt: str, start: int) -> int:
    """Where the word begins that says who made the picture, as in "a child's drawing of"; else `start`."""
    owner = _OWNER.search(prompt, max(start - _LONGEST_NAME, 0), start)
    return owner.start() if owner else start


def _length_of_name(prompt: str, start: int, before: str) -> int:
    """How long the name of an artist or of a style is that follows "by" or "of": up to what goes on with the picture,
    as in "by Monet and a red dog", "in the style of Pixar next to a lamp"; 0 if there is none, as in "by the lake"."""
    words = matches(prompt[start : start + _LONGEST_NAME])
    while words and not words[0][0][0].isalnum():
        words.pop(0)
    texts = [word[0].lower() for word in words]
    tags = tag(texts)
    if not words or (before.endswith(("by", " on")) and texts[0] in DETERMINERS):
        return 0
    begins = [False] * (len(words) + 1)  # whether the picture goes on at a word
    for i in range(1, len(words)):
        is_title = texts[i] in ("of", "the") and before.endswith("of")  # "in the style of Lord of the Rings"
        begins[i] = tags[i] in ("ADP", "DET", "VERB", "AUX", "PRON") and not is_title
    for i, text in enumerate(texts[1:], 1):
        is_sign = not text[0].isalnum() and text not in "&'’-/" and not (text == "." and len(texts[i - 1]) < 3)
        joins = tags[i] == "CCONJ" and (begins[i + 1] or (tags[i + 1 :] and tags[i + 1] in ("NUM", "ADJ")))
        if is_sign or begins[i] or (joins and tags[i - 1] != "ADJ"):
            return words[i - 1].end()
    return words[-1].end()


def _sign_before(prompt: str, span: Span) -> str:
    end = next((i for i in range(span[0], 0, -1) if prompt[i - 1] != " "), 0)
    return prompt[end - 1 : end] if end else ""


def _sign_after(prompt: str, span: Span) -> str:
    return next((sign for sign in islice(prompt, span[1], None) if sign != " "), "")
