"""From a prompt to groups of token positions: parsers, what is an object, alignment with a tokenizer."""

from __future__ import annotations

from .alignment import PromptError
from .given_words import Words
from .groups import Group, Parsed, groups_from_words, parse

__all__ = ["Group", "Parsed", "PromptError", "Words", "groups_from_words", "parse"]
