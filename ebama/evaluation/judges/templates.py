"""The 80 ImageNet prompts of CLIP around a benchmark's prompt, edited as Attend-and-Excite's metrics do, and correctly.

A template ends in "a {}" or "the {}" and a prompt begins with an article of its own, so that one of the two has to go.
"""

from __future__ import annotations

import re
from importlib.resources import files

TEMPLATES: tuple[str, ...] = tuple((files(__package__) / "templates.txt").read_text(encoding="utf-8").splitlines())
"""The ImageNet prompts of Radford et al. 2021 (CLIP)."""

_ARTICLE = re.compile(r"(?:an?|the)\b", re.IGNORECASE)
_JOINT = re.compile(r" and | with ")


def published(prompt: str) -> list[str]:
    """The 80 texts of the published metrics: every "a a" becomes "a", then every "the a", wherever they stand.

    They also stand inside words: "a zebra and a cat" becomes "a zebrand a cat", "a apple" becomes "apple".
    """
    return [template.format(prompt).replace("a a", "a").replace("the a", "a") for template in TEMPLATES]


def corrected(prompt: str) -> list[str]:
    """The same, but only the template's article is dropped, and only where the prompt's article follows it."""
    if not _ARTICLE.match(prompt):
        return [template.format(prompt) for template in TEMPLATES]
    return [re.sub(r"\b(?:a|the) \{\}", "{}", template).format(prompt) for template in TEMPLATES]


def halves(prompt: str) -> tuple[str, str] | None:
    """The first two parts of a prompt around " and ", or else around " with "; None: it has neither.

    >>> halves("a cat with a crown and a dog and a frog")
    ('a cat with a crown', 'a dog')
    """
    for joint in (" and ", " with "):
        if joint in prompt:
            first, second = prompt.split(joint)[:2]
            return first, second
    return None


def parts(prompt: str) -> list[str]:
    """All parts of a prompt between " and " and " with "; the prompt itself if it has neither."""
    return _JOINT.split(prompt)


def differ(prompt: str) -> bool:
    """Whether the published metrics and the corrected ones read a prompt differently."""
    pair = halves(prompt)
    if pair is None or list(pair) != parts(prompt):
        return True
    return any(published(text) != corrected(text) for text in (prompt, *pair))
