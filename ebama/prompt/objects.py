"""From a dependency parse to objects, their modifiers and noun phrases, in one way for every parser.

The paper (section 3) takes as objects the nouns and proper nouns that are not direct modifiers of other nouns, and
groups the remaining modifiers by object. It names no dependency labels; the ones below are those of its published code,
used here without that code's accidents: every noun is looked at, relative clauses included, and the place in the tree
tells the object, never the place in a list. In "the dog is red" the object is the dog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from . import lexicon
from .tokenization import PromptError, Span

SIGNS = ("PUNCT", "SYM", "SPACE")  # parts of speech that name and describe nothing
MODIFIER = ("amod", "nmod", "compound", "npadvmod", "advmod", "acomp")
_COMPLEMENT = ("acomp", "oprd", "attr", "dobj")  # of a verb, when it is an adjective
_TO_A_PLACE = ("in", "on", "at", "to", "from", "toward", "towards", "near")
_DENYING = ("no", "not", "without")
_CLAD = ("dressed", "clad", "clothed")
_BESIDE = ("cc", "preconj", "conj", "punct")


@dataclass(frozen=True)
class ParsedWord:
    """A word of a parsed prompt.

    It spans the characters `start` to `end`; `pos` and `dep` are the part of speech and the dependency label as spaCy's
    English models name them; `head` is the index of its head among the words, its own at a root.
    """

    text: str
    start: int
    end: int
    pos: str
    dep: str
    head: int

    @property
    def span(self) -> Span:
        """Characters (start, end) of the word in the prompt."""
        return self.start, self.end


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


def depth(words: Sequence[ParsedWord], i: int) -> int:
    """How many heads lie above a word."""
    above = 0
    while words[i].head != i:
        i, above = words[i].head, above + 1
    return above


def checked(words: Sequence[object], text: str) -> list[ParsedWord]:
    """The words, if they are `ParsedWord`s of a text, in order, whose heads make trees; else a PromptError."""
    after, good = 0, []
    for word in words:
        if not isinstance(word, ParsedWord):
            raise PromptError(f"parser= holds {word!r}: expected a list of ebama.prompt.objects.ParsedWord")
        if not after <= word.start < word.end <= len(text) or not 0 <= word.head < len(words):
            raise PromptError(
                f"{word} is no word of {text!r}: expected characters after those of the word before, and a head among "
                f"the {len(words)} words"
            )
        after = word.end
        good.append(word)
    rooted: set[int] = set()
    for i in range(len(good)):
        path: set[int] = set()
        while i not in rooted and good[i].head != i:
            if i in path:
                raise PromptError(f"{good[i]} hangs on itself: expected heads that lead to a root, which is its own")
            path.add(i)
            i = good[i].head
        rooted |= path | {i}
    return good


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
    tree = _Tree(words)
    modifiers = {noun: tree.modifiers(noun) for noun in range(len(words)) if tree.is_noun(noun)}
    for verb, word in enumerate(words):
        if word.pos in ("AUX", "VERB") and (said := tree.said(verb)):
            for subject in tree.subjects(verb):
                modifiers[subject] |= said - {subject}
    serving = set().union(*modifiers.values())
    nouns = [noun for noun in modifiers if noun not in serving]
    return Structure(
        objects=tuple(
            (words[noun].span, tuple(words[i].span for i in sorted(modifiers[noun])))
            for noun in nouns
            if not tree.in_preposition(noun) and not tree.is_denied(noun)
        ),
        phrases=tree.phrases(nouns),
    )


class _Tree:
    """The words, and the indices of those that depend on each."""

    def __init__(self, words: Sequence[ParsedWord]) -> None:
        self._words = words
        self._children: list[list[int]] = [[] for _ in words]
        for i, word in enumerate(words):
            head = word.head
            while words[head].pos in SIGNS and words[head].head != head:
                head = words[head].head  # nothing hangs on a sign
            if head != i:
                self._children[head].append(i)

    def _below(self, i: int, *labels: str) -> list[int]:
        return [child for child in self._children[i] if self._words[child].dep in labels]

    def _reach(self, start: Iterable[int], below: Callable[[int], Iterable[int]]) -> set[int]:
        """`start` and all that is `below` them, at any depth."""
        reached: set[int] = set()
        stack = list(start)
        while stack:
            reached.add(i := stack.pop())
            stack += below(i)
        return reached

    def _all_below(self, start: Iterable[int]) -> set[int]:
        return self._reach(start, self._children.__getitem__)

    def is_noun(self, i: int) -> bool:
        word = self._words[i]
        if word.text.lower() in lexicon.NO_NOUNS or lexicon.DECADE.fullmatch(word.text):
            return False
        stands_for_one = word.pos in ("ADJ", "VERB") and word.dep not in MODIFIER and self._below(i, "det", "nummod")
        return word.pos in ("NOUN", "PROPN") or bool(stands_for_one)

    def _describes(self, i: int) -> bool:
        """Whether a word whose label is a modifier's can be one."""
        word = self._words[i]
        if word.pos in SIGNS:
            return False
        has_determiner = word.pos in ("NOUN", "PROPN") and self._below(i, "det")
        return not has_determiner and not (word.dep == "advmod" and self._below(i, "prep"))

    def modifiers(self, noun: int) -> set[int]:
        clad = [i for i in self._below(noun, "acl") if self._words[i].text.lower() in _CLAD]
        inside = [i for k in (noun, *clad) for i in self._below(k, "prep") if self._words[i].text.lower() == "in"]
        worn = [i for preposition in inside for i in self._below(preposition, "pobj") if self._is_plain_colour(i)]
        return self._described_by([*self._below(noun, *MODIFIER), *worn])

    def _is_plain_colour(self, i: int) -> bool:
        """Whether a word is a colour and nothing else, as in "a woman in red"."""
        return self._words[i].text.lower() in lexicon.PLAIN_COLOURS

    def _described_by(self, heads: Iterable[int]) -> set[int]:
        return self._reach(
            filter(self._describes, heads), lambda i: filter(self._describes, self._below(i, "conj", *MODIFIER))
        )

    def said(self, verb: int) -> set[int]:
        """The adjectives, with their own modifiers, that a verb says of its subject."""
        complements = self._below(verb, *_COMPLEMENT)
        adjectives = [i for i in complements if self._says_how(i)]
        said = self._described_by(adjectives)
        if self._below(verb, "auxpass") and not self._below(verb, "prep", "agent", "oprd"):
            said.add(verb)  # a participle in the adjective's place: "the bowl is checkered"
        return said

    def _says_how(self, i: int) -> bool:
        """Whether a verb's complement is an adjective, or a colour that is tagged as a noun: "is silver". That of "is
        next to" begins a place."""
        word = self._words[i]
        if (word.text.lower(), self._after(i)) in lexicon.COMPOUND_PREPOSITIONS:
            return False
        colour = word.dep == "attr" and word.text.lower() in lexicon.COLOURS and not self._below(i, "det")
        return word.dep == "acomp" or word.pos == "ADJ" or colour

    def subjects(self, verb: int) -> list[int]:
        """The nouns a verb speaks of: its subjects, or the noun its clause belongs to, or those of the verb before."""
        while True:
            word, subjects = self._words[verb], self._below(verb, "nsubj", "nsubjpass")
            coordinated = self._reach(filter(self.is_noun, subjects), lambda i: self._below(i, "conj"))
            if nouns := [i for i in coordinated if self.is_noun(i)]:
                return nouns
            if word.dep in ("relcl", "acl"):
                return [word.head] if self.is_noun(word.head) else []
            if word.dep not in ("conj", "xcomp") or word.head == verb or subjects:
                return []
            verb = word.head

    def in_preposition(self, noun: int) -> bool:
        """Whether a noun is the place in "in front of", "on the right side of", "at the top", "in the lower left
        corner" or "left: a dog", or the picture in "on the left of the picture"."""
        before = tuple(word.text.lower() for word in self._words[max(noun - 3, 0) : noun])
        if before[1:] == ("of", "the") and before[0] in lexicon.PARTS - {"front", "back"}:
            return self._words[noun].text.lower() in lexicon.PICTURES
        word, after = self._words[noun], self._after(noun)
        name, head = word.text.lower(), self._words[word.head].text.lower()
        if name in lexicon.PLACES and (after == ":" or (word.dep == "pobj" and after == "of")):
            return True
        described = {self._words[i].text.lower() for i in self._all_below([noun]) if i < noun} - {"the"}
        is_place = name in lexicon.PLACES or (name in lexicon.PARTS and bool(described))
        return is_place and word.dep == "pobj" and head in _TO_A_PLACE and described <= lexicon.SIDES

    def is_denied(self, noun: int) -> bool:
        """Whether a noun is one of "no cars", "without any cars", "not a car", or the second of "no cars or people"."""
        first = min(self._all_below([noun]))
        *before, _ = (word.text.lower() for word in self._words[max(first - 1, 0) : noun + 1])
        if before and before[0] in ("or", "nor") and self._words[noun].dep == "conj":
            return self.is_denied(self._words[noun].head)
        return any(word in _DENYING for word in before) and "only" not in before

    def _after(self, i: int) -> str:
        return self._words[i + 1].text.lower() if i + 1 < len(self._words) else ""

    def phrases(self, nouns: Sequence[int]) -> tuple[Span, ...]:
        """Noun phrases at every depth, nested as in a constituency parse.

        For each noun: the phrase up to it ("a dog"), with what follows it ("a dog with a red hat"), and, for the first
        of coordinated nouns, with the others ("a dog and a cat").
        """
        spans = set()
        for noun in nouns:
            whole = self._all_below([noun])
            beside = self._all_below(self._below(noun, *_BESIDE))
            ends = [noun, max(whole - beside)] + ([] if self._words[noun].dep == "conj" else [max(whole)])
            for last in ends:
                while self._words[last].pos in ("CCONJ", *SIGNS):
                    last -= 1
                if last > min(whole):
                    spans.add((self._words[min(whole)].start, self._words[last].end))
        return tuple(sorted(spans, key=lambda span: (span[0], -span[1])))
