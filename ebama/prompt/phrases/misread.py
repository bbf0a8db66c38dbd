"""Phrases of tags and names that a parser of sentences takes for one phrase, or for a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from .. import lexicon
from ..objects import MODIFIER, ParsedWord
from ..rules.tagging import ends_as_of_one, is_of_a_verb, says_what_is_done, tag
from .adjectives import has_article, is_adjective
from .attaching import GOES_ON, gather, take_place

_NAMING = ("NOUN", "PROPN")
_PARTS = ("PUNCT", "CCONJ")
_BEGINNING = ("DET", "NUM", "PRON")
_NEAR = 16  # words of a phrase that are looked at


def part_clause(words: list[ParsedWord], i: int) -> bool:
    """A noun with a colour before it, or a verb that the list has, and what the noun does to another: "a red dragon
    breathing blue fire", "a lace dress holding red roses"."""
    pair, rest = words[max(i - 1, 0) : i + 1], words[i + 1 : i + 3]
    if len(pair) < 2 or len(rest) < 2:
        return False
    noun, verb, thing = pair[1], rest[0], rest[0].head
    name = verb.text.lower()
    is_certain = name in lexicon.HANDLING or _is_of_another(words, i, thing)
    if pair[0].text.lower() not in lexicon.PLAIN_COLOURS and not (
        is_certain or (is_of_a_verb(name) and is_adjective(rest[1]))
    ):
        return False
    is_one_phrase = verb.dep in MODIFIER and noun.dep in MODIFIER and noun.head in (i + 1, thing)
    is_done = _is_participle(verb) or is_certain
    if not (is_one_phrase and noun.pos in _NAMING and is_done and (thing > i + 2 or is_certain)):
        return False
    _hang(words, range(i), i + 1, i)
    take_place(words, i, thing)
    words[i + 1] = replace(verb, pos="VERB", dep="acl", head=i)
    words[thing] = replace(words[thing], dep="dobj", head=i + 1)
    return True


def _is_of_another(words: Sequence[ParsedWord], i: int, thing: int) -> bool:
    """Whether a word in -ing is what noun `i` does to things, which the noun's article cannot be of: "a fox reading
    books"; not "a pair of running shoes"."""
    name, things = words[i + 1].text.lower(), words[thing].text.lower()
    is_done = is_of_a_verb(name) and name not in lexicon.NOUNS
    is_plural = things.endswith("s") and not things.endswith("ss")
    is_of_things = is_plural or name == "playing"
    return is_done and thing > i + 1 and is_of_things and has_article(words, i, thing)


def part_verb(words: list[ParsedWord], i: int) -> bool:
    """A verb taken for the noun that it is said of: "a wolf howls at the moon", "a train crossing a bridge", "a red fox
    standing in a forest"."""
    before, word = words[max(i - 1, 0)], words[i]
    after, next_word = (words[i + 1].pos, words[i + 1].text.lower()) if i + 1 < len(words) else ("PUNCT", "")
    if _is_done_by(word, before, i):
        words[i] = replace(word, pos="VERB")
        return True
    if not _is_named(before) or before.dep not in MODIFIER or before.head != i or word.dep in MODIFIER:
        return False
    if (name := word.text.lower()).endswith("ing"):
        is_somebody = before.text.lower() in lexicon.BEINGS or name not in lexicon.PLACES_IN_ING
        is_done = after in ("DET", "ADV") or (after == "ADP" and next_word != "of" and is_somebody)
        is_done |= after == "PUNCT" and before.text.lower() in lexicon.BEINGS
        is_verb = name not in lexicon.NOUNS and (word.pos == "VERB" or is_done)
    else:
        is_one = has_article(words, i, i) and ends_as_of_one(name) and name not in lexicon.NOUNS
        is_before_place = after == "ADP" and next_word not in ("of", "with") and name not in lexicon.PLURALS
        is_verb = is_one and (after == "DET" or is_before_place)
    if is_verb:
        take_place(words, i - 1, i, "acl")
        words[i] = replace(words[i], pos="VERB")
    return is_verb


