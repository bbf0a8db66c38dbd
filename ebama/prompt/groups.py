"""From a prompt to groups: which positions of the text sequence are objects, and which modify which object.

`parse` reads a prompt with a dependency parser; `groups_from_words` takes the groups from the user instead. Both
answer in positions of the text encoder's sequence: CLIP's start token is 0 and the prompt's tokens are 1 to T; T5 has
no start token, and its first is 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from ..boxes import Box
from ..checks import plain_all
from .alignment import Alignment, align, positions, with_line_breaks
from .given_words import Words, assign
from .ignored import without
from .lexicon import PICTURE_WORDS
from .objects import Object, find_structure
from .parsers import Parser, analyse
from .phrases import joined
from .tokenization import PromptError, Span, Tokenizer


@dataclass(frozen=True)
class Group:
    """An object and its modifiers as positions of tokens in the encoder's sequence: `Group((3,), ((2,),))`.

    A word of several tokens has several positions. Nothing may occur twice. (`parse` checks that they are positions of
    the prompt's tokens, which of CLIP's sequence are 1 to 75 at most.) `box` is where the object should be, for methods
    that read boxes.
    """

    object: tuple[int, ...]
    modifiers: tuple[tuple[int, ...], ...] = ()
    box: Box | None = None

    def __post_init__(self) -> None:
        if isinstance(self.object, tuple) and isinstance(self.modifiers, tuple):
            object.__setattr__(self, "object", plain_all(self.object))
            object.__setattr__(self, "modifiers", plain_all(self.modifiers))
        words = (self.object, *self.modifiers) if isinstance(self.modifiers, tuple) else ()
        positions = [position for word in words if isinstance(word, tuple) for position in word]
        if not words or not all(isinstance(word, tuple) and word for word in words):
            raise ValueError(
                f"Group({self.object!r}, {self.modifiers!r}): expected positions as Group((3,), ((2,),)), no word empty"
            )
        for position in positions:
            if type(position) is not int or position < 0:
                raise ValueError(
                    f"Group({self.object!r}, {self.modifiers!r}): {position!r} is no position, a whole number from 0"
                )
        if len(set(positions)) < len(positions):
            raise ValueError(f"Group({self.object!r}, {self.modifiers!r}): a position occurs twice")
        if self.box is not None:
            object.__setattr__(self, "box", Box.of(self.box))


@dataclass(frozen=True)
class Parsed:
    """A prompt in positions of the text sequence.

    `groups` come in sentence order; `tokens` are the positions of all tokens that the encoder sees, without start, end
    and padding; `phrases` are its noun phrases of two words or more at every depth, as (first, last + 1, text), outer
    before inner (those that the encoder does not see are left out). `prompt` is the text with single spaces, `spans`
    the characters (start, end) of it that each of `tokens` stands for.
    """

    groups: tuple[Group, ...]
    tokens: tuple[int, ...]
    phrases: tuple[tuple[int, int, str], ...]
    parser_name: str
    prompt: str
    spans: tuple[tuple[int, int], ...]

    def text(self, *positions: int) -> str:
        """The prompt from the first to the last of some positions: "spiky" for those of "spi" and "ky"."""
        return self.prompt[slice(*self.stretch(*positions))]

    def stretch(self, *positions: int) -> Span:
        """The characters (start, end) of the prompt from the first to the last of some positions."""
        first = self.tokens[0]
        return self.spans[min(positions) - first][0], self.spans[max(positions) - first][1]

    def positions(self, stretch: Span) -> tuple[int, ...]:
        """Positions of the tokens for the characters (start, end) of the prompt; none for those that are not seen."""
        return positions(self.spans, stretch, self.tokens[0]) if self.spans else ()

    def sees(self, stretch: Span) -> bool:
        """Whether the encoder sees a stretch of the prompt to its end."""
        return bool(self.spans) and stretch[1] <= self.spans[-1][1]

    def _repr_html_(self) -> str:
        """In a notebook: the prompt, its words underlined by group."""
        from .words import underlined

        return underlined(self)


def parse(
    prompt: str,
    tokenizer: Tokenizer,
    parser: Parser = "auto",
    *,
    groups: Sequence[Group | Words] | None = None,
    ignore: Collection[str] = PICTURE_WORDS,
    separator: str | None = None,
) -> Parsed:
    """Read a prompt: its groups, its tokens and its noun phrases.

    Objects are the nouns and proper nouns that modify no other noun (paper, section 3); `objects.find_structure`
    says what counts as a modifier. `parser` is "auto" (the best that is installed), "rules" (built in), the name of
    an installed spaCy model, a spaCy `Language`, the `Doc` of this prompt as you have it, with its spaces, or a
    list of its words (`objects.ParsedWord`). A list of noun phrases, and words for the picture that stand between
    commas, are read by the built-in rules, whatever the parser of the sentences. Given `groups` (positions, words,
    or none at all), they stand in for the parsed ones.

    A noun that stands in one of the words or phrases to `ignore` is no object, unless there is no other. The default,
    `lexicon.PICTURE_WORDS`, has those for the picture itself ("photo of", "digital art", "4k"), for whoever sees it
    ("looking at viewer") and for amounts ("a lot of"); () ignores none. One that ends with a comma is ignored where it
    is a phrase of its own ("photo," in "photo, a cat"), one that ends with a colon where it is a label ("mood:"), one
    with a comma before it where it begins a phrase, one with a stop before it where it begins a sentence, and one that
    ends with dots together with the rest of its phrase: "art by...". One that begins with dots is ignored with the
    words that describe it as well: "...view," in "a cat, front view".

    Raises `PromptError` for an empty prompt or one of more than `alignment.LONGEST` characters, a prompt without a
    noun, an unknown parser, and a group that lies wholly or partly beyond what the text encoder sees (75 tokens of
    CLIP's 77). Other words beyond that get a warning; what stands between `separator`s is counted on its own.
    """
    _check_texts(ignore, separator)
    alignment = align(prompt, tokenizer)
    parts = alignment.prompt.split(separator) if separator else [alignment.prompt]
    for part in [align(part, tokenizer) for part in parts if part.strip()] if len(parts) > 1 else [alignment]:
        if lost := part.lost():
            warnings.warn(
                f"the text encoder sees {len(part.tokens)} of this prompt's {len(part.spans)} tokens; it does not see: "
                f"{lost}",
                stacklevel=2,
            )
    words, name = analyse(alignment.prompt, parser, prompt)
    structure = find_structure(joined(words, alignment))
    if groups is not None:
        chosen = _given(groups, alignment)
    elif structure.objects:
        chosen = _groups(without(ignore, structure.objects, with_line_breaks(prompt)) or structure.objects, alignment)
    else:
        raise PromptError(
            f"no noun found in {alignment.prompt!r} (parser: {name}): name the objects and their modifiers yourself, "
            'as in groups=[("crown", ["purple"])]'
        )
    phrases = [
        (alignment.positions(span), alignment.prompt[slice(*span)])
        for span in structure.phrases
        if alignment.sees(span)
    ]
    return Parsed(
        groups=chosen,
        tokens=alignment.tokens,
        phrases=tuple((at[0], at[-1] + 1, text) for at, text in phrases if at),
        parser_name=name,
        prompt=alignment.prompt,
        spans=alignment.visible,
    )


def groups_from_words(prompt: str, words: Sequence[Words], tokenizer: Tokenizer) -> list[Group]:
    """Groups from words: `[("crown", ["purple"]), ("suitcase", ["blue"])]`, each an object and its modifiers.

    Upper and lower case count alike; several words ("company logo") may stand where one does. Of words that recur,
    the ones that stand together are taken (see `given_words.assign`). Groups keep the order given. Raises
    `PromptError` for a word that is not in the prompt, or is asked for more often than it is there, or fell off the
    end.
    """
    return list(_given(words, align(prompt, tokenizer)))


def _check_texts(ignore: Collection[str], separator: str | None) -> None:
    listed = isinstance(ignore, Collection) and not isinstance(ignore, str)
    if not listed or not all(isinstance(words, str) for words in ignore):
        raise PromptError(f"ignore={ignore!r}: expected a list of words, as ['photo']")
    if not isinstance(separator, str | None):
        raise PromptError(f"separator={separator!r}: expected a text, or None")


def _groups(objects: Iterable[Object], alignment: Alignment) -> tuple[Group, ...]:
    return tuple(_group(noun, modifiers, alignment) for noun, modifiers in objects)


def _group(noun: Span, modifiers: Sequence[Span], alignment: Alignment) -> Group:
    at = {span: alignment.visible_positions(span) for span in (noun, *modifiers)}
    for first, second in combinations(at, 2):
        if shared := set(at[first]) & set(at[second]):
            words = " and ".join(repr(alignment.prompt[slice(*span)]) for span in (first, second))
            raise PromptError(f"{words} share the token at position {min(shared)}: give them as one word")
    return Group(at[noun], tuple(at[span] for span in modifiers))


def _given(groups: Sequence[Group | Words], alignment: Alignment) -> tuple[Group, ...]:
    if not isinstance(groups, Sequence) or isinstance(groups, str):
        raise PromptError(f"groups={groups!r}: expected a list, as [('crown', ['purple'])]")
    words = [group for group in groups if not isinstance(group, Group)]
    assigned = iter(_groups(assign(alignment.prompt, words), alignment))
    given = tuple(group if isinstance(group, Group) else next(assigned) for group in groups)
    for group in given:
        at = {position for word in (group.object, *group.modifiers) for position in word}
        if not at <= set(alignment.tokens):
            raise PromptError(
                f"{group} lies beyond the prompt {alignment.prompt!r}, whose first position is {alignment.first} and "
                f"whose last position is {alignment.first + len(alignment.tokens) - 1}"
            )
    return given
