"""A small rule-based dependency parser for prompts: no model, no data, no spaCy.

After tagging it reads left to right:

    noun phrase   [determiner | number]* [adverb* adjective [and | , ]]* noun+, its head last
    after it      preposition + noun phrase | and + noun phrase | participle ... | [that | which | who] verb ...
    verb          adjectives (said of its subject) | noun phrase (its object)

Its words carry spaCy's labels, so that `objects` treats both alike. It is meant for prompts, not for prose.
"""

from __future__ import annotations

import re

from .. import lexicon
from ..alignment import matches
from ..objects import ParsedWord
from .tagging import tag

_ABBREVIATION = r"(?:[^\W\d_]\.){2,}|(?:dr|mr|mrs|ms|prof|st)\.(?= )|[^\W\d_]{1,2}&[^\W\d_]{1,2}\b"  # "r&b"
_WORD = re.compile(
    rf"['’](?:s|re|ve|ll|m|d)\b|[^\W_]+n['’]t\b|[^\W_]+['’]n['’][^\W_]+|{_ABBREVIATION}|[^\W_]+(?:['’]?-[^\W_]+)*|\S",
    re.IGNORECASE,
)


def analyse(prompt: str) -> list[ParsedWord]:
    """The words of a prompt with parts of speech, labels and heads."""
    words = matches(prompt, _WORD)
    parser = _RuleParser(_without_contractions([match.group().lower().replace("’", "'") for match in words]))
    return [
        ParsedWord(prompt[slice(*match.span())], *match.span(), parser.tags[i], parser.labels[i], parser.heads[i])
        for i, match in enumerate(words)
    ]


def _without_contractions(words: list[str]) -> list[str]:
    """Each contracted verb as the verb alone: "isn't" as "is", and "that's" as "that" and "is"."""
    plain = [lexicon.CONTRACTIONS.get(word, word.removesuffix("n't") or word) for word in words]
    for i in range(1, len(words)):
        if words[i] == "'s" and words[i - 1] in lexicon.SUBJECTS:
            plain[i] = "is"
    return plain