def join_can(words: list[ParsedWord], i: int) -> bool:
    """A can that something stands in: "a beer can and a glass"; not "birds can fly"."""
    before, word, after = words[max(i - 1, 0)], words[i], words[i + 1]
    if word.text.lower() != "can" or word.pos != "AUX" or before.pos not in (*_NAMING, "VERB") or before.head != i:
        return False
    if after.pos not in (*_PARTS, "ADP", "SCONJ") and after.text.lower() != "next":
        return False
    gather(words, range(i - 1, i + 1), i)
    words[i - 1] = replace(before, pos="NOUN", dep="compound", head=i)
    words[i] = replace(words[i], pos="NOUN")
    return True


def join_listed(words: list[ParsedWord], i: int) -> bool:
    """Adjectives with commas between them, after a determiner and before their noun, whatever a parser took them for:
    "a long, flowing, satin dress"; colours without one too: "red, white, and blue flags"."""
    begins = not i or words[i - 1].pos == "ADP"
    first = 0 if begins and words[i].text.lower() in lexicon.PLAIN_COLOURS else 1
    if first and words[i].pos not in _BEGINNING:
        return False
    near = words[i : i + _NEAR]
    tags = tag([word.text.lower() for word in near])
    k, last = first, 0  # the word that is looked at; the last comma or "and"
    while k + 1 < len(near) and (
        tags[k] == "ADJ"
        or near[k].text.lower() in lexicon.ATTRIBUTES
        or (last and near[k + 1].text == "," and _may_be_participle(near[k].text.lower()))
    ):
        k += 1
        if near[k].text == ",":
            last, k = k, k + 1
        if last and tags[k : k + 1] == ["CCONJ"]:
            last, k = k, k + 1
    while k + 1 < len(near) and tags[k] == tags[k + 1] == "NOUN" and near[k].pos in GOES_ON:
        k += 1
    if not last or k >= len(near) or tags[k] != "NOUN" or near[first].text.lower() in lexicon.COLOURED_THINGS:
        return False
    noun = i + k
    gather(words, range(i, noun + 1), noun)
    words[i] = replace(words[i], head=noun)
    for n in range(i + first, noun):
        listed = words[n].pos not in _PARTS
        words[n] = replace(
            words[n], pos="ADJ" if listed else words[n].pos, dep="amod" if listed else "punct", head=noun
        )
    words[noun] = replace(words[noun], pos="NOUN")
    return True


def join_material(words: list[ParsedWord], i: int) -> bool:
    """A thing whose name ends as a verb does, after what it is made of: "a metal scaffolding"."""
    before, word, after = words[i], words[i + 1], words[i + 2 : i + 3]
    name = word.text.lower()
    if before.pos not in _NAMING or word.pos != "VERB" or name not in lexicon.NOUNS or is_of_a_verb(name):
        return False
    if after and after[0].pos not in (*_PARTS, "ADP"):
        return False
    gather(words, range(i, i + 2), i + 1)
    words[i] = replace(before, pos="NOUN", dep="compound", head=i + 1)
    words[i + 1] = replace(words[i + 1], pos="NOUN")
    return True


def join_participle(words: list[ParsedWord], i: int) -> bool:
    """A participle that describes, taken for what is done: "with glowing red eyes", "in matching blue coats"."""
    word, preposition = words[i], words[i].head
    if not _is_participle(word) or word.dep != "pcomp" or preposition != i - 1:
        return False
    noun = next((k for k in range(i + 1, len(words)) if words[k].head == i and words[k].dep == "dobj"), i)
    if noun == i:
        return False
    if any(other.head != noun or other.pos == "DET" for other in words[i + 1 : noun]):
        return False
    gather(words, range(i, noun + 1), noun)
    words[noun] = replace(words[noun], dep="pobj")
    words[i] = replace(word, pos="ADJ", dep="amod", head=noun)
    for k in range(i + 1, noun):
        words[k] = replace(words[k], head=noun)
    return True


