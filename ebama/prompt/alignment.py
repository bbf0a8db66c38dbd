"""Which tokens stand for a stretch of a prompt: by character offsets, never by comparing spellings."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, zip_longest

from .tokenization import PromptError, Span, Tokenizer, tokenize

SEQUENCE = 77  # positions of CLIP's text encoder: start, 75 tokens, end
LONGEST = 10_000  # characters of a prompt
_SHOWN = 12
_SHOWN_OF_A_CUT_WORD = 20  # characters before the first that the encoder does not see
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LINK = "(?:['’]-|['’-])"  # "cat's", "t-shirt", "jack-o'-lantern"
WORD_OR_SIGN = re.compile(rf"\w+(?:{_LINK}\w+)*|\S")
NUMBER_SIGNS = "[\u2460-\u249b\u24eb-\u24ff\u2776-\u2793]"  # as "①": signs of a list or a note, and no part of a word
_SPACES = re.compile(rf"_|\\[nrt]|{NUMBER_SIGNS}")  # "long_hair", and a line break as programs write it
_INVISIBLE = "\xad\u200c\u200d\u2060"  # a hyphen for line breaks, joiners of letters
_PROCESSED = str.maketrans("’‐‑", "'--")
LABEL = re.compile(  # in which a line begins: "Background: a beach", "**Style:** oil"
    r"[*_ ]*(?:[A-Z]\w*(?:[ /&-]\w+){0,3}|[a-z]\w*(?:[ /&-]\w+)?) ?[*_]*:(?!\S*:|[\d)(DP])"
)
_LINE_OF_PROSE = 40  # characters
_NUMBERED = re.compile(r"(.+)#([1-9]\d{0,4})")


@dataclass(frozen=True)
class Alignment:
    """A prompt and the characters that each of its tokens covers.

    `prompt` is in composed characters (NFC) and single spaces; `spans` holds (start, end) for each token, token k of
    the prompt being position `first` + k of the sequence (0 is CLIP's start token, so its `first` is 1); `capacity` is
    how many tokens the encoder sees, None if it is known to see all.
    """

    prompt: str
    spans: tuple[Span, ...]
    first: int
    capacity: int | None

    @property
    def visible(self) -> tuple[Span, ...]:
        """The characters of the tokens that the encoder sees."""
        return self.spans[: self.capacity]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Positions of the tokens that the encoder sees."""
        return tuple(range(self.first, self.first + len(self.visible)))

    def positions(self, stretch: Span) -> tuple[int, ...]:
        """Positions of the tokens for a stretch of the prompt, those included that the encoder does not see."""
        return positions(self.spans, stretch, self.first)

    def sees(self, stretch: Span) -> bool:
        """Whether the encoder sees a stretch of the prompt to its end."""
        return stretch[1] <= self._seen

    @cached_property
    def _seen(self) -> int:
        """The characters from the prompt's beginning that the encoder sees whole: of one that is several tokens, as
        letters of many scripts are, it may see some."""
        end = self.visible[-1][1] if self.visible else 0
        return min([end, *(start for start, _ in self.spans[len(self.visible) :][:1])])

    def visible_positions(self, stretch: Span) -> tuple[int, ...]:
        """Positions of the tokens for a stretch of the prompt; a `PromptError` if the encoder does not see all of it,
        or if there are none."""
        text = self.prompt[slice(*stretch)]
        if not self.sees(stretch):
            raise PromptError(
                f"{text!r} lies beyond the {len(self.visible)} tokens that the text encoder sees of a prompt of "
                f"{len(self.spans)}: shorten the prompt, or give groups= of words that come earlier"
            )
        if not (tokens := self.positions(stretch)):
            raise PromptError(f"the tokenizer has no token for {text!r}: leave it out, or write it in other letters")
        return tokens

    def lost(self) -> str:
        """The words, wholly or partly, that the encoder does not see, as one line; empty if there are none."""
        seen = self._seen
        spans = [(max(start, seen - _SHOWN_OF_A_CUT_WORD), end) for start, end in word_spans(self.prompt) if end > seen]
        words = [self.prompt[slice(*span)] for span in spans]
        if not words and len(self.visible) < len(self.spans):
            words = self.prompt[seen:].split()  # signs alone
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        return " ".join(words[:_SHOWN]) + more


def positions(spans: Sequence[Span], stretch: Span, first: int) -> tuple[int, ...]:
    """Positions of the tokens that stand for a stretch of the prompt. `spans` are the characters of all tokens, in
    order; `first` is the position of the first of them."""
    low = bisect_right(spans, stretch[0], key=lambda span: span[1])
    high = bisect_left(spans, stretch[1], key=lambda span: span[0])
    return tuple(first + k for k in range(low, high) if spans[k][0] < spans[k][1])


def word_spans(prompt: str) -> list[Span]:
    """The words of a prompt, without punctuation; "t-shirt" and "cat's" are one word each, "long_hair" is two."""
    return [match.span() for match in matches(prompt) if match[0][0].isalnum()]


def matches(text: str, pattern: re.Pattern[str] = WORD_OR_SIGN) -> list[re.Match[str]]:
    """Where a pattern of words matches a text, with marks of letters as letters, and underscores as spaces."""
    return list(pattern.finditer(_in_letters(text)))


def is_mark(character: str) -> bool:
    """Whether a character is part of the letter before it, as vowels of Indian scripts are, or invisible in a word."""
    return character in _INVISIBLE or (unicodedata.category(character) in ("Mn", "Mc") and character != "\ufe0f")


def _in_letters(text: str) -> str:
    """A text as long as it was, in which each mark of a letter is a letter itself, and what stands for a space is one:
    words to regular expressions."""
    text = _SPACES.sub(lambda match: " " * len(match[0]), text)
    if text.isascii():
        return text
    letters: list[str] = []
    for character in text:
        marks = bool(letters) and letters[-1].isalnum() and is_mark(character)
        letters.append("x" if marks else character)
    return "".join(letters)


def listed_words(prompt: str) -> str:
    """The words of a prompt in a message, each once."""
    return ", ".join(dict.fromkeys(prompt[slice(*span)] for span in word_spans(prompt)))


def find_all(prompt: str, words: str) -> list[Span]:
    """Where a word, or several as they stand in the prompt, occur as whole words; upper and lower case count alike.

    "crown#2" is the second crown alone, unless the prompt itself says so.
    """
    words = normalised(words)
    spans = _whole(prompt, words)
    if not spans and (numbered := _NUMBERED.fullmatch(words)):
        number = int(numbered[2])
        spans = _whole(prompt, numbered[1])[number - 1 : number]
    return spans


def named(prompt: str, stretch: Span) -> str:
    """A stretch of the prompt as `find_all` finds it alone: its words, and "#1" or so where they recur."""
    words = prompt[slice(*stretch)]
    spans = _whole(prompt, words)
    return f"{words}#{spans.index(stretch) + 1}" if len(spans) > 1 and stretch in spans else words


def as_typed(text: str) -> str:
    """A text, as long as it was, as keyboards write it: word processors have other apostrophes and hyphens."""
    return text if text.isascii() else text.translate(_PROCESSED)


def _whole(prompt: str, words: str) -> list[Span]:
    prompt, words = as_typed(prompt), as_typed(words)
    if prompt.isascii() and words.lower() not in prompt.lower():
        return []  # at once, for most of many words
    letters, spans, after = f" {_in_letters(prompt)} ", [], 0
    for match in re.finditer(rf"(?=({re.escape(words)}))", prompt, re.IGNORECASE) if words else ():
        start, end = match.span(1)
        goes_on = any(letters[k].isalnum() and letters[k + 1].isalnum() for k in (start, end))
        if start >= after and not goes_on:
            spans.append((start, end))
            after = end
    return spans


def normalised(text: str) -> str:
    """A text in composed characters (NFC) and single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def as_normalised(text: str, span: Span) -> Span:
    """A stretch of a text in the `normalised` one."""
    end = len(normalised(text[: span[1]]))
    return max(end - len(normalised(text[slice(*span)])), 0), end


def with_line_breaks(text: str) -> str:
    """The `normalised` text, with a line break for the space after each line, or cell of a table, that is too short to
    be one of prose, or a list, and before each that begins with a label."""
    lines = [line for written in text.replace("\t", "\n").splitlines() if (line := normalised(written))]
    ends = (len(line) < _LINE_OF_PROSE or line.count(",") > 2 or LABEL.match(after) for line, after in pairwise(lines))
    joined = ["\n" if end else " " for end in ends]
    return "".join(map("".join, zip_longest(lines, joined, fillvalue="")))


def check_characters(text: str, name: str = "prompt") -> None:
    """Raise PromptError if a text, called `name` in the message, is far too long for any encoder, or holds a lone
    surrogate, which no tokenizer takes."""
    if len(text) > LONGEST:
        raise PromptError(f"the {name} has {len(text):,} characters: expected at most {LONGEST:,}")
    if (half := _SURROGATE.search(text)) is not None:
        raise PromptError(
            f"the {name} holds half a character ({half[0]!r}): it was cut or decoded wrongly; type it again, "
            "in a terminal without UTF-8 after setting PYTHONUTF8=1"
        )


def align(prompt: str, tokenizer: Tokenizer) -> Alignment:
    """Tokenize a prompt without cutting it, as it is written: to some tokenizers white space is a token.

    An empty prompt, one of more than `LONGEST` characters or one that is not a string is a `PromptError`.
    """
    if not isinstance(prompt, str):
        raise PromptError(f"a prompt is a string, got {type(prompt).__name__}: {prompt!r}")
    check_characters(prompt)
    written, prompt = prompt, normalised(prompt)
    tokens = tokenize(prompt, tokenizer)
    if prompt != written and (as_written := tokenize(written, tokenizer)).ids != tokens.ids:  # it keeps white space
        tokens = replace(as_written, spans=tuple(as_normalised(written, span) for span in as_written.spans))
    if not tokens.spans:
        raise PromptError(
            "the prompt is empty: describe what to draw, for example 'a purple crown and a blue suitcase'"
        )
    return Alignment(prompt, tokens.spans, tokens.first, tokens.capacity)
