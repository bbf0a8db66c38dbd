"""Between a prompt and its parsers: the text that they read, and what of their answer is one word or one phrase."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from . import lexicon
from .alignment import Alignment, normalised
from .objects import MODIFIER, SIGNS, ParsedWord, depth
from .tokenization import Span

_CHUNK = re.compile(r"\S+")
_SENTENCE = frozenset(".,;:!?")
_KEPT_INSIDE = _SENTENCE | frozenset("-'’_&@")
_ENCLOSING = ("Ps", "Pe", "Pi", "Pf")  # Unicode's brackets and quotes
_HYPHENS = frozenset("‐‑–")
_ENCLOSED = re.compile(r"""(?<!\w)["“„«(\[{<'‘]([^"“”„«»()\[\]{}<>‘]+)["”“»)\]}>'’](?!\w)""")
# What programs that draw read in a prompt, and no person: "<lora:name:0.8>", "BREAK", "--ar 16:9", and addresses.
_MARKUP = re.compile(r"<\w+:[^<>]*>|\bBREAK\b|(?<!\S)--[a-z]+(?: [\d.:]+)?(?!\S)|\bhttps?://\S+")
_WEIGHT = re.compile(r":-?[\d.]+([)\]}>])")  # "(red:1.3)"
_STOP = re.compile(r"(?<=[^\W\d_]{3})[.:;!?](?=[^\W\d_])")  # "a red car.a blue bowl", which is no abbreviation
_IN_A_PHRASE = lexicon.DETERMINERS | lexicon.NUMBERS | lexicon.ADJECTIVES
_BETWEEN_PHRASES = lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS
_NO_NOUN = _BETWEEN_PHRASES | lexicon.DETERMINERS | lexicon.PRONOUNS | lexicon.AUXILIARIES
_ADJECTIVES = lexicon.ADJECTIVES - (lexicon.NOUNS_TOO - lexicon.COLOURS) | {"colored", "coloured"}
_THINGS = frozenset({"orange", "violet", "lavender", "gold", "silver"})  # subjects: "an orange fell"
_BEFORE = ("DET", "PRON", "NUM", "ADJ", "PUNCT", "CCONJ")
_GOES_ON = ("NOUN", "PROPN", "ADJ")
_ADVERBS = ("advmod", "npadvmod")


def without_signs(prompt: str) -> tuple[str, list[int]]:
    """A prompt as a parser should read it, and the index in the prompt of each of its characters.

    Symbols at a word's edge are left out, those between words become commas, and so do quotes and brackets, unless
    they stand around modifiers of the noun that follows: '"red" car' and "a red car | a bowl" are read like the same
    words in plain writing.
    """
    prompt = _MARKUP.sub(lambda match: ("," if match.start() else " ").ljust(len(match[0])), prompt)
    prompt = _WEIGHT.sub(lambda match: match[1].ljust(len(match[0])), prompt)
    prompt = _STOP.sub(",", prompt)
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
    indices = [i for i, c in enumerate(text) if not c.isspace() or (i and not text[i - 1].isspace())]
    return "".join(text[i] for i in indices), indices


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
        return (name in lexicon.NOUNS or not is_form) and not (adjective.pos != "ADJ" and colour in _THINGS)
    begins = not before or before[0].pos == "PUNCT"
    in_a_list = begins and colour in lexicon.COLOURS and after and after[0].text == ","
    return noun.pos in ("NOUN", "PROPN") or bool(noun.pos == "ADJ" and in_a_list)


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