def part_listed(words: list[ParsedWord], i: int) -> bool:
    """The noun of a phrase of its own among those before a later noun: "a red nose and rainbow hair", "a blue scarf,
    black gloves, and boots", "boy with dog and red ball"; not "a wood and brass clock"."""
    word, described = words[i], words[i - 1].text.lower() if i else ""
    joints = list(takewhile(lambda k: words[k].text == "," or words[k].pos == "CCONJ", range(i + 1, len(words))))
    if (
        not joints
        or word.pos not in (*_NAMING, "ADJ")
        or _tag(word) != "NOUN"
        or word.text.lower() in lexicon.ATTRIBUTES
    ):
        return False
    top = i
    while words[top].head > max(top, joints[-1]) and words[top].dep in (*MODIFIER, "conj"):
        top = words[top].head
    after = words[joints[-1] + 1 : joints[-1] + 2]
    is_adjective_next = bool(after) and is_adjective(after[0])
    begins = is_adjective_next or bool(after and (after[0].pos == "DET" or described in lexicon.PLAIN_COLOURS))
    begins |= _is_told(words, i)
    is_whole = described in lexicon.PLAIN_ADJECTIVES | lexicon.ATTRIBUTES or _is_whole(words, i)
    is_whole |= is_adjective_next and i > 0 and words[i - 1].pos == "ADP" and len(joints) == 1
    if top == i or not begins or not is_whole:
        return False
    take_place(words, i, top, "conj")
    for k in range(i + 1, top):
        if words[k].head == i and words[k].dep in ("conj", "cc", "punct", *MODIFIER):
            words[k] = replace(words[k], dep="amod" if words[k].dep == "conj" else words[k].dep, head=top)
    return True


def _is_whole(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether a noun ends a phrase of several words: "in a garden, white background", "steam locomotive, dark sky"."""
    before = words[i - 1] if i else words[i]
    return (before.head == i and before.pos in _NAMING) or _is_told(words, i)


def _is_told(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether a noun with an article is where something is or what is done to it: "in a garden", "riding a wizard"."""
    return i > 1 and words[i - 1].pos == "DET" and (words[i - 2].pos == "ADP" or _is_participle(words[i - 2]))


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
    first = i - (i > 0 and words[i - 1].pos == "NUM")
    alone = (first == 0 or words[first - 1].pos == "PUNCT") and bool(after) and after[0].text == ","
    if not alone or word.dep not in MODIFIER or word.head < i or is_adjective(word):
        return False
    if any(other.head == word.head and other.dep in ("det", *MODIFIER) for other in words[:i]):
        return False  # "a sleek, gleaming, red robot"
    if _is_participle(word):
        words[i] = replace(word, dep="dep")
    elif word.pos in _NAMING and _tag(word) == "NOUN":
        take_place(words, i, word.head)
    return True


def part_action(words: list[ParsedWord], i: int) -> bool:
    """What is done, taken for an adjective of the thing that it is done to: "holding sword, red hair"."""
    before = [word.text for word in words[max(i - 1, 0) : i]]
    is_action = words[i].dep in MODIFIER and says_what_is_done(words[i].text.lower(), before)
    if is_action:
        words[i] = replace(words[i], pos="VERB", dep="dep")
    return is_action


def part_participle(words: list[ParsedWord], i: int) -> bool:
    """What is done to something, taken for a thing: "a street at night, lit by lamps"."""
    begins = not i or words[i - 1].pos == "PUNCT"
    is_done = begins and words[i].text.lower() in lexicon.PARTICIPLES and words[i + 1].pos == "ADP"
    if is_done:
        words[i] = replace(words[i], pos="VERB")
    return is_done


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


def _is_done_by(word: ParsedWord, before: ParsedWord, i: int) -> bool:
    """Whether a parser has the tag of a thing for what it says the thing before does: "a dolphin hiding behind"."""
    is_told = (word.dep == "acl" and word.head == i - 1) or (before.dep == "nsubj" and before.head == i)
    return is_told and word.pos == "NOUN" and _may_be_participle(word.text.lower())


def _is_named(word: ParsedWord) -> bool:
    """Whether a word is a noun, or one that a parser takes for an adjective and nobody else does: "retriever"."""
    return word.pos in _NAMING or (word.pos == "ADJ" and not is_adjective(word) and _tag(word) == "NOUN")


def _may_be_participle(name: str) -> bool:
    return name.endswith("ing") and name not in lexicon.NOUNS


def _is_participle(word: ParsedWord) -> bool:
    return word.pos == "VERB" and word.text.lower().endswith("ing")


def _tag(word: ParsedWord) -> str:
    return tag([word.text.lower()])[0]


def _hang(words: list[ParsedWord], among: Sequence[int], head: int, other: int) -> None:
    for k in among:
        if words[k].head == head and k != other:
            words[k] = replace(words[k], head=other)
