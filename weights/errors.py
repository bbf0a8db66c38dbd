"""The error for a checkpoint that is not what it should be, and how its messages list names."""

from __future__ import annotations

from collections.abc import Sequence

_LISTED = 10
_LONGEST = 200  # characters of a name in a message; checkpoints have names of a hundred


class CheckpointError(ValueError):
    """A file or folder is not a Stable Diffusion checkpoint that can be used; the message names it and says why, in one
    line without what would steer a terminal."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


def is_text(value: object) -> bool:
    """Whether it is a string without half a character, which no other library takes."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def listed(names: Sequence[str]) -> str:
    """The first ten names out of a file, none of them long, without what would break a line or steer a terminal."""
    short = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in names[:_LISTED]]
    shown = [name if name.isprintable() else ascii(name) for name in short]
    return ", ".join((*shown, "...") if len(names) > _LISTED else shown)
