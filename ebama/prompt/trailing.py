"""Adjectives that stand after their noun as no sentence has them: "a cat (black)", "ball: red, cube: blue".

Parsers take them for objects, or lose the rest of the prompt over them. So they are taken out of the text, and hung on
their nouns in what the parser makes of the rest. In "two dogs, one black and one white" the nouns of the adjectives are
no words of the prompt: they modify nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from . import lexicon
from .alignment import matches
from .markup import without_markup
from .objects import MODIFIER, ParsedWord
from .rules.tagging import tag
from .tokenization import Span

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_COLONS = frozenset(":=-–—")
_JOINTS = frozenset({",", "and", "or", "&"})
_ENDS = _JOINTS | frozenset(";.|!?)]}-–—")
_THINGS = lexicon.COLOURED_THINGS | lexicon.NOUNS_TOO
_OTHERS = frozenset({"one", "another", "other", "others", "some", "first", "second", "third", "rest"})
_BEFORE_ONE = lexicon.DETERMINERS - _OTHERS
_COUNTED = _OTHERS | lexicon.NUMBERS
_NEAR = 4  # words that tell what the next one is
_Ends = Callable[[int], bool]


@dataclass(frozen=True)
class Trailing:
    """Adjectives after their noun: the stretch that they take with their signs, the characters of each of them, and
    where the noun ends (None: it is no word of the prompt)."""

    stretch: Span
    adjectives: tuple[Span, ...] = ()
    noun_end: int | None = None


def take_out(prompt: str) -> tuple[str, list[Trailing]]:
    """The prompt, as long as it was, without what only programs read and the adjectives that trail their nouns; and
    those."""
    prompt = without_markup(prompt)
    taken = _Scan(prompt).find()
    for trailing in taken:
        start, end = trailing.stretch
        prompt = prompt[:start] + " " * (end - start) + prompt[end:]
    return prompt, taken


def put_back(words: Sequence[ParsedWord], taken: Sequence[Trailing], prompt: str) -> list[ParsedWord]:
    """The words of a prompt, and the adjectives that were taken out of it as modifiers of their nouns, which are nouns
    and modify nothing, whatever the parser took them for: "watch: red, saw: blue"."""
    nouns = {word.end: i for i, word in enumerate(words)}
    adjectives = [
        (span, nouns[trailing.noun_end])
        for trailing in taken
        for span in trailing.adjectives
        if trailing.noun_end in nouns
    ]
    starts = sorted([word.start for word in words] + [start for (start, _), _ in adjectives])
    index = {start: i for i, start in enumerate(starts)}
    result = [replace(word, head=index[words[word.head].start]) for word in words]
    for i in {noun for _, noun in adjectives}:
        result[i] = replace(result[i], pos="NOUN", dep="appos" if result[i].dep in MODIFIER else result[i].dep)
    for (start, end), noun in adjectives:
        result.append(ParsedWord(prompt[start:end], start, end, "ADJ", "amod", index[words[noun].start]))
    return sorted(result, key=lambda word: word.start)


class _Scan:
    """The words and signs of a prompt, from left to right."""

    def __init__(self, prompt: str) -> None:
        tokens = matches(prompt)
        self._spans = [match.span() for match in tokens]
        self._words = [match[0].lower() for match in tokens]
        self._tags = tag(self._words)
        self._first_noun = next((i for i, name in enumerate(self._tags) if name == "NOUN"), len(self._tags))
        alone = {word: tag([word])[0] for word in set(self._words)}
        self._alone = [alone[word] for word in self._words]

    def find(self) -> list[Trailing]:
        taken, i = [], 0
        while i < len(self._words):
            for look in (self._in_brackets, self._after_a_colon, self._bare, self._aside, self._of_others):
                if answer := look(i):
                    trailing, i = answer
                    taken.append(trailing)
                    break
            else:
                i += 1
        return taken

    def _in_brackets(self, i: int) -> tuple[Trailing, int] | None:
        """Adjectives in brackets after a noun, unless it goes on: "car (black)", "big car (black) old cat"."""
        if self._words[i] not in _CLOSING or not self._is_noun(i - 1):
            return None
        first = next(j for j in count(i) if self._at(j) != self._words[i])
        closing = [_CLOSING[self._words[i]]] * (first - i)  # "((black))" too
        end, adjectives = self._adjectives(first, lambda j: self._words[j : j + len(closing)] == closing)
        end += len(closing)
        before, after = self._words[:i][-_NEAR:], self._words[end : end + _NEAR]
        begins = self._alone[i - 2 : i - 1] == ["ADJ"] and self._at(end) in lexicon.PLAIN_ADJECTIVES
        if not adjectives or (after and not begins and tag([*before, *after])[len(before)] in ("NOUN", "ADJ")):
            return None
        return self._trailing(i, end, adjectives), end

    def _after_a_colon(self, i: int) -> tuple[Trailing, int] | None:
        """Adjectives after a noun and a colon, unless a noun follows: "ball: red", not "left: red ball". After a comma
        they are colours: what else stands there, as "cinematic", is said of the picture."""
        if not (self._words[i] in _COLONS or self._words[i] == ",") or not self._is_noun(i - 1):
            return None
        first = i + 1 + (self._at(i + 1) in ("both", "all"))  # "two dogs, both black"
        end, adjectives = self._adjectives(first, self._is_end)
        others = set(self._words[first:end]) - _JOINTS - lexicon.PLAIN_COLOURS
        if not adjectives or (self._words[i] == "," and (others or self._goes_on(end))):
            return None
        return self._trailing(i, end, adjectives), end

    def _bare(self, i: int) -> tuple[Trailing, int] | None:
        """Colours after a noun without any sign, at the end of their phrase: "car red, bowl blue"; or adjectives with
        "and" between them: "the bowl shiny and new"."""
        if not self._is_noun(i - 1) or not self._words[i - 1].isalpha():
            return None  # "isn't red"
        end, adjectives = self._adjectives(i, self._is_end)
        colours = lexicon.PLAIN_ADJECTIVES if "and" in self._words[i:end] else lexicon.PLAIN_COLOURS
        is_shade = f"{self._words[i - 1]}-{self._words[i]}" in lexicon.SHADES
        if not adjectives or is_shade or self._goes_on(end) or set(self._words[i:end]) - _JOINTS - colours:
            return None
        return self._trailing(i, end, adjectives), end

    def _aside(self, i: int) -> tuple[Trailing, int] | None:
        """Where a thing stands or how old somebody is, at the end of their phrase: "red car left", "a man, 30 years
        old, brown hair". No word of it is a thing or describes the next one."""
        end = i + 1 if self._at(i) in ("left", "right") and self._is_noun(i - 1) else i
        first = i + (self._at(i) == ",")
        if self._tags[first : first + 1] == ["NUM"] and self._words[first + 1 : first + 3] in (
            ["years", "old"],
            ["year", "old"],
        ):
            end = first + 3
        if end == i or not (self._is_end(end) or self._tags[end] == "ADP"):
            return None
        return Trailing((self._spans[i][0], self._spans[end - 1][1])), end

    def _goes_on(self, i: int) -> bool:
        """Whether the adjectives before word `i` and more after it are the next noun's: "car, blue and green bowl"."""
        after = self._run(i + 1)
        return self._at(i) in _JOINTS - {","} and after > i + 1 and not self._is_end(after)

    def _of_others(self, i: int) -> tuple[Trailing, int] | None:
        """What is said of one and of another: "one black and the other white", "a black one and a white one"."""
        if i <= self._first_noun:  # "three plump, speckled hens"
            return None
        end, are_all_things = i, True
        j = i
        while (after := self._of_another(j)) > j:
            last = next(word for word in self._words[j:after][::-1] if word not in _OTHERS | {"ones"})
            are_all_things &= last in _THINGS
            end = j = after
            while self._at(j) in _JOINTS | {";"}:
                j += 1
        if end == i or are_all_things:
            return None
        return Trailing((self._spans[i][0], self._spans[end - 1][1])), end

    def _of_another(self, i: int) -> int:
        """The index after "one [is] black", "the other white" or "a black one" at `i`; `i` if there is none."""
        first = i + (self._at(i) in _BEFORE_ONE)
        j = self._run(first)
        if j > first and self._at(j) in ("one", "ones"):
            return j + 1
        j = first
        while self._at(j) in _COUNTED:
            j += 1
        if j == first:
            return i
        end, _ = self._adjectives(j + (self._at(j) in ("is", "are")), self._is_end)
        return end if end > j else i

    def _run(self, i: int) -> int:
        while i < len(self._alone) and self._alone[i] in ("ADJ", "ADV"):
            i += 1
        return i

    def _adjectives(self, i: int, is_end: _Ends) -> tuple[int, tuple[Span, ...]]:
        """The index after the longest list of adjectives at `i` that ends where `is_end` says, and their characters."""
        best: tuple[int, tuple[Span, ...]] = i, ()
        spans: list[Span] = []
        while (end := self._run(i)) > i:
            spans += self._spans[i:end]
            if self._alone[end - 1] == "ADJ" and is_end(end):
                best = end, tuple(spans)
            i = end
            while self._at(i) in _JOINTS:
                i += 1
        return best

    def _trailing(self, start: int, end: int, adjectives: tuple[Span, ...]) -> Trailing:
        return Trailing((self._spans[start][0], self._spans[end - 1][1]), adjectives, self._spans[start - 1][1])

    def _at(self, i: int) -> str:
        return self._words[i] if i < len(self._words) else ""

    def _is_end(self, i: int) -> bool:
        return i >= len(self._words) or self._words[i] in _ENDS

    def _is_noun(self, i: int) -> bool:
        if i > 0 and self._words[i] in lexicon.COLOURED_THINGS and self._tags[i - 1] == "DET":
            return True  # "an orange (ripe)"
        return i >= 0 and self._tags[i] == "NOUN" and self._words[i] not in lexicon.FUNCTION_WORDS
