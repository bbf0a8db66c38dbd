"""Which words of a parser's answer are one noun phrase, where it read a prompt as if it were a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .. import lexicon
from ..objects import MODIFIER, ParsedWord
from ..rules.tagging import tag
from .adjectives import describes_on, first_of_hyphenated, is_adjective, is_thing
from .attaching import GOES_ON, attach_colours, attach_to_last, attach_to_next, gather
from .misread import (
    join_can,
    join_listed,
    join_material,
    join_participle,
    join_unknown,
    part_action,
    part_clause,
    part_listed,
    part_names,
    part_participle,
    part_place,
    part_tag,
    part_verb,
)

_MISREAD = (
    join_listed,
    part_clause,
    part_verb,
    part_listed,
    part_place,
    part_tag,
    part_action,
    part_participle,
    part_names,
    join_can,
    join_material,
    join_participle,
    join_unknown,
)
_GOES_ON_WITH = frozenset((*lexicon.COMPOUND_PREPOSITIONS, ("made", "of")))
_BEFORE = ("DET", "PRON", "NUM", "ADJ", "PUNCT", "CCONJ")


def with_noun_phrases(words: Sequence[ParsedWord]) -> list[ParsedWord]:
    """The words, in which a known adjective before the last word of a phrase modifies it.

    Statistical parsers learn from sentences, and prompts are phrases: in "a white rose and a gray balloon" spaCy's
    small model reads a verb, "rose", in "a silver dolphin" two nouns, in "red sock, brown whale" one whale. Such an
    adjective leaves no doubt: the word is a noun.
    """
    result = list(words)
    for i in range(len(words)):
        if is_thing(words, i):
            _make_noun(result, i)
    for i in range(len(words) - 1):
        if _is_before_a_noun(result, i):
            attach_to_next(result, i)
        elif _is_a_side(result, i):
            attach_to_last(result, i)
        elif _begins_a_clause(result, i):
            result[i + 1] = replace(result[i + 1], head=i - 1)
        elif words[i].text.lower() in lexicon.WITH_A_NOUN and i and result[i - 1].pos in ("NOUN", "PROPN"):
            attach_colours(result, i)
        else:
            any(mend(result, i) for mend in _MISREAD)
    if words:
        part_verb(result, len(words) - 1)  # "a wolf howling"
    return result


def _make_noun(words: list[ParsedWord], i: int) -> None:
    """Make word `i` a noun, and the head of the noun before it if these are one phrase, "a steam locomotive"; or what a
    noun after it is called by, if it was taken for a pronoun: "an elf archer"."""
    before = words[i - 1] if i else words[i]
    if words[i].pos == "PRON" and any(word.pos in ("NOUN", "PROPN") for word in words[i + 1 : i + 2]):
        first = i - (i > 0 and before.pos in ("NOUN", "PROPN") and words[i].head == i - 1)
        gather(words, range(first, i + 2), i + 1)
        words[first : i + 1] = [replace(word, pos="NOUN", dep="compound", head=i + 1) for word in words[first : i + 1]]
        return
    is_one = before.dep in ("npadvmod", "nsubj") or words[i].head == i - 1 or words[i].pos == "ADV"
    if i and is_one and before.pos != "CCONJ":
        gather(words, range(i - 1, i + 1), i)
        words[:i] = [replace(word, head=i) if word.head == i - 1 else word for word in words[:i]]
        words[i - 1] = replace(before, dep="compound", head=i)
    words[i] = replace(words[i], pos="NOUN")


def _is_before_a_noun(words: Sequence[ParsedWord], i: int) -> bool:
    """Whether word `i` is an adjective, and the next can only be its noun."""
    first = first_of_hyphenated(words, i)
    before, (adjective, noun), after = words[:first][-1:], words[i : i + 2], words[i + 2 : i + 4]
    name, colour = noun.text.lower(), adjective.text.lower()
    if not is_adjective(adjective) or is_adjective(noun):
        return False
    begun = bool(before) and (before[0].pos in _BEFORE or is_adjective(before[0]) or describes_on(words, first - 1))
    if before and not begun:
        return False
    if after and after[0].pos in GOES_ON:
        return False  # "a silver wine glass"
    if after and (name, after[0].text.lower()) in _GOES_ON_WITH:
        return False  # "a car painted red next to a house"
    is_shared = bool(after) and after[0].pos == "CCONJ" and noun.dep in MODIFIER and noun.head > i + 1
    if is_shared and not any(map(is_adjective, after[1:])):
        return False  # "a silver wine and water glass"; but "golden eagle and teal table"
    if noun.pos in ("VERB", "AUX"):
        is_form = name.endswith(("ing", "ed")) or (name.endswith("s") and not name.endswith("ss"))
        is_said = adjective.pos != "ADJ" and colour in lexicon.COLOURED_THINGS and name in lexicon.PAST_FORMS
        return name in lexicon.NOUNS or not (is_form or is_said)
    begins = not before or before[0].pos == "PUNCT"
    in_a_list = begins and colour in lexicon.COLOURS and after and after[0].text == ","
    does = bool(after) and after[0].pos == "VERB" and after[0].text.lower().endswith("ing")  # "a retriever lying"
    is_a_slip = (noun.pos == "ADV" or (noun.pos == "ADJ" and does)) and tag([name]) == ["NOUN"]
    return noun.pos in ("NOUN", "PROPN") or is_a_slip or bool(noun.pos == "ADJ" and in_a_list)


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
