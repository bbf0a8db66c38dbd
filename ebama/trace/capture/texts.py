"""Maps of texts that were not in the prompt, from the queries that a trace keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ebama.models import Network
from ebama.models.attention.texts import calls_under, scores_of
from ebama.weights import StableDiffusion

from ...prompt import Parsed, Tokenizer, parse
from .source import Source


@dataclass(frozen=True)
class OtherTexts:
    """What makes a layer's keys of a text: the network, and how it is told.

    `encode` makes contexts [n, key, D] of texts; `latent_shape` is any (channels, h, w) that the network takes.
    """

    network: Network
    encode: Callable[[Sequence[str]], Tensor]
    tokenizer: Tokenizer
    latent_shape: tuple[int, ...]

    @classmethod
    def of(cls, sd: StableDiffusion) -> OtherTexts:
        """Those of a model."""
        side = sd.config.sample_size
        return cls(sd.unet, sd.condition, sd.tokenizer, (sd.config.unet.in_channels, side, side))

    def read(self, text: str) -> Parsed:
        """Where its words stand on the key axis."""
        return parse(text, self.tokenizer, "rules", groups=())

    @torch.no_grad()
    def maps(
        self,
        text: str,
        positions: Sequence[int],
        source: Source,
        queries: Sequence[Tensor],
        of: Literal["scores", "probabilities"],
    ) -> Tensor:
        """Maps of some of a text's tokens, their mean, [calls, h, w] float32.

        Args:
            queries: of each of the source's layers, [calls, head, query, dim].
        """
        context = self.encode([text])
        latent = torch.zeros(1, *self.latent_shape, device=context.device, dtype=context.dtype)
        keys = calls_under(self.network, latent, 1, context, source.sites)
        heads = slice(None) if source.head is None else slice(source.head, source.head + 1)
        height, width = source.resolution
        maps = torch.zeros(len(queries[0]), height * width, dtype=torch.float32, device="cpu")
        for site, of_site in zip(source.sites, queries, strict=True):
            for call, query in enumerate(of_site):
                scores = scores_of(query[None].to(context.device).float(), keys[site.name])[0, 0, heads]
                values = scores if of == "scores" else scores.softmax(dim=-1)
                maps[call] += values[..., list(positions)].mean(dim=-1).sum(dim=0).cpu()
        return (maps / source.count).view(-1, height, width)
