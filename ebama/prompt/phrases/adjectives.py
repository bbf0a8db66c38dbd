"""Which words are adjectives of the next noun wherever they stand, whatever a parser took them for."""

from __future__ import annotations

from collections.abc import Sequence

from .. import lexicon
from ..objects import MODIFIER, ParsedWord
from ..rules.tagging import tag

_NAMES = ("NOUN", "PROPN")
_ENDING = ("PUNCT", "ADP", "CCONJ", "VERB", "AUX", "SCONJ")
_PAST_TOO = frozenset(
    {"spread", "cast", "set", "hit", "bound", "wound", "split", "found", "led", "shot", "put", "shut"}
)
_NO_THINGS = lexicon.ADVERBS | lexicon.PAST_FORMS | lexicon.PARTICIPLES | _PAST_TOO
_PARTING = ("PUNCT", "ADP", "CCONJ", "SCONJ", "ADV")
_ADJECTIVES = lexicon.PLAIN_ADJECTIVES | lexicon.WITH_A_NOUN


def first_of_hyphenated(words: Sequence[ParsedWord], i: int) -> int:
    """The index of the word that hyphens join word `i` to: of "blood" for "red" in "a blood-red rose"."""
    while i > 1 and words[i - 1].text == "-" and words[i - 2].end == words[i - 1].start == words[i].start - 1:
        i -= 2
    return i


def is_listed(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether word `i` is an adjective among those of a later noun; "orange" in "an orange and red car" may be none."""
    return is_adjective(words[i]) and (words[i + 1].text == "," or words[i].text.lower() not in lexicon.COLOURED_THINGS)


def is_adjective(word: ParsedWord) -> bool:
    """Whether a word is an adjective wherever it stands before a noun, whatever a parser took it for."""
    return word.text.lower() in _ADJECTIVES or bool(lexicon.DECADE.fullmatch(word.text))


def is_thing(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether a word that a parser takes for an adjective can only be a thing, as no other word is there for it to
    describe: "a steam locomotive on a bridge", "a queen and a castle"; or for a verb, which nobody does."""
    word, before, after = words[i], words[max(i - 1, 0)], words[i + 1 : i + 2]
    if word.pos == "PRON" and word.text.isalpha() and word.text.lower() not in lexicon.FUNCTION_WORDS:
        return True  # "a small elf"
    if word.pos == "VERB" and (not i or before.pos == "PUNCT") and after and after[0].pos == "ADP":
        return word.text.lower() not in lexicon.VERBS and tag([word.text.lower()]) == ["NOUN"]  # "mermaid on a beach"
    if after and after[0].text.lower() == "than":
        return False  # "a house bigger than a car"
    if i and _is_misread_noun(words, i):
        return True
    if word.pos != "ADJ" or not i or is_adjective(word) or (after and after[0].pos not in _ENDING):
        return False
    if after and after[0].pos in ("PUNCT", "CCONJ") and word.dep in MODIFIER and word.head > i:
        return False  # "a small whimsical, colorful house"
    is_joined = before.pos in _NAMES and (before.head == i or (word.head == i - 1 and word.dep in MODIFIER))
    ends_a_phrase = before.pos == "DET" or is_adjective(before) or is_joined
    is_other = before.pos == "CCONJ" and word.dep == "conj" and words[word.head].pos in _NAMES
    return (ends_a_phrase or is_other or word.dep == "pobj") and tag([word.text.lower()]) == ["NOUN"]


def has_article(words: Sequence[ParsedWord], i: int, noun: int) -> bool:
    """Whether an "a" or "an" before word `i` hangs on a noun, which is one thing then."""
    return any(word.head == noun and word.text.lower() in ("a", "an") for word in words[:i])


def _is_misread_noun(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether a word has the form of no verb after the one thing before it, and ends its phrase: "a toilet and sink in
    a room", "a stove top oven next to a sink", "a tree frog on a leaf", "by a fire hydrant"."""
    word, before, name = words[i], words[i - 1], words[i].text.lower()
    if name.endswith(("s", "ed", "ing")) or name in _NO_THINGS or not name.isalpha():
        return False
    joined = before.pos == "CCONJ" and word.dep == "conj" and word.head == i - 2 and word.pos == "VERB"
    thing = i - 2 if joined else i - 1
    goes_on = i + 1 < len(words) and words[i + 1].pos not in _PARTING
    if not has_article(words, i, thing) or goes_on or words[thing].pos not in _NAMES:
        return False
    if joined:
        return True
    is_said = before.dep == "nsubj" and before.head == i and word.pos in ("VERB", "NOUN")
    return (
        tag([name]) == ["NOUN"]
        and name not in lexicon.VERBS
        and (is_said or (word.pos == "ADV" and word.dep == "appos"))
    )


def describes_on(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether word `i` is a noun that describes with the adjective after it: "black leather big bag"."""
    return words[i].text.lower() in lexicon.ATTRIBUTES or (
        words[i].pos in ("NOUN", "PROPN") and words[i + 1].text.lower() in lexicon.WITH_A_NOUN
    )
