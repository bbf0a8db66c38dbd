"""Seeds as text."""

from __future__ import annotations

import re


def parse(text: str, at_most: int = 10**6) -> list[int]:
    """The seeds that a text such as "0:4" (0 1 2 3), "3" or "1,5,9" names, each once.

    They are counted before any list of them is made: "0:99999999999" costs nothing. Raises ValueError for none, for
    more than `at_most`, and for anything else.
    """
    spans: list[range] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})(?::([0-9]{1,18}))?\s*", part)
        if match is None:
            raise ValueError(f"{text[:60]!r} names no seeds; expected 0:4 (0 1 2 3), 3, or 1,5,9.")
        first = int(match[1])
        spans.append(range(first, int(match[2]) if match[2] else first + 1))
    count = sum(map(len, spans))
    if not 1 <= count <= at_most:
        raise ValueError(f"{text[:60]!r} names {count} seeds; expected 1 to {at_most}.")
    return list(dict.fromkeys(seed for span in spans for seed in span))
