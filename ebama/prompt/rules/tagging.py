"""Parts of speech for the built-in parser: closed lists, endings, then the neighbours of each word."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .. import lexicon

_ADJECTIVE = re.compile(r".{2,}(ish|ful|ous|able|ible|less|ed)|.+-(shaped|like)")
_BY_LIST = (
    (lexicon.DETERMINERS, "DET"),
    (lexicon.NUMBERS, "NUM"),
    (lexicon.CONJUNCTIONS, "CCONJ"),
    (lexicon.PREPOSITIONS, "ADP"),
    (lexicon.PRONOUNS, "PRON"),
    (lexicon.AUXILIARIES, "AUX"),
    (lexicon.PARTICLES, "PART"),
    (lexicon.ADVERBS, "ADV"),
    (lexicon.ADJECTIVES, "ADJ"),
    (lexicon.PAST_FORMS, "VERB"),
    (lexicon.NOUNS, "NOUN"),
)
_PREPOSITIONS = frozenset(lexicon.COMPOUND_PREPOSITIONS)
_DESCRIBED = ("NOUN", "ADJ", "ADV")
_BEFORE_A_NOUN = ("DET", "NUM", "ADJ", "ADP", "CCONJ", "PUNCT", "PART", "END")


def tag(words: Sequence[str]) -> list[str]:
    """Universal part-of-speech tags of lower-case words."""
    tags = [_tag_alone(word) for word in words]
    for i in range(len(words) - 1):
        for count in (2, 3, 4):
            if tuple(words[i : i + count]) in _PREPOSITIONS:
                tags[i : i + count] = ["ADP"] * count
    for i, word in enumerate(words):
        last = i - 1
        while last > 0 and words[last] in ("not", "never"):
            last -= 1
        before = tags[last] if i else "END"
        following = words[i + 1] if i + 1 < len(words) else ""
        after = tags[i + 1] if following else "END"
        ends = after in ("END", "CCONJ", "PUNCT", "ADP")
        if word == "can" and (
            (before in ("DET", "ADJ") and after != "VERB") or (before == "NOUN" and not _is_done(following, after))
        ):
            tags[i] = "NOUN"  # "a white can", "a beer can and a glass"
        elif word == "that" and before in ("NOUN", "ADJ"):  # "an orange that is"
            if after in ("AUX", "VERB", "ADV") or _third_person(following):
                tags[i] = "PRON"
        elif tags[i] == "VERB" and word.endswith("ing"):
            # "a running dog", but "a man sitting and watching birds"
            coordinated = before in ("CCONJ", "PUNCT") and i > 1 and tags[i - 2] == "VERB"
            if says_what_is_done(word, words[i - 1 : i]):
                pass
            elif words[i - 1 : i] in (["a"], ["an"], ["the"]) and following == "," and tags[i + 2 : i + 3] == ["ADJ"]:
                tags[i] = "ADJ"  # "a smiling, freckled girl"
            elif before in _BEFORE_A_NOUN and after in ("NOUN", "ADJ") and not coordinated:
                tags[i] = "ADJ"
            elif before in ("DET", "NUM", "ADJ", "END") or (before in ("CCONJ", "PUNCT") and after != "ADP"):
                tags[i] = "VERB" if coordinated else _tag_gerund(words, tags, i)
        elif tags[i] == before == "NOUN" and word.endswith("er") and following == "than":
            tags[i] = "ADV"  # "a house bigger than a car"
        elif word in lexicon.PARTICIPLES and before in ("NOUN", "PUNCT", "END") and after == "ADP":
            tags[i] = "VERB"
        elif word in lexicon.PAST_FORMS and words[i - 1 : i] in (["a"], ["an"], ["the"]):
            if (tags[i + 2 : i + 3] if following == "," else [after]) in (["NOUN"], ["ADJ"]):
                tags[i] = "ADJ"  # "a woven basket", "a worn, velvet armchair"
        elif word in lexicon.PAST_FORMS and words[i - 1 : i] == [","] == [following] and tags[i - 2 : i - 1] == ["ADJ"]:
            tags[i] = "ADJ"  # "a round, woven, beige rug"
        elif tags[i] == "ADJ" and word.endswith("ed") and word not in lexicon.COLOURS and after not in ("NOUN", "ADJ"):
            # "a dog dressed in", "is parked on"; but "is checkered", "a spotted and sleepy cat"
            if before == "NOUN" or (before == "AUX" and after == "ADP"):
                tags[i] = "VERB"
        elif tags[i] == "ADJ" and word in lexicon.COPULAS and before in ("NOUN", "AUX"):
            if before == "AUX" or not _has_a_noun_after_it(words, tags, i):  # "a cream colored big dog"
                tags[i] = "VERB"  # "a wall painted blue"
        elif tags[i] == "ADJ" and word in lexicon.NOUNS_TOO and before in ("NOUN", "ADJ"):
            if after not in ("NOUN", "ADJ") or _third_person(following):
                tags[i] = "NOUN"  # "a traffic light"
        elif tags[i] == "ADV" and (before == "DET" or words[last] in lexicon.ATTRIBUTES) and after not in _DESCRIBED:
            tags[i] = "NOUN"  # "on the back of", "a stone well"
        elif tags[i] == "ADV" and word not in lexicon.ADVERBS and (after == "NOUN" or (before == "AUX" and ends)):
            tags[i] = "ADJ"  # "a curly dog", "the dog is curly"
        elif tags[i] == "NOUN" and words[last] in lexicon.MODALS and tags[last - 1 : last] in (["NOUN"], ["PRON"]):
            tags[i] = "VERB"  # "birds can fly", but "a can opener"
        elif tags[i] == "NOUN" and word in lexicon.REQUESTS and before in ("END", "ADV") and after in ("DET", "PRON"):
            tags[i] = "VERB"  # "draw a cat", "please show me a dog"
        elif word.endswith("ing") and tags[i - 1 : i] == ["NOUN"] and after == "DET" and _is_done_to(words, i):
            tags[i] = "VERB"  # "a man painting a wall"
        elif tags[i] == "NOUN" and word not in lexicon.NOUNS:
            if before in ("NOUN", "PRON") and (_is_verb(word, words[last], after) or _is_said_of_one(words, tags, i)):
                tags[i] = "VERB"
            elif before == "AUX" and words[last] in lexicon.COPULAS and ends:
                tags[i] = "NOUN" if _is_plural(word) else "ADJ"  # "the dog is shabby"
    return tags


def _tag_alone(word: str) -> str:
    for words, name in _BY_LIST:
        if word in words:
            return name
    if lexicon.DECADE.fullmatch(word):
        return "ADJ"
    if word.isnumeric():
        return "NUM"
    if not any(character.isalnum() for character in word):
        return "PUNCT"
    if word.endswith("ly"):
        return "ADV"
    if word.endswith("ing") and len(word) > 4:
        return "VERB"
    return "ADJ" if _ADJECTIVE.fullmatch(word) else "NOUN"


def _has_a_noun_after_it(words: Sequence[str], tags: Sequence[str], i: int) -> bool:
    """Whether a noun follows word `i`, adjectives between them left out."""
    after = next((k for k in range(i + 1, len(tags)) if tags[k] not in ("ADJ", "ADV")), None)
    return after is not None and tags[after] == "NOUN" and not _third_person(words[after])


def _tag_gerund(words: Sequence[str], tags: Sequence[str], i: int) -> str:
    """A word in -ing where a noun phrase may end: "a red starling", unless it is a verb that the list has."""
    if list(tags[i + 1 : i + 4]) == ["CCONJ", "VERB", "NOUN"]:
        return "ADJ"  # "a barking and growling dog"
    if tags[i - 1] == "ADJ" and i > 1 and words[i - 2] in ("a", "an", "the"):
        return "NOUN"  # "a green filling", but "a woman in red dancing"
    return "VERB" if is_of_a_verb(words[i]) else "NOUN"


def is_of_a_verb(gerund: str) -> bool:
    """Whether a word in -ing is a form of a verb that the list has."""
    stem = gerund[:-3]
    return any(verb in lexicon.VERBS for verb in (stem, stem + "e", stem[:-1]))


def says_what_is_done(word: str, before: Sequence[str]) -> bool:
    """Whether a word, given the one before it if there is one, begins what somebody does: "1girl, holding katana"."""
    return word in lexicon.HANDLING and (not before or before[0] in (",", ".", ";", ":", "and"))


def _is_done_to(words: Sequence[str], i: int) -> bool:
    """Whether a word in -ing can have what follows as its object, unlike "a diamond ring, a building the size of"."""
    measured = words[i + 1] == "the" and words[i + 2 : i + 3] and words[i + 2] in lexicon.MEASURES
    return is_of_a_verb(words[i]) and words[i + 1] not in ("all", "both", "no") and not measured


def _is_said_of_one(words: Sequence[str], tags: Sequence[str], i: int) -> bool:
    """Whether a word in -s can only be the verb of a single thing: "a wolf howls at the moon"."""
    after = tags[i + 1 : i + 2]
    is_thing = words[i] in lexicon.PLURALS and after != ["DET"]  # "a city lights at night", as many write
    if not ends_as_of_one(words[i]) or after in (["NOUN"], ["VERB"]) or is_thing:
        return False
    first = i
    while first and tags[first - 1] in ("NOUN", "ADJ", "ADV"):
        first -= 1
    ends = words[i + 1 : i + 2] in ([], [","], ["of"], ["and"], ["with"])
    return words[first - 1 : first] in (["a"], ["an"]) and not ends


def ends_as_of_one(word: str) -> bool:
    """Whether a word ends as a verb of a single thing does: "howls", but not "glass", "cactus" or "iris"."""
    return word.endswith("s") and not word.endswith(("ss", "us", "is"))


def _is_done(word: str, kind: str) -> bool:
    """Whether a word after "can" is what can be done: "birds can fly", but not "a can on a table"."""
    return kind in ("VERB", "NOUN", "ADV", "AUX", "PART") and not word.endswith("ing")


def _third_person(word: str) -> bool:
    return word.endswith("s") and any(verb in lexicon.VERBS for verb in (word[:-1], word[:-2], word[:-3] + "y"))


def _is_plural(noun: str) -> bool:
    return noun in lexicon.PLURALS or (noun.endswith("s") and not noun.endswith("ss"))


def _is_verb(word: str, subject: str, after: str) -> bool:
    """Whether a word after a noun is a finite verb: "sits", or "sit" after a plural and before no noun."""
    bare = word in lexicon.VERBS and (_is_plural(subject) or subject in lexicon.PRONOUNS)
    return _third_person(word) or (bare and after not in ("NOUN", "VERB", "AUX"))
