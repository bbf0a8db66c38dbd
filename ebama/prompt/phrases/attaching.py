"""Words hung elsewhere in the tree that a parser made of a prompt."""

from __future__ import annotations

from dataclasses import replace

from .. import lexicon
from ..objects import MODIFIER, ParsedWord, depth
from ..rules.tagging import is_of_a_verb
from .adjectives import describes_on, first_of_hyphenated, is_adjective, is_listed

GOES_ON = ("NOUN", "PROPN", "ADJ")
_ADVERBS = ("advmod", "npadvmod")
_JOINTS = frozenset({",", "and", "&", "or"})


def attach_to_last(words: list[ParsedWord], i: int) -> None:
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


def attach_colours(words: list[ParsedWord], i: int) -> None:
    """Make what follows the participle `i` its complements if they are adjectives alone: "a ball colored orange"."""
    end = i + 1
    while end < len(words) and is_adjective(words[end]):
        end += 1
    name = words[end].text.lower() if end < len(words) else ""
    is_done = name == "made" or is_of_a_verb(name)
    if end == i + 1 or (end < len(words) and words[end].pos in GOES_ON and not is_done):
        return
    gather(words, range(i - 1, end), i - 1)
    words[i] = replace(words[i], pos="VERB", dep="acl", head=i - 1)
    for k in range(i + 1, end):
        words[k] = replace(words[k], pos="ADJ", dep="acomp", head=i)
    if is_done:  # "a car painted red standing on a road"
        if words[i - 1].head == end:
            take_place(words, i - 1, end)
        words[end] = replace(words[end], pos="VERB", dep="acl", head=i - 1)


def attach_to_next(words: list[ParsedWord], i: int) -> None:
    """Hang word `i` and the adjectives before it on the next word, which takes the place of the uppermost of them."""
    noun, first = i + 1, first_of_hyphenated(words, i)
    while first and (is_adjective(words[first - 1]) or describes_on(words, first - 1)):
        first -= 1
    listed = first
    while listed > 1 and words[listed - 1].text in _JOINTS and is_listed(words, listed - 2):
        listed -= 2
    if listed and words[listed - 1].pos in ("DET", "PRON", "NUM"):
        first = listed  # "a small, red car", "a teal and orange poster"
    elif (not listed or words[listed - 1].pos == "PUNCT") and words[listed].text.lower() not in lexicon.COLOURED_THINGS:
        first = listed  # "red, blue car"
    gather(words, range(first, noun + 1), noun)
    for k in range(first, noun):
        if words[k].text not in _JOINTS:
            words[k] = replace(words[k], pos="ADJ", dep="amod", head=noun)
    words[noun] = replace(words[noun], pos="NOUN")


def gather(words: list[ParsedWord], phrase: range, noun: int) -> None:
    """Give a noun the place in the tree of the uppermost word of its phrase, and what else hangs on the phrase."""
    top = min(phrase, key=lambda k: (depth(words, k), words[k].dep in MODIFIER))
    head = noun if words[top].head == top else words[top].head
    parted = any(word.text == "," or word.pos == "CCONJ" for word in words[min(head, noun) : max(head, noun)])
    dep = "appos" if parted and words[top].dep in MODIFIER else words[top].dep
    for k, word in enumerate(words):
        if word.head in phrase and k not in phrase and word.dep not in _ADVERBS:
            words[k] = replace(word, head=noun)
    words[noun] = replace(words[noun], dep=dep, head=head)


def take_place(words: list[ParsedWord], noun: int, later: int, dep: str = "appos") -> None:
    """Give a noun the place in the tree of a later word above it, and what hangs there from before the noun; the later
    word hangs on the noun."""
    place, pos = words[later], "PROPN" if words[noun].pos == "PROPN" else "NOUN"
    for k in range(noun):
        if words[k].head == later:
            words[k] = replace(words[k], head=noun)
    words[noun] = replace(words[noun], pos=pos, dep=place.dep, head=noun if place.head == later else place.head)
    words[later] = replace(place, dep=dep, head=noun)
