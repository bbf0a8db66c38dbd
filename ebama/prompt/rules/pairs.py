"""Phrases that stand side by side without a sign: "black cat white dog" is read like "black cat, white dog"."""

from __future__ import annotations

import re

from .. import lexicon
from .tagging import tag

_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|\S")
_ADJECTIVES = lexicon.ADJECTIVES - (lexicon.NOUNS_TOO - lexicon.COLOURS)


def parted(prompt: str) -> str:
    """The prompt, as long as it was, with a comma where an adjective and its noun are followed by another two.

    Not after a noun that describes the next one, as a material or a shade does: "a white marble round table", "a big
    sky blue car".
    """
    matches = list(_TOKEN.finditer(prompt))
    words = [match[0].lower() for match in matches]
    tags = tag(words)
    text = list(prompt)
    described = False  # an adjective stands in the phrase
    for i, word in enumerate(words):
        if i and described and tags[i - 1] == "NOUN" and word in _ADJECTIVES and _begins_a_phrase(words, tags, i):
            text[matches[i - 1].end()] = ","
        described = tags[i] == "ADJ" or (described and tags[i] in ("NOUN", "ADV"))
    return "".join(text)


def _begins_a_phrase(words: list[str], tags: list[str], i: int) -> bool:
    if words[i - 1] in lexicon.ATTRIBUTES or f"{words[i - 1]}-{words[i]}" in lexicon.SHADES:
        return False
    return next((name for name in tags[i:] if name != "ADJ"), "END") == "NOUN"
