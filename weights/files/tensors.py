"""One file of tensors: read by its header and one by one, recognised by content and not by name; and written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError, listed
from .archive import is_zip
from .pickle_safety import load_pickle, plain_settings, plain_tensors
from .regular import check_name, check_regular, is_refusal, named_refusals
from .settings import Setting, yaml_settings

_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")
"""How .gz, .zst, .7z, .rar, .bz2 and .xz begin."""
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

DTYPES = tuple(dtype for dtype in _SAFETENSORS_DTYPES.values() if dtype.is_floating_point)
"""In which weights can be read and written."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file. `key` is its name there; `read` gives its values and may be called once."""

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file by their names there; `container` is safetensors, zip or legacy.

    `metadata` is what the file says in words: settings by name.
    """

    path: Path
    container: str
    entries: dict[str, Entry]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def configuration(self) -> list[Setting]:
        """The settings of the .yaml of the file's name beside it, none without one. Raises as `yaml_settings`."""
        return yaml_settings(self.path.with_suffix(".yaml"))


def open_tensors(path: Path, *, meta: bool = False) -> TensorFile:
    """Open a file of tensors, memory-mapped where the container allows. With `meta` no other is read: entries of a
    legacy file then have no values.

    Raises CheckpointError, in one line that names the file and says what it is instead.
    """
    if os.path.exists(f"{path}.aria2"):
        raise CheckpointError(
            f"{path} is not downloaded yet: {path.name}.aria2 lies beside it; let aria2 finish, or delete that file if "
            "this one is whole."
        )
    stored = container(path)
    if stored == "safetensors":
        return _open_safetensors(path)
    loaded = load_pickle(path, meta=meta)
    tensors = plain_tensors(path, loaded)
    # Taken out as they are read, so that a legacy file's tensors are freed once they are converted.
    entries = {
        key: Entry(key, tuple(tensor.shape), tensor.dtype, partial(tensors.pop, key)) for key, tensor in tensors.items()
    }
    return TensorFile(path, stored, entries, plain_settings(loaded))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that others may read as they may any new file; `save_file` lets only its owner.

    Raises OSError where the disk does not take it.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(metadata or {}) or None)
    except SafetensorError as error:
        raise OSError(f"{path.name} could not be written: {error}") from error
    with suppress(PermissionError):  # some mounts have no modes
        path.chmod(mode)


def _open_safetensors(path: Path) -> TensorFile:
    try:
        file = safe_open(str(path), framework="pt")
        entries = {}
        for key in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118 (not a mapping)
            view = file.get_slice(key)  # type: ignore[no-untyped-call]
            name = view.get_dtype()
            if name not in _SAFETENSORS_DTYPES:
                raise CheckpointError(
                    f"{path} stores {listed([key])} as {name}, a number format that is not supported."
                )
            entries[key] = Entry(key, tuple(view.get_shape()), _SAFETENSORS_DTYPES[name], partial(file.get_tensor, key))
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, CheckpointError) or is_refusal(error):
            raise
        raise CheckpointError(f"{path} is a damaged or cut-off safetensors file: {error}.") from error
    return TensorFile(path, "safetensors", entries, file.metadata() or {})  # type: ignore[no-untyped-call]


def container(path: Path) -> str:
    """The way in which a file stores tensors: "safetensors", "zip" or "legacy" (both by torch.save).

    Raises CheckpointError, which says what the file is, if it stores none.
    """
    check_regular(path)
    check_name(path)
    with named_refusals(path), path.open("rb") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(512)
    if not head:
        raise CheckpointError(f"{path} is empty.")
    if head.startswith(b"PK\x03\x04"):
        if not is_zip(path):
            raise CheckpointError(f"{path} is a cut-off or damaged zip archive ({size:,} bytes); download it again.")
        return "zip"
    if head[8:9] == b"{":  # before pickles, whose first bytes may be those of a header's length
        if 8 + int.from_bytes(head[:8], "little") > size:
            raise CheckpointError(f"{path} is a cut-off safetensors file ({size:,} bytes); download it again.")
        return "safetensors"
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return "legacy"
    raise CheckpointError(f"{path} is {_description(head)}; expected a .safetensors or .ckpt checkpoint.")


def _description(head: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page (a login or error page saved in place of the checkpoint)"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file it points to (fetch it with `git lfs pull`)"
    if head.startswith(_COMPRESSED) or head[257:262] == b"ustar":
        return "an archive (unpack it and give the file or folder in it)"
    if head.startswith(b"GGUF"):
        return "a GGUF file, whose weights are quantised"
    if all(32 <= byte < 127 or byte in b"\t\n\r\f" for byte in head):
        return "a text file"
    return "not a file of weights"
