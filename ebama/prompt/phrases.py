"""What of a parser's answer is one word, and which words are one noun phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from . import lexicon
from .alignment import Alignment
from .objects import MODIFIER, SIGNS, ParsedWord, depth
from .rules.tagging import tag
from .signs import core, in_plain_letters

_ADJECTIVES = lexicon.PLAIN_ADJECTIVES | lexicon.WITH_A_NOUN
_BEFORE = ("DET", "PRON", "NUM", "ADJ", "PUNCT", "CCONJ")
_GOES_ON = ("NOUN", "PROPN", "ADJ")
_ADVERBS = ("advmod", "npadvmod")
_JOINTS = frozenset({",", "and", "&", "or"})


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
        text = in_plain_letters(prompt[start:end])[0]
        whole.append(replace(top, text=text, start=start, end=end, pos=pos, head=unit_of[top.head]))
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
        elif _begins_a_clause(result, i):
            result[i + 1] = replace(result[i + 1], head=i - 1)
        elif words[i].text.lower() in lexicon.WITH_A_NOUN and i and words[i - 1].pos in ("NOUN", "PROPN"):
            _attach_colours(result, i)
    return result


def _is_before_a_noun(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether word `i` is an adjective, and the next can only be its noun."""
    first = _first_of_hyphenated(words, i)
    before, (adjective, noun), after = words[:first][-1:], words[i : i + 2], words[i + 2 : i + 4]
    name, colour = noun.text.lower(), adjective.text.lower()
    if not _is_adjective(adjective) or _is_adjective(noun):
        return False
    begun = bool(before) and (before[0].pos in _BEFORE or _is_adjective(before[0]) or _describes_on(words, first - 1))
    if before and not begun:
        return False
    if after and after[0].pos in _GOES_ON:
        return False  # "a silver wine glass"
    is_shared = bool(after) and after[0].pos == "CCONJ" and noun.dep in MODIFIER and noun.head > i + 1
    if is_shared and not any(map(_is_adjective, after[1:])):
        return False  # "a silver wine and water glass"; but "golden eagle and teal table"
    if noun.pos in ("VERB", "AUX"):
        is_form = name.endswith(("ing", "ed")) or (name.endswith("s") and not name.endswith("ss"))
        is_said = adjective.pos != "ADJ" and colour in lexicon.COLOURED_THINGS and name in lexicon.PAST_FORMS
        return name in lexicon.NOUNS or not (is_form or is_said)
    begins = not before or before[0].pos == "PUNCT"
    in_a_list = begins and colour in lexicon.COLOURS and after and after[0].text == ","
    is_a_slip = noun.pos == "ADV" and tag([name]) == ["NOUN"]
    return noun.pos in ("NOUN", "PROPN") or is_a_slip or bool(noun.pos == "ADJ" and in_a_list)


def _first_of_hyphenated(words: Sequence[ParsedWord], i: int) -> int:
    """The index of the word that hyphens join word `i` to: of "blood" for "red" in "a blood-red rose"."""
    while i > 1 and words[i - 1].text == "-" and words[i - 2].end == words[i - 1].start == words[i].start - 1:
        i -= 2
    return i


def _is_listed(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether word `i` is an adjective among those of a later noun; "orange" in "an orange and red car" may be none."""
    return _is_adjective(words[i]) and (
        words[i + 1].text == "," or words[i].text.lower() not in lexicon.COLOURED_THINGS
    )


def _is_adjective(word: ParsedWord) -> bool:
    """Whether a word is an adjective wherever it stands before a noun, whatever a parser took it for."""
    return word.text.lower() in _ADJECTIVES or bool(lexicon.DECADE.fullmatch(word.text))


def _describes_on(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether word `i` is a noun that describes with the adjective after it: "black leather big bag"."""
    return words[i].text.lower() in lexicon.ATTRIBUTES or (
        words[i].pos in ("NOUN", "PROPN") and words[i + 1].text.lower() in lexicon.WITH_A_NOUN
    )


def _is_a_side(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether word `i` is the place in "a ball right of a cube", whatever a parser took it for."""
    is_place = (words[i].text.lower(), words[i + 1].text.lower()) in lexicon.COMPOUND_PREPOSITIONS
    return is_place and i > 0 and words[i - 1].pos in ("NOUN", "PROPN")


def _begins_a_clause(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether word `i` begins what is said of the noun before it, as in "a bowl that's blue", and the parser took it to
    be said of an earlier one."""
    pair, verb = words[i - 1 : i + 1], words[i + 1]
    said = len(pair) == 2 and pair[0].pos in ("NOUN", "PROPN") and pair[1].text.lower() in lexicon.RELATIVES
    return said and verb.pos == "AUX" and verb.dep == "relcl" and verb.head < i - 1


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


def _attach_colours(words: list[ParsedWord], i: int) -> None:
    """Make what follows the participle `i` its complements if they are adjectives alone: "a ball colored orange"."""
    end = i + 1
    while end < len(words) and _is_adjective(words[end]):
        end += 1
    if end == i + 1 or (end < len(words) and words[end].pos in _GOES_ON):
        return
    _gather(words, range(i - 1, end), i - 1)
    words[i] = replace(words[i], pos="VERB", dep="acl", head=i - 1)
    for k in range(i + 1, end):
        words[k] = replace(words[k], pos="ADJ", dep="acomp", head=i)


def _attach_to_next(words: list[ParsedWord], i: int) -> None:
    """Hang word `i` and the adjectives before it on the next word, which takes the place of the uppermost of them."""
    noun, first = i + 1, _first_of_hyphenated(words, i)
    while first and (_is_adjective(words[first - 1]) or _describes_on(words, first - 1)):
        first -= 1
    listed = first
    while listed > 1 and words[listed - 1].text in _JOINTS and _is_listed(words, listed - 2):
        listed -= 2
    if listed and words[listed - 1].pos in ("DET", "PRON", "NUM"):
        first = listed  # "a small, red car", "a teal and orange poster"
    elif (not listed or words[listed - 1].pos == "PUNCT") and words[listed].text.lower() not in lexicon.COLOURED_THINGS:
        first = listed  # "red, blue car"
    _gather(words, range(first, noun + 1), noun)
    for k in range(first, noun):
        if words[k].text not in _JOINTS:
            words[k] = replace(words[k], pos="ADJ", dep="amod", head=noun)
    words[noun] = replace(words[noun], pos="NOUN")


def _gather(words: list[ParsedWord], phrase: range, noun: int) -> None:
    """Give a noun the place in the tree of the uppermost word of its phrase, and what else hangs on the phrase."""
    top = min(phrase, key=lambda k: (depth(words, k), words[k].dep in MODIFIER))
    head = noun if words[top].head == top else words[top].head
    parted = any(word.text == "," or word.pos == "CCONJ" for word in words[min(head, noun) : max(head, noun)])
    dep = "appos" if parted and words[top].dep in MODIFIER else words[top].dep
    for k, word in enumerate(words):
        if word.head in phrase and k not in phrase and word.dep not in _ADVERBS:
            words[k] = replace(word, head=noun)
    words[noun] = replace(words[noun], dep=dep, head=head)
