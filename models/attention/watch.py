"""A control that looks at attention and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from .control import AttentionCall, Control
from .sites import Site, site_names


class Watch(Control):
    """Shows the scores of some sites to a function as a network runs.

    Records stay until the call ends; of what is watched nothing stays but what `see` keeps. It sees the scores that
    softmax gets if it is the last of the controls of a call. One object serves one call.
    """

    def __init__(self, sites: Iterable[Site | str], see: Callable[[AttentionCall, Tensor], object]) -> None:
        """`see` is given each site's call and its scores [batch, head, query, key], in execution order."""
        self._unseen = dict.fromkeys(site_names(sites))
        self._names, self._see = frozenset(self._unseen), see

    def edits_maps(self, site: Site) -> bool:
        """At the watched sites."""
        return site.name in self._names

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        """As they are."""
        self._unseen.pop(call.site.name, None)
        self._see(call, scores)
        return scores

    def check_seen(self) -> None:
        """Raise ValueError if the network ran without showing one of the sites."""
        if self._unseen:
            raise ValueError(
                f"The network did not show its control the scores of {', '.join(self._unseen)}; pass control= on to "
                "its attention layers, as `Control` says."
            )
