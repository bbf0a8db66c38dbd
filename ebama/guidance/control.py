"""Controls of several methods as one, and a check that the network hands on the context that a control moves."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..models import AttentionCall, Control, Site
from ..models.network import same_values
from .method import Controls


class ChainedControl(Control):
    """Several controls, each of which gets what the one before it made."""

    def __init__(self, controls: Sequence[Control]) -> None:
        self.controls = tuple(controls)

    def edits_maps(self, site: Site) -> bool:
        """Where any of them does."""
        return bool(self._editing(site))

    def contexts(self, site: Site, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys' and values' contexts, each through all of them."""
        keys = values = context
        for control in self.controls:
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
        for control in self.controls:
            call = call._replace(context=control.next_context(call))
        return call.context

    def _editing(self, site: Site) -> list[Control]:
        return [control for control in self.controls if control.edits_maps(site)]


class HandedOn(ChainedControl):
    """A control that moves the context, in one call of a network that has to hand it on from site to site.

    Where the network gives a later site the context as it was, the control would do next to nothing, and a run would be
    plain sampling under another name: ValueError.
    """

    def __init__(self, control: Control) -> None:
        super().__init__([control])
        self._moves: dict[str, tuple[Tensor, Tensor]] = {}  # by site, which checkpointing runs again

    def next_context(self, call: AttentionCall) -> Tensor:
        """The control's; raises for a site that got the context of an earlier one, from before that moved it."""
        moved = super().next_context(call)
        if call.site.kind == "cross" and call.site.name not in self._moves:
            if not any(after is call.context for _, after in self._moves.values()):
                for name, (before, after) in self._moves.items():
                    if same_values(before, call.context) and not same_values(after, call.context):
                        self._refuse(f"{call.site.name} did not get the context that {name} made")
            self._moves[call.site.name] = call.context, moved
        return moved

    def check_asked(self) -> None:
        """Raise ValueError if no site has asked for the next context in a whole prediction."""
        if not self._moves:
            self._refuse("no cross-attention site asked for the context")

    def _refuse(self, problem: str) -> None:
        raise ValueError(
            f"{type(_movers(self)[0]).__name__} moves the text context from site to site, and the network "
            f"does not hand it on: {problem}. Pass `AttentionResult.context` of each cross-attention layer to the next."
        )


def watched(controls: Controls | None, i: int) -> Control | None:
    """The control of model call i; one that moves the context is held against the network (see `HandedOn`)."""
    control = controls(i) if controls is not None else None
    return HandedOn(control) if control is not None and _movers(control) else control


def _movers(control: Control) -> list[Control]:
    """The controls among those chained that move the context."""
    if isinstance(control, ChainedControl):
        return [mover for part in control.controls for mover in _movers(part)]
    return [control] if type(control).next_context is not Control.next_context else []
