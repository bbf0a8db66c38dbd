"""Maps of texts that a network did not run under: its queries against their keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .control import AttentionCall
from .records import AttentionRecord, AttentionRecords, resized
from .sites import Site, select_sites, sides_of
from .watch import Watch

if TYPE_CHECKING:
    from ..network import Network


def attention_to(
    network: Network,
    z: Tensor,
    t: int | Tensor,
    context: Tensor,
    texts: Tensor,
    sites: Sequence[Site | str] | None = None,
    *,
    see: Callable[[AttentionRecord], None] | None = None,
) -> AttentionRecords:
    """The attention that latents under one text would pay to other texts, site by site.

    The queries are those of z [B, C, h, w] at timestep t under `context` [B, key, D]; the keys are those of `texts`
    [T, key, D], which the layers make themselves. Everything else is as in the layer: the records equal those of a
    plain call for the text that the latents are under.

    Args:
        sites: of cross-attention; None for all of them.
        see: is given each record as it arises; none is kept then, and the result is empty.

    Returns:
        Records of the batch [B * T], the texts of the first latent first.

    Raises:
        ValueError: sites of self-attention, whose keys are no text; a network that ignores its control.
    """
    if sites is None:
        chosen = [site for site in network.sites(z.shape) if site.kind == "cross"]
    else:
        names = select_sites(network.sites(z.shape), sites, f"latents of {list(z.shape[-2:])}")
        chosen = [site for site in network.sites(z.shape) if site.name in names]
    if pixels := [site.name for site in chosen if site.kind == "self"]:
        raise ValueError(f"{pixels[0]} is a site of self-attention, whose keys are pixels; a text has no map there.")
    records: list[AttentionRecord] = []
    count = len(z)

    def record(call: AttentionCall, scores: Tensor) -> None:
        mask = call.mask if call.mask is None or len(call.mask) == 1 or call.mask.ndim < 4 else call.mask[count:]
        keys = call._replace(key=call.key[count:], mask=mask)
        (see or records.append)(AttentionRecord(call.site, scores_of(call.query[:count], keys).flatten(0, 1)))

    watch = Watch(chosen, record)
    z = torch.cat([z, z[:1].expand(len(texts), *z.shape[1:])])
    t = torch.cat([t, t[:1].expand(len(texts))]) if isinstance(t, Tensor) and t.ndim else t
    network(z, t, torch.cat([context, texts]), control=watch)
    watch.check_seen()
    return AttentionRecords(records)


def text_maps(
    network: Network,
    z: Tensor,
    t: int | Tensor,
    context: Tensor,
    texts: Tensor,
    tokens: Sequence[Sequence[int]],
    resolution: int | tuple[int, int] | None = None,
) -> Tensor:
    """Where latents show what texts say, [B, T, h, w]: the probabilities of `attention_to`, averaged over some tokens
    of each text, layers and heads.

    Args:
        tokens: positions along the key axis, some of each text.
        resolution: of the cross-attention maps, a side or (h, w); None for all, which are brought to the largest size
            bilinearly.
    """
    size = sides_of(resolution)
    fitting = [site for site in network.sites(z.shape) if site.kind == "cross" and size in (None, site.resolution)]
    height, width = max((site.resolution for site in fitting), key=math.prod, default=(0, 0))
    total = torch.zeros(len(z) * len(texts), height, width, dtype=torch.float32, device=z.device)

    def add(record: AttentionRecord) -> None:
        maps = record.probabilities.float().sum(dim=1)
        words = [maps[row, :, list(tokens[row % len(tokens)])].mean(dim=-1) for row in range(len(maps))]
        total.add_(resized(torch.stack(words).unflatten(1, record.site.resolution), (height, width)))

    attention_to(network, z, t, context, texts, fitting, see=add)
    return (total / sum(site.heads for site in fitting)).view(len(z), len(texts), height, width)


def calls_under(network: Network, z: Tensor, t: int, text: Tensor, sites: Sequence[Site]) -> dict[str, AttentionCall]:
    """The calls of some sites for latents z [B, C, h, w] under a text [B, key, D], by name: for their keys."""
    calls: dict[str, AttentionCall] = {}
    watch = Watch(sites, lambda call, scores: calls.update({call.site.name: call}))
    network.attention(z, t, text, sites=sites, control=watch)
    watch.check_seen()
    return calls


def scores_of(query: Tensor, keys: AttentionCall) -> Tensor:
    """Scores [B, T, head, query, key] of queries [B, head, query, dim] against the keys of a call with T texts."""
    return keys.layer.scores(query[:, None], keys.key.to(query.dtype), keys.mask)
