"""The list of all methods, to which a new one adds a line, and how a user names one with its options."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import Any

from ebama.models import StableDiffusionConfig

from ..guidance.method import Method
from .ane import AttendAndExcite
from .cd import ComposableDiffusion
from .conform import Conform
from .divide_and_bind import DivideAndBind
from .ebama import Ebama
from .ebama_official import EbamaOfficial
from .ebca import EnergyBasedCrossAttention
from .p2p import PromptToPrompt
from .presets import preset
from .sd import StableDiffusionBaseline
from .strd import StructuredDiffusion
from .syngen import SynGen

_METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        StableDiffusionBaseline,
        ComposableDiffusion,
        StructuredDiffusion,
        EnergyBasedCrossAttention,
        AttendAndExcite,
        SynGen,
        Ebama,
        EbamaOfficial,
        Conform,
        DivideAndBind,
        PromptToPrompt,
    )
}
"""In the order of the paper's Table 1, then what came after it."""


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(_METHODS)


@dataclass(frozen=True)
class Choice:
    """A method and those of its options that were named; the model at hand decides the others.

    Attributes:
        method: the class, which says what it changes and needs.
        options: (name, value) pairs in the order of its fields.
    """

    method: type[Method]
    options: tuple[tuple[str, Any], ...] = ()

    def complete(self, config: StableDiffusionConfig) -> Method:
        """The method for a model of this shape: what was named, then the model's presets, then the defaults."""
        return self.method(**(preset(self.method.name, config) | dict(self.options)))


def get(name: str, /, **options: Any) -> Choice:
    """The method called `name` with some of its options set.

    Raises ValueError for an unknown name, an unknown option or a value out of range.
    """
    if name not in _METHODS:
        raise ValueError(f"There is no method {name!r}; choose one of {', '.join(names())}.")
    method = _METHODS[name]
    known = [field.name for field in fields(method)]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"Method {name!r} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}.")
    checked = method(**options)
    return Choice(method, tuple((option, getattr(checked, option)) for option in known if option in options))


def parse(text: str) -> Choice:
    """The method that a text such as "ebama" or "ebama+intensity_weight=0+center=true" names, with its options.

    Values are JSON where they can be (True is true), else strings. Such a text also serves as the name of a folder.
    Raises ValueError as `get` does.
    """
    name, *options = re.split(r"\+(?=[a-z_]+=)", text)
    pairs = (option.split("=", 1) for option in options)
    return get(name, **{key: _value(value) for key, value in pairs})


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower())
    except (ValueError, RecursionError):
        return text
