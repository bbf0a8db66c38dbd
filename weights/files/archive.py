"""The zip archive that `torch.save` writes: its pickle, once the archive is known to be sound.

Tensors are mapped straight from the places that the archive's directory names, and torch looks neither at checksums
nor at compression. So everything that decides where a tensor lies is checked here; the tensors' own bytes are not,
which would mean reading them all.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError
from .regular import is_refusal

_HEADER = struct.Struct("<4sHHHHHIIIHH")  # of a record: signature, ..., flags at 2, sizes of name and extra at the end
_HAS_DESCRIPTOR = 0x08
_DESCRIPTOR = b"PK\x07\x08"
_SIZE_IN_EXTRA = 0xFFFFFFFF
_MOST_BYTES = 1 << 28  # of a pickle, which holds no tensors: a checkpoint's has a megabyte


def is_zip(path: Path) -> bool:
    """Whether the file ends in a zip directory; no, too, where `zipfile` finds it damaged and raises."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def read_pickle(path: Path) -> bytes:
    """The archive's pickle. Raises CheckpointError if the archive is damaged, compressed or not torch's."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            records = sorted(archive.infolist(), key=lambda record: record.header_offset)
            pickles = [record for record in records if record.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1:
                raise CheckpointError(f"{path} is a zip archive, but not one that torch.save wrote (no data.pkl).")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise CheckpointError(f"{path} was compressed after torch.save wrote it; expected it uncompressed.")
            limits = [*(record.header_offset for record in records[1:]), archive.start_dir]
            for record, limit in zip(records, limits, strict=True):
                if not _is_sound(file, record, limit):
                    raise CheckpointError(f"{path} is damaged at its record {record.filename!r}; download it again.")
            if pickles[0].file_size > _MOST_BYTES:
                raise CheckpointError(f"{path} holds a pickle of {pickles[0].file_size:,} bytes beside its tensors.")
            if not any(record.CRC for record in records):  # torch.serialization.set_crc32_options(False)
                return _stored(file, pickles[0])
            for record in records:
                if not _is_storage(record):
                    _check(archive, record)
            return archive.read(pickles[0])
    # RuntimeError: it is encrypted, or compressed in a way that zipfile does not know.
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, struct.error) as error:
        if isinstance(error, CheckpointError) or is_refusal(error):
            raise
        raise CheckpointError(f"{path} is a damaged zip archive ({error}); download it again.") from error


def record_sizes(path: Path) -> Counter[int]:
    """How many of the archive's storages have so many bytes."""
    with zipfile.ZipFile(path) as archive:
        return Counter(record.file_size for record in archive.infolist() if _is_storage(record))


def _is_storage(record: zipfile.ZipInfo) -> bool:
    return record.filename.split("/")[1:2] == ["data"]


def _check(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Compare a record's checksum, whatever its size."""
    with archive.open(record) as file:
        while file.read(1 << 20):
            pass


def _stored(file: BinaryIO, record: zipfile.ZipInfo) -> bytes:
    """The bytes of a sound record, whatever its checksum."""
    *_, name_size, extra_size = _header(file, record)
    file.seek(name_size + extra_size, os.SEEK_CUR)
    return file.read(record.file_size)


def _header(file: BinaryIO, record: zipfile.ZipInfo) -> tuple[Any, ...]:
    """The fields of a record's own header, after which the file stands."""
    file.seek(record.header_offset)
    return _HEADER.unpack(file.read(_HEADER.size))


def _is_sound(file: BinaryIO, record: zipfile.ZipInfo, limit: int) -> bool:
    """Whether a record's own header agrees with the directory, and its data end where they should, before `limit`."""
    signature, _, flags, _, _, _, _, _, size, name_size, extra_size = _header(file, record)
    if signature != b"PK\x03\x04" or file.read(name_size) != record.orig_filename.encode():
        return False
    end: int = record.header_offset + _HEADER.size + name_size + extra_size + record.file_size
    if not flags & _HAS_DESCRIPTOR:
        return end == limit and size in (record.file_size, _SIZE_IN_EXTRA)
    if record.file_size == 0:  # torch writes no descriptor then
        return end <= limit
    file.seek(end)
    return end + len(_DESCRIPTOR) <= limit and file.read(len(_DESCRIPTOR)) == _DESCRIPTOR
