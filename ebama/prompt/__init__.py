"""From a prompt to groups of token positions: parsers, what is an object, alignment with a tokenizer."""

from __future__ import annotations

from ..boxes import Box
from .given_words import Words
from .groups import Group, Parsed, groups_from_words, parse
from .lexicon import PICTURE_WORDS
from .objects import ParsedWord
from .tokenization import PromptError, SpanTokenizer, Tokenizer

__all__ = [
    "PICTURE_WORDS",
    "Box",
    "Group",
    "Parsed",
    "ParsedWord",
    "PromptError",
    "SpanTokenizer",
    "Tokenizer",
    "Words",
    "groups_from_words",
    "parse",
]
