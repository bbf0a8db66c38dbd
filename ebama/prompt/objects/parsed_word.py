"""The words that every parser answers with: parts of speech, labels and heads, which make trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...checks import is_whole
from ..tokenization import PromptError, Span

SIGNS = ("PUNCT", "SYM", "SPACE")  # parts of speech that name and describe nothing
MODIFIER = ("amod", "nmod", "compound", "npadvmod", "advmod", "acomp")


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


def depth(words: Sequence[ParsedWord], i: int) -> int:
    """How many heads lie above a word."""
    above = 0
    while words[i].head != i:
        i, above = words[i].head, above + 1
    return above


def _is_plain(word: ParsedWord) -> bool:
    texts, numbers = (word.text, word.pos, word.dep), (word.start, word.end, word.head)
    return all(isinstance(text, str) for text in texts) and all(map(is_whole, numbers))


def checked(words: Sequence[object], text: str) -> list[ParsedWord]:
    """The words, if they are `ParsedWord`s of a text, in order, whose heads make trees; else a PromptError."""
    after, good = 0, []
    for word in words:
        if not isinstance(word, ParsedWord) or not _is_plain(word):
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
