"""The text that parsers read of a prompt: its words, and no signs but those that part them."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from . import lexicon
from .alignment import NUMBER_SIGNS, as_normalised, is_mark
from .markup import without_markup, word_before
from .objects import ParsedWord
from .rules.tagging import tag
from .tokenization import Span

_CHUNK = re.compile(r"\S+")
_SENTENCE = frozenset(".,;:!?")
_KEPT_INSIDE = _SENTENCE | frozenset("-'’&@")
_ENCLOSING = ("Ps", "Pe", "Pi", "Pf")  # Unicode's brackets and quotes
_BRACKETS = {"Ps": "(", "Pe": ")"}  # for those of other scripts: "【", "〉"
_WRITTEN_SO = {"′": "'", "″": '"', **dict.fromkeys("،、", ","), "؛": ";", "؟": "?", **dict.fromkeys("。۔।", ".")}
_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{1,5}|#x[\da-fA-F]{1,4});")  # "&quot;" of pages
_HYPHENS = frozenset("‐‑–")
_JOINING = frozenset('"_\u200b')  # between words, as spaces: "long_hair"
_ENCLOSED = re.compile(  # by single quotes, which are apostrophes between letters, or by other signs
    r"""(?<!\w)['‘]((?:[^"“”„«»()\[\]{}<>‘'’]|(?<=\w)['’](?=\w))+)['’](?!\w)|"""
    r"""(?:(?<!\w)["“„«<'‘]|[(\[{])([^"“”„«»()\[\]{}<>‘]+)["”“»)\]}>'’](?!\w)"""
)
_PAIRS = re.compile(rf"\b(?i:{'|'.join(lexicon.JOINED)})(?= [^\W\d_])")
_QUOTED_LIST = re.compile(r"(?<=\w)['\"],(?= ?['\"]\w)")  # "['lion','crown']"
_TAG_OF_WORDS = re.compile(r"[a-z\d]+(?:_[a-z\d()]+)+")
_HASHTAG = re.compile(r"(?<=\s)#(?=[^\W\d_])")
_PICTOGRAPH = "[\u2600-\u27bf\U0001f000-\U0001faff][\u2600-\u27bf\U0001f000-\U0001faff\u200d\ufe0f]*"
_PICTOGRAPHS = re.compile(rf"{_PICTOGRAPH}(?:\s+{_PICTOGRAPH})*")
_NUMBER_INSIDE = re.compile(r"(?<=[^\W\d_] )['’]?\d{2,4}(?= [^\W\d_])")  # "a blue '65 Mustang"
_STOP = re.compile(  # "a red car.a blue bowl", "dog&cat", "dog&a cat", which are no abbreviations
    rf"(?<=[^\W\d_]{{3}})(?:(?:::|[.:;!?])(?=[^\W\d_])|;(?=\d)|&(?=[^\W\d_]{{3}}|(?i:{'|'.join(sorted(lexicon.DETERMINERS))})\b))"
)
_JOINED = re.compile(  # "1girl", not "3d", "10kg", "4th"; "quality,1girl", not "1,000"
    r"(?<!\w)\d+(?=[^\W\d_]{3})|(?<=\w),(?=[^\W\d_])|(?<=[^\W\d_]),(?=\d)"
)
_ENDLESS = re.compile(r"\S{100,}")
_SIGN = re.compile(r"[^\w\s](?!$)")
_DECADE_MARK = re.compile(r"(?<=\b\d0)['’](?=s\b)|(?<=\b\d{3}0)['’](?=s\b)")  # "1960's"
_SHORT = re.compile(  # "a cat w/ a hat"
    r"(?<![\w/])[wW](?:/o(?!\w)|/)(?=[\s\w])|(?<=\w )(?:(?i:vs)\.?(?= \w)|['’]n['’](?= an? ))"
)
_WRITTEN = {"w/": "with", "w/o": "without", "vs": "and", "vs.": "and", "'n'": "and", "’n’": "and"}
_UNSEEN = frozenset("\xad\u2060")  # where a word may or may not be broken
_IN_A_PHRASE = lexicon.DETERMINERS | lexicon.NUMBERS | lexicon.ADJECTIVES
_BETWEEN_PHRASES = lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS
_NO_NOUN = _BETWEEN_PHRASES | lexicon.DETERMINERS | lexicon.PRONOUNS | lexicon.AUXILIARIES
_GOES_ON = _NO_NOUN - {"of"}  # '"photo" of a car'
_NO_TAG = _NO_NOUN | lexicon.ADJECTIVES
_BEFORE_ENCLOSED = _IN_A_PHRASE | lexicon.ATTRIBUTES