class _RuleParser:
    """Tags, labels and heads of a prompt's words. A word that is its own head is a root."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.tags = tag(words)
        self.labels = ["ROOT"] * len(words)
        self.heads = list(range(len(words)))
        self._noun = -1  # head of the last noun phrase
        self._verb = -1  # the last verb
        self._link = -1  # a preposition, conjunction or 's that waits for its noun phrase
        self._read()

    def _read(self) -> None:
        i = 0
        while i < len(self.words):
            if (end := self._complement(i)) > i:
                i = end
            elif (end := self._noun_phrase(i)) > i:
                self._attach_noun(end - 1)
                i = end
            else:
                self._attach_word(i)
                i += 1

    def _attach(self, i: int, label: str, head: int) -> None:
        self.labels[i], self.heads[i] = label, head

    def _tag_at(self, i: int) -> str:
        return self.tags[i] if i < len(self.tags) else "END"

    def _skip(self, i: int, *tags: str) -> int:
        while self._tag_at(i) in tags:
            i += 1
        return i

    def _joint(self, i: int) -> int:
        """The index after "and", "," or ", and" at `i`."""
        while i < len(self.words) and (self.tags[i] == "CCONJ" or self.words[i] == ","):
            i += 1
        return i

    # Noun phrases

    def _noun_phrase(self, start: int) -> int:
        """The index after the noun phrase at `start`, its words attached to its last; `start` if there is none."""
        first = i = self._skip(start, "DET", "NUM")
        if first > start and self._begins_adjectives(first):
            self.tags[first] = "ADJ"
        while self._tag_at(end := self._adjectives(i)) == "NOUN":  # again: "a wood framed mirror"
            i = self._skip(end, "NOUN")
        if i == first:
            # No noun: a colour stands for one ("in red", "an orange"), and so does any adjective after a determiner.
            i = self._run(first)
            after_a_comma = start > 0 and self.words[start - 1] == ","  # "it sits, black"
            names = lexicon.COLOURED_THINGS if after_a_comma else lexicon.COLOURS
            if i == first or not (first > start or self.words[i - 1] in names):
                return start
            self.tags[i - 1] = "NOUN"
        head = i - 1
        for k in range(start, head):
            self._attach(k, _LABELS[self.tags[k]], head)
        self._attach_adverbs(start, head)
        return i

    def _run(self, i: int) -> int:
        """The index after the adjectives, each with its adverbs, that begin at `i`."""
        while self._tag_at(j := self._skip(i, "ADV")) == "ADJ":
            i = j + 1
        return i

    def _adjectives(self, i: int) -> int:
        """As `_run`, and on over "and" and commas if more adjectives and then a noun follow.

        A comma may also stand before the noun ("a sleek, chrome robot"), and among the adjectives there may be words
        that the lists take for nouns ("a soft, plush, brown bear").
        """
        end = last = self._run(i)
        while i < last < (following := self._joint(last)):
            if (further := self._run(following)) == following:
                if self._tag_at(following) != "NOUN" or not self._goes_on(i, last, following):
                    break
                if not self._is_unknown_adjective(following, begun=self._tag_at(i - 1) == "DET" and i > 0):
                    return following
                self.tags[following] = "ADJ"
                further = following + 1
            last = further
        return last if self._tag_at(last) == "NOUN" else end

    def _goes_on(self, i: int, last: int, following: int) -> bool:
        """Whether a noun after adjectives and a comma is theirs; a colour may itself be one ("an orange, a banana")."""
        comma = following == last + 1 and self.words[last] == ","
        return comma and (last > i + 1 or self.words[i] not in lexicon.COLOURS)

    def _is_unknown_adjective(self, i: int, *, begun: bool) -> bool:
        """Whether a comma and more adjectives with a noun follow a word that was called a noun for want of better; in a
        phrase that a determiner has begun, a noun alone."""
        if self.words[i] in lexicon.NOUNS or self._tag_at(i + 1) != "PUNCT" or self.words[i + 1] != ",":
            return False
        noun = self._run(i + 2)
        return self._tag_at(noun) == "NOUN" and (begun or noun > i + 2)

    def _begins_adjectives(self, i: int) -> bool:
        """Whether words that no list has end in -y and come before commas, adjectives and a noun: "a chunky, glazed
        fisherman"."""
        while self._tag_at(i) == "NOUN" and self.words[i].endswith("y") and self.words[i + 1 : i + 2] == [","]:
            if self.words[i] in lexicon.NOUNS | lexicon.NOUNS_IN_Y or self.words[i].endswith(("ay", "ey", "oy")):
                return False
            following = i + 2
            i = self._run(following)
            if i > following and self._tag_at(i) in ("NOUN", "PUNCT", "CCONJ"):
                return True
        return False

    def _attach_adverbs(self, start: int, head: int) -> None:
        for k in range(head - 1, start - 1, -1):
            if self.tags[k] == "ADV":
                self._attach(k, "advmod", k + 1 if self.tags[k + 1] != "ADV" else self.heads[k + 1])

    # Between noun phrases

    def _complement(self, start: int) -> int:
        """The index after the adjectives at `start` that the verb before says of its subject; `start` if none."""
        if self._verb <= self._noun or self._link > self._verb or self.words[self._verb] not in lexicon.COPULAS:
            return start
        i = end = start
        while (end_of_run := self._run(i)) > i and self._tag_at(end_of_run) != "NOUN":
            for k in range(i, end_of_run):
                if self.tags[k] == "ADJ":
                    self._attach(k, "acomp", self._verb)
            self._attach_adverbs(i, end_of_run)
            end, i = end_of_run, self._joint(end_of_run)
            if i == end:
                break
        return end

    def _attach_noun(self, head: int) -> None:
        link = self._tag_at(self._link) if self._link >= 0 else ""
        if link == "ADP":
            self._attach(head, "pobj", self._link)
        elif link == "PART" and self._noun >= 0:  # "a cat's hat": the hat takes the cat's place
            owner = self._noun
            self._attach(head, self.labels[owner], self.heads[owner] if self.heads[owner] != owner else head)
            self._attach(owner, "poss", head)
        elif self._verb > self._noun and not link:
            self._attach(head, "attr" if self.words[self._verb] in lexicon.COPULAS else "dobj", self._verb)
        elif link and self._noun >= 0 and not self._is_said("acomp"):  # not in "the car is red, the bowl blue"
            self._attach(head, "conj", self._noun)
        self._noun, self._link = head, -1

    def _is_said(self, label: str) -> bool:
        """Whether something of that label hangs on the verb that follows the last noun."""
        return self._verb > self._noun and any(
            head == self._verb and of == label for head, of in zip(self.heads, self.labels, strict=True)
        )

    def _attach_word(self, i: int) -> None:
        kind, anchor = self.tags[i], max(self._noun, self._verb)
        if kind in ("AUX", "VERB"):
            self._attach_verb(i)
            self._verb, self._link = i, -1
        elif self.words[i] in ".;:!?":
            self._noun = self._verb = self._link = -1
        elif anchor >= 0:
            self._attach(i, _LABELS[kind] if kind in ("ADP", "CCONJ", "PUNCT", "PART") else "dep", anchor)
        if kind in ("ADP", "CCONJ") or self.words[i] in (",", "'s"):
            self._link = i

    def _attach_verb(self, i: int) -> None:
        finite = self.tags[i] == "AUX" or not self.words[i].endswith(("ing", "ed"))
        if self._verb > self._noun:
            # No noun since the last verb: "is red and is big", or the participle of "is standing".
            self._attach(i, "conj" if self._link > self._verb else "xcomp", self._verb)
        elif self._noun < 0 or self.words[i - 1] == "there":  # "in the garden there is"
            return
        elif self.tags[i - 1] == "PRON" and self.words[i - 1] in lexicon.RELATIVES:
            self._attach(i, "relcl", self._noun)
            self._attach(i - 1, "nsubj", i)
        elif not finite or self.words[i] in lexicon.PAST_FORMS:
            self._attach(i, "acl", self._noun)
        else:
            self._attach(self._subject(), "nsubj", i)

    def _subject(self) -> int:
        """The first of the nouns that the last one hangs on, or the last one itself if it hangs on a verb."""
        top = self._noun
        while self.heads[top] != top:
            top = self.heads[top]
        return top if self.tags[top] == "NOUN" else self._noun


_LABELS = {
    "DET": "det",
    "NUM": "nummod",
    "NOUN": "compound",
    "ADJ": "amod",
    "ADV": "advmod",
    "CCONJ": "cc",
    "PUNCT": "punct",
    "ADP": "prep",
    "PART": "case",
}
