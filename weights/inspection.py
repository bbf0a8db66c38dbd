"""`inspect`: what a checkpoint is and holds, from headers and pickle opcodes alone, and a folder's tokenizers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path

from ebama.samplers import NoiseSchedule

from .checkpoint import Checkpoint, from_single_file, kind_of, open_checkpoint
from .errors import CheckpointError, listed
from .files.pickle_safety import pickle_globals, refused_globals
from .files.regular import given_path, named_refusals
from .files.tensors import Entry, container, open_tensors
from .layouts.detect import kind_name
from .layouts.folder import components, missing_components, weight_files
from .layouts.parametrisation import stated_prediction
from .loading import read_tokenizers
from .networks import expected_shapes
from .verify import Differences, differences

_HTML = """
<p><b>{{ path }}</b>: {{ it.kind }}{% for line in above %}<br>{{ line }}{% endfor %}</p>
{% if it.components %}
<table><thead><tr><th>component</th><th>tensors</th><th>parameters</th><th>dtypes</th></tr></thead><tbody>
{% for name, part in it.components.items() %}
<tr><td>{{ name }}</td><td>{{ "{:,}".format(part.tensors) }}</td><td>{{ "{:,}".format(part.parameters) }}</td>\
<td>{{ part.dtypes | join(", ") }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
<p>{% for line in below %}{{ line }}{% if not loop.last %}<br>{% endif %}{% endfor %}</p>
"""


@dataclass(frozen=True)
class ComponentInspection:
    """One network's weights in a checkpoint. `differences` are those from a loadable one's."""

    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    differences: Differences = field(default_factory=Differences)


@dataclass(frozen=True)
class Inspection:
    """What a file or folder is and holds.

    kind: "Stable Diffusion v1", "Stable Diffusion 2", "Stable Diffusion XL", or what else the file is.
    layout: "compvis" or "diffusers"; None for another kind.
    containers: how the tensors are stored: safetensors, zip (torch.save), legacy (torch.save before 1.6).
    components: unet, vae, text_encoder and text_encoder_2; "weights" for another kind.
    ema: whether the U-Net's moving averages are there too.
    prediction: what the U-Net predicts, "epsilon" or "v"; a note says what tells, if anything does.
    schedule: a noise schedule that the file stores, unless it is Stable Diffusion v1's.
    notes: what else `load` does: the variant it takes, leftovers it ignores.
    refused_globals: what its pickle would import beyond tensors; such a file is never opened.
    refused_tokenizer: why `load` would refuse the tokenizers of a folder; None if it would not.
    """

    path: Path
    kind: str
    layout: str | None
    containers: tuple[str, ...]
    components: dict[str, ComponentInspection]
    config: str | None = None
    ema: bool = False
    prediction: str | None = None
    schedule: str | None = None
    notes: tuple[str, ...] = ()
    refused_globals: tuple[str, ...] = ()
    refused_tokenizer: str | None = None

    @property
    def safe(self) -> bool:
        """Whether it can be opened at all: nothing but tensors and known leftovers in its pickles."""
        return not self.refused_globals

    @property
    def complete(self) -> bool:
        """Whether `load` would find every weight of its networks, and nothing else, and tokenizers that work."""
        differ = any(part.differences for part in self.components.values())
        return self.layout is not None and not differ and self.refused_tokenizer is None

    def as_dict(self) -> dict[str, object]:
        """Everything in types that JSON knows."""
        return {**asdict(self), "path": str(self.path), "safe": self.safe, "complete": self.complete}

    def _repr_html_(self) -> str:
        """In a notebook: what `str` says, the components as a table."""
        from jinja2 import Environment, StrictUndefined

        template = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined).from_string(_HTML)
        return template.render(
            it=self, above=[self._storage(), *self._refusal()], below=self._remarks(), path=str(self.path)
        )

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.kind}", self._storage(), *self._refusal()]
        if self.components:
            lines.append(f"{'component':<14}{'tensors':>8}{'parameters':>16}  dtypes")
        for name, part in self.components.items():
            lines.append(f"{name:<14}{part.tensors:>8,}{part.parameters:>16,}  {', '.join(part.dtypes)}")
        return "\n".join([*lines, *self._remarks()])

    def _storage(self) -> str:
        containers = " + ".join(self.containers)
        return f"layout {self.layout or 'unknown'}, {containers}, {'with' if self.ema else 'no'} EMA"

    def _refusal(self) -> list[str]:
        if self.safe:
            return []
        return [f"NOT SAFE, not opened: its pickle asks for {listed(self.refused_globals)}"]

    def _remarks(self) -> list[str]:
        """What follows the components, line by line."""
        lines = []
        for name, part in self.components.items():
            for kind, keys in part.differences.by_kind().items():
                lines.append(f"{name}: {len(keys)} {kind}: {listed(keys)}")
        if self.prediction == "v" and not any(note.startswith("predicts ") for note in self.notes):
            lines.append("predicts v")
        if self.schedule:
            lines.append(f"noise schedule: {self.schedule}")
        lines += [*self.notes, *filter(None, [self.refused_tokenizer])]
        if self.layout:
            lines.append("complete: can be loaded" if self.complete else "NOT complete: load would refuse it")
        return lines


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Say what a file or folder is and holds; weights are neither read nor allocated.

    A single file is compared with the kind of Stable Diffusion that it is of, a folder with what its `config.json`
    files describe.
    Raises CheckpointError for a path that holds no weights at all (missing, empty, a web page and so on).
    """
    target = given_path(path)
    with named_refusals(target):
        return _inspect(target)


def _inspect(target: Path) -> Inspection:
    files = [target]
    if not missing_components(target):
        files = [file for name in components(target) for file in weight_files(target, name)]
    containers = {file: container(file) for file in files if file.is_file()}
    pickles = [file for file, stored in containers.items() if stored != "safetensors"]
    if refused := sorted({name for file in pickles for name in refused_globals(pickle_globals(file))}):
        stored = tuple(sorted(set(containers.values())))
        return Inspection(target, "a pickle that is not only weights", None, stored, {}, refused_globals=tuple(refused))
    if not target.is_file():
        return _of(open_checkpoint(target, meta=True))
    file = open_tensors(target, meta=True)
    if kind := kind_of(file, statement := stated_prediction(file)):
        return Inspection(target, kind, None, (file.container,), {"weights": _component(file.entries)})
    return _of(from_single_file(file, statement=statement))


def _of(checkpoint: Checkpoint) -> Inspection:
    differing = differences(checkpoint, expected_shapes(checkpoint.config))
    return Inspection(
        checkpoint.path,
        kind_name(checkpoint.config),
        checkpoint.layout,
        checkpoint.containers,
        {name: _component(part.entries, differing.get(name)) for name, part in checkpoint.components.items()},
        checkpoint.config.name,
        checkpoint.ema,
        checkpoint.config.prediction,
        None if checkpoint.schedule == NoiseSchedule() else repr(checkpoint.schedule),
        checkpoint.notes,
        refused_tokenizer=_tokenizer_refusal(checkpoint),
    )


def _tokenizer_refusal(checkpoint: Checkpoint) -> str | None:
    """Why `load` would refuse the tokenizers of a folder; single files take the one that comes with the library."""
    if checkpoint.layout == "diffusers":
        try:
            read_tokenizers(checkpoint)
        except CheckpointError as error:
            return str(error)
    return None


def _component(entries: Mapping[str, Entry], differences: Differences | None = None) -> ComponentInspection:
    return ComponentInspection(
        tensors=len(entries),
        parameters=sum(prod(entry.shape) for entry in entries.values()),
        dtypes=tuple(sorted({str(entry.dtype).removeprefix("torch.") for entry in entries.values()})),
        differences=differences or Differences(),
    )
