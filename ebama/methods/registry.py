"""The methods by name, and how a user names one with its options."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..checks import expect, short
from ..guidance import AnyMethod, Composition, Method, Needs, compose
from ..models import SD_V1, StableDiffusionConfig
from .presets import preset

_METHODS: dict[str, type[Method]] = {}


def register(values: Iterable[Any]) -> None:
    """Let those of the values that are methods with a name be known by it, in this order."""
    methods = [value for value in values if isinstance(value, type) and issubclass(value, Method)]
    _METHODS.update((method.name, method) for method in methods if hasattr(method, "name"))


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(_METHODS)


@dataclass(frozen=True)
class Choice:
    """A method and those of its options that were named; the model at hand decides the others.

    Attributes:
        method: the class.
        options: (name, value) pairs in the order of its fields.
        parts: the choices of a composition, which has no options of its own.
    """

    method: type[Method]
    options: tuple[tuple[str, Any], ...] = ()
    parts: tuple[Choice, ...] = ()

    def complete(self, config: StableDiffusionConfig = SD_V1) -> Method:
        """The method for a model of this shape: what was named, then the model's presets, then the defaults."""
        if self.parts:
            return compose([part.complete(config) for part in self.parts])
        return self.method(**(preset(self.method.name, config) | dict(self.options)))

    def text(self, config: StableDiffusionConfig = SD_V1) -> str:
        """The text that `parse` reads as this choice; options that a model of this shape has anyway go unsaid."""
        if self.parts:
            return ",".join(part.text(config) for part in self.parts)
        usual = self.method(**preset(self.method.name, config))
        said = [f"{name}={json.dumps(value)}" for name, value in self.options if value != getattr(usual, name)]
        return "+".join((self.method.name, *said))

    @property
    def needs(self) -> Needs:
        """What the method requires."""
        return self.complete().needs


def complete(method: AnyMethod, config: StableDiffusionConfig = SD_V1) -> Method:
    """The method for a model of this shape; a `Method` is used as it is, several become a `Composition`.

    Raises ValueError for what names no method, and for methods that cannot run together.
    """
    if isinstance(method, str):
        method = parse(method)
    if isinstance(method, Choice):
        return method.complete(config)
    if isinstance(method, Method):
        return method
    if not isinstance(method, Sequence):
        raise ValueError(f"method is {short(method)}; expected a name, a method, or several, as ['syngen', 'ane'].")
    return compose([complete(part, config) for part in method])


def get(name: str, /, **options: Any) -> Choice:
    """The method called `name` with some of its options set, or several as `Method.describe` says them: "syngen,ane"
    with `parts`, the name and options of each.

    Raises ValueError for an unknown name, an unknown option or a value out of range.
    """
    expect("method", name, isinstance(name, str), "a name")
    if "," in name:
        return _several(name, **options)
    if name not in _METHODS:
        raise ValueError(f"There is no method {short(name)}; choose one of {', '.join(names())}.")
    method = _METHODS[name]
    known = [field.name for field in fields(method)]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"Method {name!r} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}.")
    checked = method(**options)
    return Choice(method, tuple((option, getattr(checked, option)) for option in known if option in options))


def parse(text: str) -> Choice:
    """The method that a text such as "ebama" or "ebama+intensity_weight=0+center=true" names, with its options; or
    several, with commas between them, as "syngen,ane+step_size=5".

    Values are JSON where they can be (True is true), else strings. Such a text also serves as the name of a folder.
    Raises ValueError as `get` does.
    """
    expect("method", text, isinstance(text, str), "a text, as 'ebama+step_size=5'")
    if len(texts := re.split(_BETWEEN_METHODS, text)) > 1:
        return _composed([parse(part) for part in texts])
    name, *options = re.split(r"\+(?=[a-z_]+=)", text)
    pairs = [option.split("=", 1) for option in options]
    keys = [key for key, _ in pairs]
    expect("method", text, len(set(keys)) == len(keys), "each option once")
    return get(name, **{key: _value(value) for key, value in pairs})


_BETWEEN_METHODS = re.compile(r",(?=[a-z][a-z0-9-]*(?:[,+]|$))")
"""A comma before a name; those inside of values, as in [7.5, -3.0], stand before something else."""


def _composed(parts: Sequence[Choice]) -> Choice:
    choice = Choice(Composition, parts=tuple(parts))
    choice.complete()  # methods that cannot run together are refused here
    return choice


def _several(name: str, parts: Any = None, **options: Any) -> Choice:
    """The composition that `Composition.describe` described; with a name alone, of methods without options."""
    names = name.split(",")
    described = [{"name": part} for part in names] if parts is None else parts
    fits = isinstance(described, list | tuple) and all(isinstance(part, Mapping) for part in described)
    if options or not fits or [part.get("name") for part in described] != names:
        raise ValueError(f"{name!r} is {len(names)} methods; expected their options as parts, one mapping for each.")
    return _composed([get(part["name"], **{key: part[key] for key in part if key != "name"}) for part in described])


def _value(text: str) -> Any:
    try:
        return None if text == "None" else json.loads(text.lower())
    except (ValueError, RecursionError):
        return text
