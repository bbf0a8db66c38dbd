"""Whether a checkpoint holds every weight of its networks in the right shape, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import Checkpoint
from .errors import listed
from .files.tensors import Entry
from .layouts.compvis import rank_may_differ

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Differences:
    """Weights by which a component differs from its network, in the file's own names."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.by_kind())

    def by_kind(self) -> dict[str, tuple[str, ...]]:
        """The kinds of differences that there are, as missing, with their weights."""
        return {kind: names for kind, names in vars(self).items() if names}


def differences(checkpoint: Checkpoint, expected: Mapping[str, Shapes]) -> dict[str, Differences]:
    """Compare each component with the shapes its network has; only components that differ are in the result."""
    result = {}
    for name, shapes in expected.items():
        component = checkpoint.components[name]
        entries = component.entries
        result[name] = Differences(
            missing=tuple(component.spell(weight) for weight in shapes if weight not in entries),
            unexpected=(*component.unexpected, *(e.key for weight, e in entries.items() if weight not in shapes)),
            mismatched=tuple(
                mismatch
                for weight, shape in shapes.items()
                if weight in entries and (mismatch := _mismatch(rank_may_differ(name, weight), entries[weight], shape))
            ),
        )
    return {name: difference for name, difference in result.items() if difference}


def _mismatch(rank_may_differ: bool, entry: Entry, expected: tuple[int, ...]) -> str:
    """Why an entry cannot fill a weight; empty if it can. A matrix fills a 1x1 convolution if the rank may differ."""
    shapes = sorted((entry.shape, expected), key=len)
    if entry.shape != expected and not (rank_may_differ and len(shapes[0]) == 2 and shapes[1] == (*shapes[0], 1, 1)):
        return f"{entry.key} {list(entry.shape)} instead of {list(expected)}"
    return "" if entry.dtype.is_floating_point else f"{entry.key} of {entry.dtype} instead of floating point"


def summary(path: Path, differing: Mapping[str, Differences]) -> str:
    """One line that names the file and lists, for each component, at most ten keys of each kind with their counts."""
    parts = [
        f"{component}: {len(names)} {kind} ({listed(names)})"
        for component, difference in differing.items()
        for kind, names in difference.by_kind().items()
    ]
    return f"{path} does not hold the weights of this network. {'; '.join(parts)}."
