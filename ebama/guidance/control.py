"""Controls of several methods as one, and a check that the network hands on the context that a control moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ebama.models import AttentionCall, Control, Site

from .method import Controls


class ChainedControl(Control):
    """Several controls, each of which gets what the one before it made."""

    def __init__(self, controls: Sequence[Control]) -> None:
        self._controls = tuple(controls)

    def edits_maps(self, site: Site) -> bool:
        """Where any of them does."""
        return bool(self._editing(site))

    def contexts(self, site: Site, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys' and values' contexts, each through all of them."""
        keys = values = context
        for control in self._controls:
            keys, values = control.contexts(site, keys)[0], control.contexts(site, values)[1]
        return keys, values

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        """Through those that edit the maps of the site."""
        for control in self._editing(call.site):
            scores = control.scores(call, scores)
        return scores

    def probabilities(self, call: AttentionCall, probabilities: Tensor) -> Tensor:
        """Through those that edit the maps of the site."""
        for control in self._editing(call.site):
            probabilities = control.probabilities(call, probabilities)
        return probabilities

    def next_context(self, call: AttentionCall) -> Tensor:
        """Through all of them."""
        for control in self._controls:
            call = call._replace(context=control.next_context(call))
        return call.context

    def _editing(self, site: Site) -> list[Control]:
        return [control for control in self._controls if control.edits_maps(site)]


class HandedOn(ChainedControl):
    """A control that moves the context, in one call of a network that has to hand it on from site to site.

    Where the network does not, the control would do nothing, and a run would be plain sampling under another name:
    ValueError.
    """

    def __init__(self, control: Control) -> None:
        super().__init__([control])
        self._seen: set[str] = set()  # checkpointing runs a site again
        self._last: tuple[str, Tensor] | None = None

    def next_context(self, call: AttentionCall) -> Tensor:
        """The control's; raises unless the site got that of the cross-attention site before it."""
        moved = super().next_context(call)
        if call.site.kind == "cross" and call.site.name not in self._seen:
            if self._last is not None and not _is_same(call.context, self._last[1]):
                self._refuse(f"{call.site.name} did not get the context that {self._last[0]} made")
            self._seen.add(call.site.name)
            self._last = call.site.name, moved
        return moved

    def check_asked(self) -> None:
        """Raise ValueError if no site has asked for the next context in a whole prediction."""
        if self._last is None:
            self._refuse("no cross-attention site asked for the context")

    def _refuse(self, problem: str) -> None:
        raise ValueError(
            f"{type(self._controls[0]).__name__} moves the text context from site to site, and the network does not "
            f"hand it on: {problem}. Pass `AttentionResult.context` of each cross-attention layer to the next one."
        )


def watched(controls: Controls | None, i: int) -> Control | None:
    """The control of model call i; one that moves the context is held against the network (see `HandedOn`)."""
    control = controls(i) if controls is not None else None
    if control is None or type(control).next_context is Control.next_context:
        return control
    return HandedOn(control)


def _is_same(first: Tensor, second: Tensor) -> bool:
    return first is second or (first.shape == second.shape and torch.equal(first.to(second), second))
