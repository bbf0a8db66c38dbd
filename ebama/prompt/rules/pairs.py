"""Phrases that stand side by side without a sign: "black cat white dog" is read like "black cat, white dog"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from .. import lexicon
from ..alignment import matches
from ..objects import MODIFIER, ParsedWord
from .dependencies import analyse
from .tagging import tag

_ADJECTIVE = re.compile(r".{2,}(?:ic|al|ish|ous|ing|ed|y|id|ense|ant|ent|ate|ular|ern|ful|less|like|foot|ard|some)")
_ALONE = ("ADJ", "ADV", "NOUN", "VERB")
_IN_A_LIST = {"DET", "NUM", "ADJ", "ADV", "NOUN", "PUNCT"}


def parted(prompt: str) -> tuple[str, list[int]]:
    """The prompt with a comma where an adjective and its noun are followed by another two, and the index in the prompt
    of each character.

    Not after a noun that describes the next one, as a material or a shade does: "a white marble round table", "a big
    sky blue car".
    """
    tokens = matches(prompt)
    words = [match[0].lower() for match in tokens]
    tags = tag(words)
    ends: set[int] = set()
    described = False  # an adjective stands in the phrase
    for i in range(len(words)):
        after_a_noun = i > 0 and tags[i - 1] == "NOUN"
        if after_a_noun and ((described and _begins_a_phrase(words, tags, i)) or _is_of_the_picture(words, tags, i)):
            ends.add(tokens[i - 1].end())
        described = tags[i] == "ADJ" or (described and tags[i] in ("NOUN", "ADV"))
    indices = [i for i in range(len(prompt)) for _ in range(1 + (i in ends))]
    return "".join(f",{character}" if i in ends else character for i, character in enumerate(prompt)), indices


def read_list(prompt: str, read: Sequence[ParsedWord]) -> list[ParsedWord] | None:
    """A text of noun phrases with commas between them, "a castle, two dragons, dark sky", as the rules read it; None
    for a sentence, in which a parser has `read` a verb or an adjective that the rules take for a noun, too.

    A word alone between commas may be anything: "a castle, standing, outdoors, cinematic".
    """
    tokens = matches(prompt)
    words = [match[0].lower() for match in tokens]
    tags = tag(words)
    commas = [-1, *(i for i, word in enumerate(words) if word == ","), len(words)]
    alone = {i - 1 for last, i in pairwise(commas) if i - last == 2 and len(commas) > 3 and tags[i - 1] in _ALONE}
    among = [name for i, name in enumerate(tags) if i not in alone]
    ends = [tags[i - 1] for i in commas[1:] if i and i - 1 not in alone]
    if "NOUN" not in tags[: commas[1]]:
        ends = ends[1:]  # "dark, castle, knight"
    if len(commas) < 3 or not set(among) <= _IN_A_LIST or not set(ends) <= {"NOUN"} or "NOUN" not in tags:
        return None
    nouns = {match.start(): i for i, match in enumerate(tokens) if tags[i] == "NOUN"}
    others = [(word.text.lower(), word.pos, nouns[word.start]) for word in read if word.start in nouns]
    described = {i for name, pos, i in others if pos == "ADJ" and _ADJECTIVE.fullmatch(name)}
    done = any(pos == "VERB" and i and tags[i - 1] == "NOUN" and name.isalpha() for name, pos, i in others)
    things = sum(tags[i - 1] == "NOUN" for i in commas[1:] if i)
    is_of_one = things < 2 and any(tags[i] == "ADJ" for i in alone)  # "cat, cute, fluffy"
    if done or described - alone or is_of_one:
        return None
    result = analyse(prompt)
    index = {word.start: k for k, word in enumerate(result)}
    for i in described:
        k = index[tokens[i].start()]
        result[k] = replace(result[k], pos="ADJ")
    for i in alone:  # "a car, parked, a street"; not "a car, green, yellow bowl"
        k = index.get(tokens[i].start(), 0)
        is_of_next = result[k].dep in MODIFIER and result[k].head > k and tags[i + 2 : i + 3] != ["ADJ"]
        if is_of_next and "NOUN" in tags[:i]:
            result[k] = replace(result[k], dep="dep", head=k)
    if 0 in described and any(word.start == tokens[2].start() and word.pos == "ADJ" for word in read):
        noun = index[tokens[commas[2] - 1].start()]  # of "anthropomorphic, red fox"
        result[noun] = replace(result[noun], dep="ROOT", head=noun)
        result[0] = replace(result[0], dep="amod", head=noun)
    return result


def _begins_a_phrase(words: list[str], tags: list[str], i: int) -> bool:
    if words[i] not in lexicon.PLAIN_ADJECTIVES or words[i - 1] in lexicon.ATTRIBUTES:
        return False
    if f"{words[i - 1]}-{words[i]}" in lexicon.SHADES:
        return False
    return next((name for name in tags[i:] if name != "ADJ"), "END") == "NOUN"


def _is_of_the_picture(words: list[str], tags: list[str], i: int) -> bool:
    """Whether word `i` is a quality, as in "a red car 4k", and describes no noun after it: "a new 4k tv"."""
    describes = tags[i + 1 : i + 2] == ["NOUN"] and words[i + 1] not in lexicon.QUALITIES
    return words[i] in lexicon.QUALITIES and not describes
