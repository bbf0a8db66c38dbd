"""Controls of several methods as one, and a check that the network asks them and hands on the context they move."""

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


class CheckedControl(ChainedControl):
    """A control in one call of a network, held against what the network does with it.

    A network that does not ask it, or that gives a later site the context as it was before an earlier one moved it,
    would make the run plain sampling under another name: ValueError.
    """

    def __init__(self, control: Control) -> None:
        super().__init__([control])
        self._asked: set[str] = set()
        self._moves: dict[str, tuple[Tensor, Tensor]] = {}  # by site, which checkpointing runs again

    def edits_maps(self, site: Site) -> bool:
        """As the control says."""
        edits = super().edits_maps(site)
        self._asked.add("maps" if edits else "no maps")
        return edits

    def contexts(self, site: Site, context: Tensor) -> tuple[Tensor, Tensor]:
        """The control's."""
        self._asked.add("contexts")
        return super().contexts(site, context)

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        """The control's."""
        self._asked.add("scores")
        return super().scores(call, scores)

    def probabilities(self, call: AttentionCall, probabilities: Tensor) -> Tensor:
        """The control's."""
        self._asked.add("probabilities")
        return super().probabilities(call, probabilities)

    def next_context(self, call: AttentionCall) -> Tensor:
        """The control's; raises for a site that got the context of an earlier one, from before that moved it."""
        moved = super().next_context(call)
        self._asked.add("next_context")
        if call.site.kind == "cross" and call.site.name not in self._moves:
            if not any(after is call.context for _, after in self._moves.values()):
                for name, (before, after) in self._moves.items():
                    if same_values(before, call.context) and not same_values(after, call.context):
                        self._lost(f"{call.site.name} did not get the context that {name} made")
            self._moves[call.site.name] = call.context, moved
        return moved

    def check_asked(self, *, whole: bool = True) -> None:
        """After the call, raise ValueError if the network has not asked for something that the control rewrites; for
        anything at all, if it has not run as a `whole`."""
        if whole and not self._moves and self._rewriting("next_context"):
            self._lost("no cross-attention site asked for the context")
        places = {"contexts", "scores", "probabilities"}
        if self._asked >= {"no maps"} and "maps" not in self._asked:
            places = {"contexts"}
        missing = {place: rewriting for place in places - self._asked if (rewriting := self._rewriting(place))}
        if missing if whole else not self._asked:
            control = next(iter(missing.values()), self.controls)[0]
            raise ValueError(
                f"{type(control).__name__} rewrites attention, and the network does not let it: it never asked for "
                f"{' or '.join(sorted(missing)) or 'anything'}. Pass `control=` on to the attention layers; "
                "`Attention` does the rest with Request(control=control)."
            )

    def _rewriting(self, place: str) -> list[Control]:
        """The controls among those chained that override a method."""
        return [leaf for leaf in _leaves(self) if getattr(type(leaf), place) is not getattr(Control, place)]

    def _lost(self, problem: str) -> None:
        raise ValueError(
            f"{type(self._rewriting('next_context')[0]).__name__} moves the text context from site to site, and the "
            f"network does not hand it on: {problem}. Pass `AttentionResult.context` of each cross-attention layer to "
            "the next."
        )


def checked(controls: Controls | None, i: int) -> CheckedControl | None:
    """The control of model call i, held against the network."""
    control = controls(i) if controls is not None else None
    return CheckedControl(control) if control is not None else None


def _leaves(control: Control) -> list[Control]:
    """The controls that are chained in one, which are chains of none."""
    if isinstance(control, ChainedControl):
        return [leaf for part in control.controls for leaf in _leaves(part)]
    return [control]
