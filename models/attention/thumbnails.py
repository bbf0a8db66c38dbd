"""Attention records as a table of HTML, with small maps in it."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from .records import AttentionRecord

MAPS = 8
"""Of a site, at most."""
SIDE = 16
"""Pixels of a map's longer side, at most: a site takes less than 4 KB."""
MOST_SITES = 64
"""That show maps; the others are rows of numbers."""
COLUMNS = ("site", "kind", "maps", "batch", "heads", "keys", "lowest score", "highest score", "first sample")


def records_html(records: Sequence[AttentionRecord]) -> str:
    """A row for each site; the maps are of the first sample, the mean over the heads, each from 0 to its highest."""
    rows = []
    for index, record in enumerate(records):
        batch, heads, _, keys = record.scores.shape
        limits = [f"{value.item():.3g}" for value in record.scores.detach().aminmax()] if batch else ["", ""]
        maps = "x".join(map(str, record.site.resolution))
        facts = (record.site.name, record.site.kind, maps, batch, heads, keys, *limits)
        picture = _picture(record) if batch and index < MOST_SITES else ""
        rows.append("".join(f"<td>{escape(str(cell))}</td>" for cell in facts) + f"<td>{picture}</td>")
    header = "".join(f"<th>{column}</th>" for column in COLUMNS)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"


@torch.no_grad()
def _picture(record: AttentionRecord) -> str:
    """Maps side by side: of the first keys of cross-attention, of evenly spread queries of self-attention."""
    first = record.select(slice(1))
    if record.site.kind == "cross":
        maps, label = first.probabilities[0, ..., :MAPS].float().mean(dim=0).T, "the first keys"
    else:
        pixels = torch.linspace(0, first.scores.shape[2] - 1, MAPS + 2, device="cpu").round().long().unique()[1:-1]
        given = first.given_probabilities
        rows = first.scores[0, :, pixels].float().softmax(-1) if given is None else given[0, :, pixels].float()
        maps, label = rows.mean(dim=0), f"where pixels {', '.join(map(str, pixels.tolist()))} look"
    height, width = record.site.resolution
    size = smaller((height, width), SIDE)
    small = F.adaptive_avg_pool2d(maps.nan_to_num().reshape(-1, 1, height, width), size)
    small = small / small.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    strip = F.pad(small, (0, 1), value=1.0)[:, 0].permute(1, 0, 2).flatten(1)
    image = base64.b64encode(_png((strip * 255).round().byte().cpu())).decode()
    style = f"height: {2 * size[0]}px; min-height: 16px; image-rendering: pixelated"
    return f'<img src="data:image/png;base64,{image}" alt="Maps: {label}" title="{label}" style="{style}">'


def smaller(resolution: tuple[int, int], side: int) -> tuple[int, int]:
    """A size whose longer side is at most `side`."""
    shrink = min(side / max(resolution), 1)
    return max(round(resolution[0] * shrink), 1), max(round(resolution[1] * shrink), 1)


def _png(grey: Tensor) -> bytes:
    """Bytes [h, w] as a PNG file."""
    height, width = grey.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits a pixel, grey
    lines = b"".join(b"\0" + bytes(row) for row in grey.tolist())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