def without_signs(prompt: str) -> tuple[str, list[int]]:
    """A prompt as a parser should read it, and the index in the prompt of each of its characters.

    Symbols at a word's edge are left out, those between words become commas, and so do quotes and brackets, unless
    they stand around modifiers of the noun that follows: '"red" car' and "a red car | a bowl" are read like the same
    words in plain writing.
    """
    prompt = _STOP.sub(lambda stop: ",".ljust(len(stop[0])), without_markup(prompt))
    prompt = _QUOTED_LIST.sub(" ,", _parted_tags(prompt))
    prompt = _PICTOGRAPHS.sub(_without_pictographs, _NUMBER_INSIDE.sub(_without_number, prompt))
    prompt = _PAIRS.sub(lambda match: match[0].replace(" ", "-"), prompt)
    parting = _enclosing_signs(prompt)
    parting |= {match.start(): not _is_in_a_phrase(prompt, match.start()) for match in _HASHTAG.finditer(prompt)}
    commas = {i for i, parts in parting.items() if parts}
    text = list(prompt)
    chunks = list(_CHUNK.finditer(prompt))
    is_list = sum(_is_bullet(match[0][0]) for match in chunks) > 1
    for match in chunks:
        start, end = match.span()
        first, after = core(prompt, match.span())
        if first == after:
            stays = _SENTENCE.issuperset(match[0]) or match[0] == "&"
            parts = start and any(parting.get(i, True) for i in range(start, end))
            text[start:end] = match[0] if stays else ("," if parts else " ").ljust(end - start)
            continue
        parts = start and is_list and not _is_in_a_phrase(prompt, start)
        text[start:first] = (
            "," if i in commas or (start and prompt[i] in ",;") or (parts and _is_bullet(prompt[i])) else " "
            for i in range(start, first)
        )
        text[first:after] = ("," if i in commas else _inside(prompt[i]) for i in range(first, after))
        apostrophe = prompt[after] if prompt[after - 1 : after + 1] in ("s'", "s’") and start == first else ""
        for i in range(after, end):
            if prompt[i] not in _SENTENCE and prompt[i] != apostrophe:
                text[i] = "," if i in commas else " "
    indices = _as_people_write("".join(text))
    return "".join(text[i] for i in indices), indices


def readable(prompt: str) -> tuple[str, list[int]]:
    """A prompt in plain letters and without signs, and the index in the prompt of each character."""
    letters, places = in_plain_letters(prompt)
    text, indices = without_signs(letters)
    return text, [places[i] for i in indices]


def _as_people_write(text: str) -> list[int]:
    """The characters of a text to read: single spaces, commas without one before them, none twice and none in the
    end. Parsers that learned from sentences lose words otherwise."""
    indices: list[int] = []
    for i, character in enumerate(text):
        before = "".join(text[k] for k in indices[-2:])
        if character == "," and before.rstrip().endswith(","):
            continue
        if character == "," and before[-1:].isspace():
            indices.insert(-1, i)
        elif not character.isspace() or (before and not before[-1].isspace()):
            indices.append(i)
    while indices and text[indices[-1]] in ", ":
        indices.pop()
    return indices


def _parted_tags(prompt: str) -> str:
    """Tags of image boards, which stand apart by spaces alone: "1girl blue_eyes red_hair"."""
    words = prompt.split(" ")
    are_tags = sum(map(bool, map(_TAG_OF_WORDS.fullmatch, words))) > 1 and "," not in prompt
    return prompt.replace(" ", ",") if are_tags and _NO_TAG.isdisjoint(words) else prompt


def _is_bullet(character: str) -> bool:
    """Whether it begins an entry of a list, as "•", "→" and pictographs do."""
    return character in "•‣◦▪▸→⇒➤" or unicodedata.category(character) == "So"


def _without_pictographs(match: re.Match[str]) -> str:
    """Signs within a phrase are none, and those at the end of one and at the beginning of the next part them."""
    if _is_in_a_phrase(match.string, match.start()):
        return " " * len(match[0])
    parts = match.start() > 0 and " " in match[0]
    return ",".ljust(len(match[0])) if parts else match[0]


def _without_number(match: re.Match[str]) -> str:
    """A number between an adjective and its noun describes nothing, and parsers part the two there."""
    adjective = word_before(match.string, match.start())
    before = word_before(match.string, match.start() - len(adjective) - 1)
    is_inside = adjective in lexicon.ADJECTIVES and before not in lexicon.COPULAS | {"in"}
    return " " * len(match[0]) if is_inside else match[0]


def in_plain_letters(prompt: str) -> tuple[str, list[int]]:
    """A prompt with plain letters for fullwidth, bold and other compatible ones, decades without an apostrophe, and
    "with" for "w/" or "and" for "vs", as parsers know them; and the index in the prompt of each character."""
    plain = ["" if character in _UNSEEN else _plain(character) for character in prompt]
    for match in _DECADE_MARK.finditer(prompt):
        plain[match.start()] = ""
    for match in _ENTITY.finditer(prompt):
        plain[match.start() : match.end()] = html.unescape(match[0]), *[""] * (len(match[0]) - 1)
    for match in _SHORT.finditer(prompt):
        plain[match.start() : match.end()] = _WRITTEN[match[0].lower()], *" " * (len(match[0]) - 1)
    return "".join(plain), [i for i, letters in enumerate(plain) for _ in letters]


