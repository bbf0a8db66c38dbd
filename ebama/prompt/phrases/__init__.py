"""What of a parser's answer is one word, and which words are one noun phrase."""

from __future__ import annotations

from .joining import joined
from .noun_phrases import with_noun_phrases

__all__ = ["joined", "with_noun_phrases"]
