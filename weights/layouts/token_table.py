"""The trimmed token table: the rows that were trained, and one row for every other token.

A table of 49,408 rows of which a model has learned a few hundred is stored as those rows, their ids and the row
that all the others share.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files.tensors import Entry

_TABLE = "embeddings.token_embedding"
TABLE = f"{_TABLE}.weight"
ROWS, IDS, UNKNOWN = f"{_TABLE}.rows", f"{_TABLE}.ids", f"{_TABLE}.unknown"


def trim(table: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """Split `table` [V, D] into the rows of `ids` [n] and the one row that all others share; undone by `expand`.

    Raises ValueError if the others differ from each other: they would be lost.
    """
    ids = torch.unique(ids.to("cpu", torch.int64))
    if not (0 < len(ids) < len(table) and ids[0] >= 0 and ids[-1] < len(table)):
        raise ValueError(
            f"trim got {len(ids)} ids, {ids[:1].tolist()} to {ids[-1:].tolist()}, for a table of {len(table)} rows; "
            "expected some of its rows, but not all."
        )
    others = torch.ones(len(table), dtype=torch.bool, device="cpu")
    others[ids] = False
    rest = table[others.to(table.device)]
    unknown = rest[0]
    if not torch.equal(rest, unknown.expand_as(rest)):
        raise ValueError(
            "The rows of the token table outside `ids` differ from each other and cannot be trimmed to one; "
            "give the ids of every trained row, or set the others to one row first."
        )
    return {ROWS: table[ids.to(table.device)].clone(), IDS: ids, UNKNOWN: unknown.clone()}


def expand(rows: Tensor, ids: Tensor, unknown: Tensor, vocabulary: int) -> Tensor:
    """The table [vocabulary, D] from `rows` [n, D], `ids` [n] and `unknown` [D]."""
    table = unknown.expand(vocabulary, -1).clone()
    table[ids] = rows.to(table.dtype)
    return table


def expand_entries(where: Path, entries: dict[str, Entry], vocabulary: int) -> dict[str, Entry]:
    """Replace a trimmed table among a text encoder's entries by the whole one; other entries pass through.

    Raises CheckpointError, which names `where`, if the parts do not fit together.
    """
    parts = [entries.get(name) for name in (ROWS, IDS, UNKNOWN)]
    rows, ids, unknown = parts
    if rows is None or ids is None or unknown is None:
        return entries
    if TABLE in entries:
        raise CheckpointError(f"{where} holds the token table twice, whole and trimmed; expected one of them.")
    width = unknown.shape[-1] if unknown.shape else 0
    if (
        ids.shape != rows.shape[:1]
        or not 0 < rows.shape[0] <= vocabulary
        or rows.shape[1:] != (width,)
        or ids.dtype != torch.int64
    ):
        raise CheckpointError(
            f"The trimmed token table of {where} has rows {list(rows.shape)}, ids {list(ids.shape)} ({ids.dtype}) and "
            f"unknown {list(unknown.shape)}; expected [n, D], [n] (int64) and [D], n at "
            f"most {vocabulary:,}."
        )

    def read() -> Tensor:
        numbers = ids.read()
        if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < vocabulary:
            raise CheckpointError(f"The trimmed token table of {where} has ids outside 0..{vocabulary - 1}.")
        return expand(rows.read(), numbers, unknown.read(), vocabulary)

    others = {name: entry for name, entry in entries.items() if name not in (ROWS, IDS, UNKNOWN)}
    return {**others, TABLE: Entry(TABLE, (vocabulary, width), rows.dtype, read)}
