"""What guides, traces and samplers ask of a network: noise, attention on request, and a list of its sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .attention import AttentionRecords, Control, Kind, Request, Site, select_sites
from .attention.sites import sides_of


@runtime_checkable
class Network(Protocol):
    """A noise predictor whose attention can be read and rewritten.

    `UNet` is one; `adapt` makes one of a foreign module; a class of your own needs these three methods and no base.
    """

    def sites(self, latent_shape: Sequence[int], /) -> list[Site]:
        """Attention layers in execution order for latents [..., h, w]."""
        ...

    def attention(
        self,
        z: Tensor,
        t: int | Tensor,
        context: Tensor,
        resolution: int | tuple[int, int] | None = 16,
        kind: Kind | None = "cross",
        *,
        sites: Iterable[Site | str] | None = None,
        control: Control | None = None,
        checkpoint: bool = False,
    ) -> AttentionRecords:
        """Records of the selected sites; runs only as far as the last of them. See `UNet.attention`."""
        ...

    def __call__(
        self,
        z: Tensor,
        t: int | Tensor,
        context: Tensor,
        *,
        record: Iterable[Site | str] | None = None,
        control: Control | None = None,
        checkpoint: bool = False,
    ) -> Any:
        """The noise in z [B, C, h, w] at timestep t under context [B, key, D]; with `record`, (noise, records).

        The context is a `Context` where the conditions hold a vector too.
        """
        ...


def of_shape(available: Sequence[Site], resolution: int | tuple[int, int] | None, kind: Kind | None) -> list[Site]:
    """The sites of a resolution (side in pixels, or (h, w); None: any) and a kind (None: both)."""
    size = sides_of(resolution)
    return [
        site for site in available if (size is None or site.resolution == size) and (kind is None or site.kind == kind)
    ]


def attention_request(
    network: Network,
    z: Tensor,
    resolution: int | tuple[int, int] | None,
    kind: Kind | None,
    sites: Iterable[Site | str] | None,
    control: Control | None,
) -> Request:
    """What `Network.attention` asks of the layers: to record its sites, and to stop at the last of them. ValueError as
    `select_sites` raises it."""
    available = network.sites(z.shape)
    wanted = of_shape(available, resolution, kind) if sites is None else sites
    names = select_sites(available, wanted, f"latents of {list(z.shape[-2:])}")
    last = [site.name for site in available if site.name in names][-1]
    return Request(names, stop_after=last, control=control)


def same_values(first: Tensor, second: Tensor) -> bool:
    """Whether two contexts are the same: one tensor, or equal ones."""
    return first is second or (first.shape == second.shape and torch.equal(first.to(second), second))
