"""Whether a checkpoint holds every weight of its networks in the right shape, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from .checkpoint import Checkpoint
from .files.tensors import Entry
from .layouts.compvis import rank_may_differ

Shapes = Mapping[str, tuple[int, ...]]
_LISTED = 10


@dataclass(frozen=True)
class Differences:
    """What sets a component's weights apart from its network's, in the file's own names."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)


def fits(component: str, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a stored shape can fill the network's: the same, or a matrix against a 1x1 convolution."""
    if found == expected:
        return True
    return (
        rank_may_differ(component, name)
        and prod(found) == prod(expected)
        and found[:2] == expected[:2]
        and {len(found), len(expected)} == {2, 4}
    )


def _mismatch(component: str, name: str, entry: Entry, expected: tuple[int, ...]) -> str:
    if not fits(component, name, entry.shape, expected):
        return f"{entry.key} {list(entry.shape)} instead of {list(expected)}"
    return "" if entry.dtype.is_floating_point else f"{entry.key} of {entry.dtype} instead of floating point"


def differences(checkpoint: Checkpoint, expected: Mapping[str, Shapes]) -> dict[str, Differences]:
    """Compare each component with the shapes its network has; only components that differ are in the result."""
    result = {}
    for component, shapes in expected.items():
        held = checkpoint.components[component]
        difference = Differences(
            missing=tuple(held.spell(name) for name in shapes if name not in held.entries),
            unexpected=(*held.unexpected, *(e.key for name, e in held.entries.items() if name not in shapes)),
            mismatched=tuple(
                mismatch
                for name, shape in shapes.items()
                if name in held.entries and (mismatch := _mismatch(component, name, held.entries[name], shape))
            ),
        )
        if difference:
            result[component] = difference
    return result


def listed(names: Sequence[str]) -> str:
    """The first ten names out of a file, without what would break a line or steer a terminal."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:_LISTED]]
    return ", ".join((*shown, "...") if len(names) > _LISTED else shown)


def summary(path: Path, found: Mapping[str, Differences]) -> str:
    """One line that names the file and lists, for each component, at most ten keys of each sort with their counts."""
    parts = []
    for component, difference in found.items():
        for sort in ("missing", "unexpected", "mismatched"):
            if keys := getattr(difference, sort):
                parts.append(f"{component}: {len(keys)} {sort} ({listed(keys)})")
    return f"{path} does not hold the weights of this network. {'; '.join(parts)}."
