"""Phrases of tags and names that a parser of sentences takes for one phrase, or for a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .. import lexicon
from ..objects import MODIFIER, ParsedWord
from ..rules.tagging import tag
from .adjectives import is_adjective
from .attaching import gather, take_place

_NAMING = ("NOUN", "PROPN")
_PARTS = ("PUNCT", "CCONJ")


def part_clause(words: list[ParsedWord], i: int) -> bool:
    """A noun with a colour before it, and what it does to another: "a red dragon breathing blue fire"."""
    pair, rest = words[max(i - 1, 0) : i + 1], words[i + 1 : i + 3]
    if len(pair) < 2 or len(rest) < 2 or pair[0].text.lower() not in lexicon.PLAIN_COLOURS:
        return False
    noun, verb, thing = pair[1], rest[0], rest[0].head
    is_one_phrase = verb.dep in MODIFIER and noun.dep in MODIFIER and noun.head in (i + 1, thing)
    if not (is_one_phrase and noun.pos in _NAMING and _is_participle(verb) and thing > i + 2):
        return False
    _hang(words, range(i), i + 1, i)
    take_place(words, i, thing)
    words[i + 1] = replace(verb, pos="VERB", dep="acl", head=i)
    words[thing] = replace(words[thing], dep="dobj", head=i + 1)
    return True


def part_place(words: list[ParsedWord], i: int) -> bool:
    """The noun of a verb's preposition before a comma: "looking at viewer, smiling, red hair"."""
    before, word, after = words[max(i - 1, 0)], words[i], words[i + 1 : i + 2]
    is_place = before.pos == "ADP" and words[before.head].pos == "VERB" and bool(after) and after[0].text == ","
    if not is_place or word.dep not in MODIFIER or word.head < i or is_adjective(word) or _tag(word) != "NOUN":
        return False
    take_place(words, i, word.head)
    return True


def part_tag(words: list[ParsedWord], i: int) -> bool:
    """A participle or noun that is a phrase of its own, and no adjective among those of a later noun: "smiling, red
    hair", "anime, 1girl"."""
    word, after = words[i], words[i + 1 : i + 2]
    alone = (i == 0 or words[i - 1].pos == "PUNCT") and bool(after) and after[0].text == ","
    if not alone or word.dep not in MODIFIER or word.head < i or is_adjective(word):
        return False
    if any(other.head == word.head and other.dep in ("det", *MODIFIER) for other in words[:i]):
        return False  # "a sleek, gleaming, red robot"
    if _is_participle(word):
        words[i] = replace(word, dep="dep")
    elif word.pos in _NAMING and _tag(word) == "NOUN":
        take_place(words, i, word.head)
    return True


def part_names(words: list[ParsedWord], i: int) -> bool:
    """A name, "and", and another: "Spider-Man and Iron Man"; not "Red and Blue Car"."""
    word, last = words[i], words[i].head
    names = [word, *words[i + 2 : last + 1]]
    if word.dep not in MODIFIER or last < i + 2 or words[i + 1].pos != "CCONJ":
        return False
    if any(name.pos != "PROPN" or is_adjective(name) for name in names):
        return False
    take_place(words, i, last, "conj")
    for k in range(i + 2, last):
        words[k] = replace(words[k], dep="compound", head=last)
    return True


def join_unknown(words: list[ParsedWord], i: int) -> bool:
    """Two words that are a phrase, of which a parser knows neither, and took the first for a verb: "maid headdress"."""
    pair, after = words[i : i + 2], words[i + 2 : i + 3]
    if len(pair) < 2 or (i and words[i - 1].pos not in _PARTS) or (after and after[0].pos not in _PARTS):
        return False
    is_verb = pair[0].pos == "VERB" and pair[0].text.lower() not in lexicon.VERBS
    if not is_verb or pair[1].pos not in ("ADJ", "ADV", "VERB") or any(_tag(word) != "NOUN" for word in pair):
        return False
    gather(words, range(i, i + 2), i + 1)
    words[i] = replace(words[i], pos="NOUN", dep="compound", head=i + 1)
    words[i + 1] = replace(words[i + 1], pos="NOUN")
    return True


def _is_participle(word: ParsedWord) -> bool:
    return word.pos == "VERB" and word.text.lower().endswith("ing")


def _tag(word: ParsedWord) -> str:
    return tag([word.text.lower()])[0]


def _hang(words: list[ParsedWord], among: Sequence[int], head: int, other: int) -> None:
    for k in among:
        if words[k].head == head and k != other:
            words[k] = replace(words[k], head=other)
