"""Tensors of a trace that lie in files, one for each call of each batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Batch:
    """The files of some samples, [calls]; None for a call that was not made."""

    samples: tuple[int, ...]
    files: tuple[Path | None, ...]

    def read(self, name: str, row: slice = slice(None), keys: Sequence[int] | None = None) -> Tensor:
        """A tensor of all calls, [B, calls, ...]; NaN where a call is missing."""
        parts: list[Tensor | None] = []
        for path in self.files:
            if path is None:
                parts.append(None)
                continue
            with safe_open(path, framework="pt") as file:
                values = file.get_slice(name)[row]
            parts.append(values if keys is None else values[..., list(keys)])
        first = next(part for part in parts if part is not None)
        missing = torch.full_like(first, float("nan"))
        return torch.cat([missing if part is None else part for part in parts], dim=1)


class Stored(Mapping[str, Tensor]):
    """The tensors of a trace whose calls are files; each is read when it is asked for."""

    def __init__(self, folder: Path, batches: Sequence[Batch]) -> None:
        self.folder, self._batches = folder, tuple(batches)
        self._rows = [(batch, row) for batch in batches for row in range(len(batch.samples))]
        numbers = [number for batch in batches for number in batch.samples]
        self.order = sorted(range(len(numbers)), key=numbers.__getitem__)
        first = next(path for path in self._batches[0].files if path is not None)
        with safe_open(first, framework="pt") as file:
            self._names = tuple(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return joined([batch.read(name) for batch in self._batches], self.order)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a batch's tensor in one call, [B, 1, ...]."""
        batch = self._batches[0]
        with safe_open(next(path for path in batch.files if path is not None), framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def of_sample(self, name: str, sample: int, keys: Sequence[int] | None = None) -> Tensor:
        """Some keys, or all, of one sample's tensor [calls, ..., key]: no more of it is held."""
        batch, row = self._rows[self.order[sample]]
        return batch.read(name, slice(row, row + 1), keys)[0]


def joined(parts: Sequence[Tensor], order: Sequence[int]) -> Tensor:
    """Tensors [B, ...] of several batches as one in another order; those that keep fewer keys are filled up with 0."""
    most = max(part.shape[-1] for part in parts)
    if len(parts) > 1:
        parts = [torch.cat([F.pad(part, (0, most - part.shape[-1])) for part in parts])]
    return parts[0] if list(order) == list(range(len(parts[0]))) else parts[0][list(order)]
