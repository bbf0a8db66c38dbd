"""From a dependency parse to objects, their modifiers and noun phrases, in one way for every parser.

The paper (section 3) takes as objects the nouns and proper nouns that are not direct modifiers of other nouns, and
groups the remaining modifiers by object. It names no dependency labels; the ones below are those of its published code,
used here without that code's accidents: every noun is looked at, relative clauses included, and the place in the tree
tells the object, never the place in a list. In "the dog is red" the object is the dog.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..tokenization import Span
from .parsed_word import ParsedWord
from .tree import Tree

Object = tuple[Span, Sequence[Span]]
"""Characters of an object and of each of its modifiers."""


@dataclass(frozen=True)
class Structure:
    """Objects, modifiers and noun phrases of a prompt, in characters (start, end) of it.

    `objects`: each object with its modifiers, both in sentence order. `phrases`: noun phrases of two words or more, by
    where they begin, outer before inner.
    """

    objects: tuple[Object, ...]
    phrases: tuple[Span, ...]


def find_structure(words: Sequence[ParsedWord]) -> Structure:
    """Find objects, modifiers and noun phrases in a dependency parse.

    Modifiers of an object are the words below it by `MODIFIER` labels, at any depth, with those joined to them by "and"
    ("red and blue"), and the adjectives that a verb says of it ("is red", "painted blue"), in a sentence or a relative
    clause. Coordinated subjects share them ("the dog and the cat are black").

    Choices beyond the paper's rule: a noun with a determiner of its own modifies nothing, whatever its label, nor does
    an adverb that begins a place ("next to a bench"); a colour that somebody is in modifies ("a woman in red"); an
    adjective with a determiner or number of its own is a noun ("three geese" to some taggers); the nouns of "in
    front of" and "to the left of" name no object; and what a prompt denies ("no people", "without a hat") is no
    object.
    """
    tree = Tree(words)
    modifiers = tree.modifiers()
    for verb, word in enumerate(words):
        if word.pos in ("AUX", "VERB") and (said := tree.said(verb)):
            for subject in tree.subjects(verb):
                modifiers[subject] |= said - {subject}
    serving = set().union(*modifiers.values())
    nouns = sorted(modifiers.keys() - serving)
    return Structure(
        objects=tuple(
            (words[noun].span, tuple(words[i].span for i in sorted(modifiers[noun])))
            for noun in nouns
            if not tree.in_preposition(noun) and not tree.is_denied(noun)
        ),
        phrases=tree.phrases(nouns),
    )
