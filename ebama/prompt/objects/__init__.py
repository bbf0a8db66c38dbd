"""From a dependency parse to objects, their modifiers and noun phrases, in one way for every parser."""

from __future__ import annotations

from .parsed_word import MODIFIER, SIGNS, ParsedWord, checked, depth
from .structure import Object, Structure, find_structure

__all__ = ["MODIFIER", "SIGNS", "Object", "ParsedWord", "Structure", "checked", "depth", "find_structure"]
