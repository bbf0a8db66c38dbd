"""From a prompt to groups of token positions: parsers, syntax, rules, alignment with a tokenizer."""

from __future__ import annotations

from .alignment import PromptError
from .assignment import Words
from .parsing import Group, Parsed, groups_from_words, parse

__all__ = ["Group", "Parsed", "PromptError", "Words", "groups_from_words", "parse"]