def _plain(character: str) -> str:
    if character in _WRITTEN_SO:
        return _WRITTEN_SO[character]
    if unicodedata.mirrored(character) and (kind := unicodedata.category(character)) in _BRACKETS:
        return character if character.isascii() else _BRACKETS[kind]
    letters = unicodedata.normalize("NFKC", character)
    if len(letters) == 1 and letters.isascii() and not (letters.isalnum() or letters.isspace()):
        return letters  # "：" of an input method
    is_letter = character.isalnum() and letters.isalnum() and not re.match(NUMBER_SIGNS, character)
    return letters if is_letter else character


def with_parted_words(text: str) -> tuple[str, list[int]]:
    """A text with spaces for statistical parsers, and the index in the text of each character: between a number and the
    word that it is written to, as in "1girl", and after a comma, which none parts; and after each sign of a stretch
    that goes on for too long, for spaCy looks at each together with all that follow."""
    ends = {match.end() for match in _JOINED.finditer(text)}
    ends |= {match.start() + sign.end() for match in _ENDLESS.finditer(text) for sign in _SIGN.finditer(match[0])}
    indices = [i for i in range(len(text)) for _ in range(1 + (i in ends))]
    return "".join(f" {character}" if i in ends else character for i, character in enumerate(text)), indices


def _enclosing_signs(prompt: str) -> dict[int, bool]:
    """Where quotes and brackets stand, and whether they part the words between them from the rest: all but those around
    modifiers of the noun that follows, as in 'a "bright red" car'."""
    parting: dict[int, bool] = {}
    for match in _ENCLOSED.finditer(prompt):
        before = word_before(prompt, match.start())
        inside = before in _BEFORE_ENCLOSED
        after = re.match(r"[^\w.,;:!?]*(\w+)", prompt[match.end() : match.end() + 40].lower())
        words = match[1] or match[2]
        alone = " " not in words.strip()
        if match.start() and prompt[match.start() - 1].isalnum():  # "cat(red collar)", but "dog(s)"
            parts = len(words) > 1
        else:
            begins = inside or not before or before in _BETWEEN_PHRASES | _SENTENCE
            before_a_noun = after is not None and after[1] not in _GOES_ON
            is_aside = match[0][0] in "([{" and after is not None and after[1] in lexicon.PLAIN_ADJECTIVES
            is_aside &= before not in lexicon.ATTRIBUTES and tag([before]) == ["NOUN"]  # "red car (new) blue bowl"
            parts = not ((alone and inside) or (before_a_noun and (begins or (alone and not is_aside))))
        parting |= dict.fromkeys((match.start(), match.end() - 1), parts)
    return parting


def _is_in_a_phrase(prompt: str, i: int) -> bool:
    """Whether a character stands after a word that goes on with a noun."""
    return word_before(prompt, i) in _IN_A_PHRASE


def core(text: str, span: Span) -> Span:
    """A stretch of a text without the symbols at its edges; empty if it holds no letter or digit."""
    start, end = span
    while start < end and not text[start].isalnum():
        start += 1
    last = end
    while start < last and not text[last - 1].isalnum():
        last -= 1
    while last < end and start < last and is_mark(text[last]):
        last += 1  # the marks of the last letter: vowels of Indian scripts
    return start, last


def _inside(character: str) -> str:
    if character.isalnum() or character in _KEPT_INSIDE or unicodedata.category(character).startswith("M"):
        return character
    if character in _HYPHENS:
        return "-"
    return " " if character in _JOINING or unicodedata.category(character) in _ENCLOSING else ","


def moved(words: Sequence[ParsedWord], indices: Sequence[int]) -> list[ParsedWord]:
    """Words of a text as those of another, in which its characters have these indices."""
    return [replace(word, start=indices[word.start], end=indices[word.end - 1] + 1) for word in words]


def joined_texts(*parts: Sequence[ParsedWord]) -> list[ParsedWord]:
    """The words of texts that are parts of one, each part with its own tree."""
    ordered = sorted((word for part in parts for word in part), key=lambda word: word.start)
    index = {word.start: i for i, word in enumerate(ordered)}
    heads = {word.start: part[word.head].start for part in parts for word in part}
    return [replace(word, head=index[heads[word.start]]) for word in ordered]


def composed(words: Sequence[ParsedWord], text: str) -> list[ParsedWord]:
    """Words of a text as those of the `normalised` text."""
    spans = [as_normalised(text, word.span) for word in words]
    return [replace(word, start=start, end=end) for word, (start, end) in zip(words, spans, strict=True)]
