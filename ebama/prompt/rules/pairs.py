"""Phrases that stand side by side without a sign: "black cat white dog" is read like "black cat, white dog"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .. import lexicon
from ..alignment import matches
from ..objects import ParsedWord
from .tagging import tag

_ADJECTIVE = re.compile(r".{2,}(?:ic|al|ish|ous|ing|ed|y|id|ense|ant|ent|ate|ular|ern|ful|less|like|foot|ard|some)")
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


def is_list(prompt: str, read: Sequence[ParsedWord]) -> bool:
    """Whether a text is noun phrases with commas between them, "a castle, two dragons, dark sky", and no sentence:
    among what a parser has `read` in it there is no verb or adjective that the rules take for a noun, either."""
    tokens = matches(prompt)
    words = [match[0].lower() for match in tokens]
    tags = tag(words)
    if "," not in words or not set(tags) <= _IN_A_LIST:
        return False
    ends = [tags[i - 1] for i, word in enumerate([*words, ","]) if word == "," and i]
    if "NOUN" not in tags[: words.index(",")]:
        ends = ends[1:]  # "dark, castle, knight"
    if set(ends) != {"NOUN"}:
        return False
    nouns = {match.start(): i for i, match in enumerate(tokens) if tags[i] == "NOUN"}
    others = [(word.text.lower(), word.pos, nouns[word.start]) for word in read if word.start in nouns]
    return not any(
        (pos == "ADJ" and _ADJECTIVE.fullmatch(name))
        or (pos == "VERB" and i and tags[i - 1] == "NOUN" and name.isalpha())
        for name, pos, i in others
    )


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
