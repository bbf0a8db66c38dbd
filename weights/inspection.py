"""`inspect`: what a checkpoint is and holds, from headers and pickle opcodes alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path

from .checkpoint import COMPONENTS, Checkpoint, from_single_file, open_checkpoint, weight_files
from .files.pickle_safety import refused_globals
from .files.tensors import Entry, container, open_tensors
from .layouts.detect import file_kind
from .networks import expected_shapes
from .verify import Differences, differences, listed

_SD_V1 = "Stable Diffusion v1"


@dataclass(frozen=True)
class ComponentInspection:
    """One network's weights in a checkpoint. `differences` is what sets them apart from a loadable one's."""

    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    differences: Differences = field(default_factory=Differences)


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    kind: "Stable Diffusion v1", or what else the file is.
    layout: "compvis" or "diffusers"; None for another kind.
    containers: how the tensors are stored: safetensors, zip (torch.save), legacy (torch.save before 1.6).
    components: unet, vae and text_encoder; "weights" for another kind.
    ema: whether the U-Net's moving averages are there too.
    refused_globals: what its pickle would import beyond tensors; such a file is never opened.
    """

    path: Path
    kind: str
    layout: str | None
    containers: tuple[str, ...]
    components: dict[str, ComponentInspection]
    config: str | None = None
    ema: bool = False
    refused_globals: tuple[str, ...] = ()

    @property
    def safe(self) -> bool:
        """Whether it can be opened at all: nothing but tensors and known leftovers in its pickles."""
        return not self.refused_globals

    @property
    def complete(self) -> bool:
        """Whether `load` would find every weight of its networks, and nothing else."""
        return self.kind == _SD_V1 and not any(part.differences for part in self.components.values())

    def as_dict(self) -> dict[str, object]:
        """Everything in types that JSON knows."""
        return {**asdict(self), "path": str(self.path), "safe": self.safe, "complete": self.complete}

    def __str__(self) -> str:
        facts = [
            f"{self.path}: {self.kind}",
            f"layout {self.layout or 'unknown'}, {' + '.join(self.containers)}, {'with' if self.ema else 'no'} EMA",
        ]
        if not self.safe:
            facts.append(f"NOT SAFE, not opened: its pickle asks for {listed(self.refused_globals)}")
        if self.components:
            facts.append(f"{'component':<14}{'tensors':>8}{'parameters':>16}  dtypes")
        for name, part in self.components.items():
            facts.append(f"{name:<14}{part.tensors:>8,}{part.parameters:>16,}  {', '.join(part.dtypes)}")
        for name, part in self.components.items():
            for sort in ("missing", "unexpected", "mismatched"):
                if keys := getattr(part.differences, sort):
                    facts.append(f"{name}: {len(keys)} {sort}: {listed(keys)}")
        if self.layout:
            facts.append("complete: can be loaded" if self.complete else "NOT complete: load would refuse it")
        return "\n".join(facts)


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Say what a file or folder is and holds; weights are neither read nor allocated.

    A single file is compared with Stable Diffusion v1, a folder with what its `config.json` files describe.
    Raises CheckpointError for a path that holds no weights at all (missing, empty, a web page and so on).
    """
    target = Path(path)
    pipeline = all((target / name).is_dir() for name in COMPONENTS)
    files = [file for name in COMPONENTS for file in weight_files(target, name)] if pipeline else [target]
    stored = {file: container(file) for file in files if file.is_file()}
    pickles = (file for file, how in stored.items() if how != "safetensors")
    if refused := sorted({name for file in pickles for name in refused_globals(file)}):
        containers = tuple(sorted(set(stored.values())))
        return Inspection(
            target, "a pickle that is not only weights", None, containers, {}, refused_globals=tuple(refused)
        )
    if not target.is_file():
        return _of(open_checkpoint(target, meta=True))
    file = open_tensors(target, meta=True)
    if kind := file_kind({key: entry.shape for key, entry in file.entries.items()}):
        return Inspection(target, kind, None, (stored[target],), {"weights": _component(file.entries.values())})
    return _of(from_single_file(file))


def _of(checkpoint: Checkpoint) -> Inspection:
    found = differences(checkpoint, expected_shapes(checkpoint.config))
    return Inspection(
        path=checkpoint.path,
        kind=_SD_V1,
        layout=checkpoint.layout,
        containers=checkpoint.containers,
        components={
            name: _component(part.entries.values(), found.get(name, Differences()))
            for name, part in checkpoint.components.items()
        },
        config=checkpoint.config.name,
        ema=checkpoint.ema,
    )


def _component(entries: Iterable[Entry], found: Differences | None = None) -> ComponentInspection:
    held = list(entries)
    return ComponentInspection(
        tensors=len(held),
        parameters=sum(prod(entry.shape) for entry in held),
        dtypes=tuple(sorted({str(entry.dtype).removeprefix("torch.") for entry in held})),
        differences=found or Differences(),
    )
