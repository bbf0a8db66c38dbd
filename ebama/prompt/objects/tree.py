"""What the words of a prompt say of each other: which describe a noun, which a verb says of it, what is denied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from .. import lexicon
from ..tokenization import Span
from .parsed_word import MODIFIER, SIGNS, ParsedWord

_COMPLEMENT = ("acomp", "oprd", "attr", "dobj")  # of a verb, when it is an adjective
_TO_A_PLACE = ("in", "on", "at", "to", "from", "toward", "towards", "near")
_DENYING = ("no", "not", "without")
_BEGINNING = lexicon.NUMBERS | lexicon.DETERMINERS - lexicon.RELATIVES
_CLAD = ("dressed", "clad", "clothed")
_BESIDE = ("cc", "preconj", "conj", "punct")


class Tree:
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

    @cached_property
    def _heads_first(self) -> list[int]:
        """The words, each before what depends on it."""
        order = sorted(set(range(len(self._words))) - {child for children in self._children for child in children})
        for i in order:  # it grows meanwhile
            order += self._children[i]
        return order

    @cached_property
    def _extents(self) -> list[tuple[int, int]]:
        """Of each word: the first and the last of itself and all that depends on it."""
        extents = [(i, i) for i in range(len(self._words))]
        for i in reversed(self._heads_first):
            extents[i] = self._extent(i, self._children[i], extents)
        return extents

    @staticmethod
    def _extent(i: int, children: Iterable[int], extents: Sequence[tuple[int, int]]) -> tuple[int, int]:
        firsts, lasts = zip((i, i), *(extents[child] for child in children), strict=True)
        return min(firsts), max(lasts)

    def is_noun(self, i: int) -> bool:
        """Whether a word names a thing, or stands for one."""
        word = self._words[i]
        name = word.text.lower()
        if name in lexicon.NO_NOUNS or lexicon.DECADE.fullmatch(word.text):
            return False
        if name == "one" and self._after(i) == "another":
            return False
        stands_for_one = word.pos in ("ADJ", "VERB") and word.dep not in MODIFIER and self._below(i, "det", "nummod")
        return word.pos in ("NOUN", "PROPN") or bool(stands_for_one)

    def _describes(self, i: int) -> bool:
        """Whether a word whose label is a modifier's can be one."""
        word = self._words[i]
        if word.pos in SIGNS or word.text.lower() in lexicon.NO_MODIFIERS:
            return False
        has_determiner = word.pos in ("NOUN", "PROPN") and self._below(i, "det")
        return not has_determiner and not (word.dep == "advmod" and self._below(i, "prep"))

    def modifiers(self) -> dict[int, set[int]]:
        """Of each noun, heads first: the words that describe it in its own phrase, and a colour that somebody is in. Of
        those that describe another noun, the latter alone: what describes them describes the other."""
        modifiers: dict[int, set[int]] = {}
        describing: set[int] = set()
        for noun in filter(self.is_noun, self._heads_first):
            own = [] if noun in describing else self._below(noun, *MODIFIER)
            modifiers[noun] = self._described_by([*own, *self._worn(noun)])
            describing |= modifiers[noun]
        return modifiers

    def _worn(self, noun: int) -> list[int]:
        clad = [i for i in self._below(noun, "acl") if self._words[i].text.lower() in _CLAD]
        inside = [i for k in (noun, *clad) for i in self._below(k, "prep") if self._words[i].text.lower() == "in"]
        return [
            i for preposition in inside for i in self._below(preposition, "pobj", "amod") if self._is_plain_colour(i)
        ]

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
        names_a_thing = word.dep == "dobj" and bool(self._below(i, "det"))  # "captures a retriever", known or not
        return word.dep == "acomp" or (word.pos == "ADJ" and not names_a_thing) or colour

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
        if name not in lexicon.PARTS or word.dep != "pobj" or head not in _TO_A_PLACE:
            return False
        below = self._reach([noun], self._children.__getitem__)
        described = {self._words[i].text.lower() for i in below if i < noun} - {"the"}
        return described <= lexicon.SIDES and (name in lexicon.PLACES or bool(described))

    def is_denied(self, noun: int) -> bool:
        """Whether a noun is one of "no cars", "without any cars", "not a car", or the second of "no cars or people".

        After a determiner or number an adjective is denied: "a not so happy clown".
        """
        while self._is_another(noun):
            noun = self._words[noun].head
        first = max(self._extents[noun][0] - 1, 0)
        before = [word.text.lower() for word in self._words[first:noun]]
        denying = [i for i, word in enumerate(before, first) if word in _DENYING]
        return "only" not in before and not all(self._before(i) in _BEGINNING for i in denying)

    def _is_another(self, noun: int) -> bool:
        """Whether a noun with what describes it follows another and "or"."""
        word, before = self._words[noun], max(self._extents[noun][0] - 1, 0)
        return word.dep == "conj" and before < noun != word.head and self._words[before].text.lower() in ("or", "nor")

    def _before(self, i: int) -> str:
        return self._words[i - 1].text.lower() if i else ""

    def _after(self, i: int) -> str:
        return self._words[i + 1].text.lower() if i + 1 < len(self._words) else ""

    def phrases(self, nouns: Sequence[int]) -> tuple[Span, ...]:
        """Noun phrases at every depth, nested as in a constituency parse.

        For each noun: the phrase up to it ("a dog"), with what follows it ("a dog with a red hat"), and, for the first
        of coordinated nouns, with the others ("a dog and a cat").
        """
        spans = set()
        for noun in nouns:
            first, end = self._extents[noun]
            alone = [child for child in self._children[noun] if self._words[child].dep not in _BESIDE]
            own = self._extent(noun, alone, self._extents)[1]
            for last in [noun, own] + ([] if self._words[noun].dep == "conj" else [end]):
                while self._words[last].pos in ("CCONJ", *SIGNS):
                    last -= 1
                if last > first:
                    spans.add((self._words[first].start, self._words[last].end))
        return tuple(sorted(spans, key=lambda span: (span[0], -span[1])))
