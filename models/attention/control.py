"""What rewrites attention, or looks at it, while a network runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from .sites import Site

if TYPE_CHECKING:
    from .layer import Attention


class AttentionCall(NamedTuple):
    """The inputs of one attention layer before it computes; given to a control.

    `query` and `key` are [batch, head, query | key, dim]; `context` [batch, key, D] is the layer's input, before
    `Control.contexts` replaces it. `mask` is what the layer applies to the scores, as its `forward` takes it.
    """

    site: Site
    layer: Attention
    query: Tensor
    key: Tensor
    context: Tensor
    mask: Tensor | None = None


class Control:
    """Rewrites attention while a network runs; override what you need, the defaults change nothing.

    Passed as `control=` to one call of the network, it sees every site of that call in execution order.
    """

    def edits_maps(self, site: Site) -> bool:
        """Whether `scores` and `probabilities` are wanted at this site; False leaves it to fused attention.

        True if the class overrides one of them."""
        kind = type(self)
        return kind.scores is not Control.scores or kind.probabilities is not Control.probabilities

    def contexts(self, site: Site, context: Tensor) -> tuple[Tensor, Tensor]:
        """The contexts, each [batch, key, D], from which this site makes its keys and its values."""
        return context, context

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        """The scores [batch, head, query, key] to use instead of `scores`."""
        return scores

    def probabilities(self, call: AttentionCall, probabilities: Tensor) -> Tensor:
        """The probabilities [batch, head, query, key] to use instead; they need not sum to 1."""
        return probabilities

    def next_context(self, call: AttentionCall) -> Tensor:
        """The text context [batch, key, D] that the cross-attention sites after this one see, until the call ends."""
        return call.context
