"""A foreign module becomes a `Network`: its attention layers hand out their scores and take controls.

`adapt` opens the layers whose parts have usual names, and those that `layer` describes by attribute paths:

    network = adapt(net, context_shape=(77, 768))
    network = adapt(net, {Attn: layer(qkv="proj_in", out="mix", heads="count")}, context_shape=(77, 768))

Weights and names of the foreign module stay what they are. A layer that nobody records or controls runs its own code;
the others run `Attention` over the same weights.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping
from types import NoneType

from torch import Tensor, nn

from .foreign import AdaptedNetwork, Call, CannotAdaptError, Layer, Open, attention_over, keep_forward, usual_layer

Layers = Mapping[type[nn.Module] | str, Layer] | Iterable[type[nn.Module] | str] | None
"""Attention layers of a module, by class, or by the name of a single one: with a `layer` that says what they are like,
or, in a list, as their parts are usually named. None: every module that has such parts."""


_DESCRIBE = "Say where their parts are, adapt(net, {Class: layer(q=..., k=..., v=..., out=..., heads=...)}, ...)."


def run(net: nn.Module, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """net(z, t, context), or the first of what it returns if that is several, as diffusers' outputs are."""
    output = net(z, t, context)
    return output if isinstance(output, Tensor) else output[0]


def adapt(
    net: nn.Module,
    layers: Layers = None,
    call: Call = run,
    *,
    context_shape: tuple[int, int],
    channels: int = 4,
    vector_width: int | None = None,
) -> AdaptedNetwork:
    """Open the attention layers of a foreign module; what the module computes stays the same.

    Args:
        net: the module; it is changed in place (only the classes of its attention layers are).
        layers: which attention layers to open and what they are like, see `Layers`; None for all whose parts have usual
            names.
        call: runs the module, see `Call`; by default `net(z, t, context)`.
        context_shape: (keys, width) of the text context.
        channels: of the latents where `sites` is asked for a height and width alone.
        vector_width: of the vectors, if `call` is given a `Context` (`context.tokens`, `context.vector`).

    Raises:
        ValueError: nothing fits the description, a layer lacks a part that it names, or an argument is of a wrong type.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"net is a {type(net).__name__}; expected an nn.Module, such as the U-Net of a pipeline.")
    try:
        keys, width = (operator.index(number) for number in context_shape)
        channels = operator.index(channels)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"context_shape is {context_shape!r} and channels {channels!r}; expected (keys, width) of the text, as "
            "(77, 768), and the number of the latent's channels, as 4."
        ) from error
    chosen = _chosen(net, layers)
    if not chosen:
        asked = " or ".join(kind if isinstance(kind, str) else kind.__name__ for kind in layers or ())
        present = sorted({type(module).__name__ for module in net.modules() if "ttention" in type(module).__name__})
        raise ValueError(
            f"{type(net).__name__} holds no layer {asked or 'whose parts have usual names (to_q, q_proj, qkv, ...)'}; "
            f"classes in it that sound like attention: {', '.join(present) or 'none'}. {_DESCRIBE}"
        )
    for _, module, description in chosen:
        if not isinstance(module, Open):
            kind = type(module)
            module.__class__ = type(kind.__name__, (Open, kind), {"__module__": kind.__module__})
            keep_forward(module)
        module._description = description  # type: ignore[assignment]
    return AdaptedNetwork(net, frozenset(name for name, *_ in chosen), call, (keys, width), channels, vector_width)


def _chosen(net: nn.Module, layers: Layers) -> list[tuple[str, nn.Module, Layer]]:
    """Names and descriptions of the modules that are asked for, all of whose parts are there."""
    asked = layers if isinstance(layers, Mapping) else dict.fromkeys((nn.Module,) if layers is None else layers)
    for kind, description in asked.items():
        if not isinstance(kind, (type, str)) or not isinstance(description, (Layer, NoneType)):
            raise ValueError(
                f"layers holds {kind if description is None else {kind: description}!r}; expected {{class or name: "
                "layer(...)}, or a list of classes or names whose parts have usual names."
            )
    modules = dict(net.named_modules())
    if absent := [kind for kind in asked if isinstance(kind, str) and kind not in modules]:
        close = difflib.get_close_matches(absent[0], modules, n=3)
        raise ValueError(
            f"{type(net).__name__} holds no layer {absent[0]}"
            + (f"; close to it: {', '.join(close)}." if close else ".")
        )
    chosen = []
    for name, module in modules.items():
        fitting = [kind for kind in asked if isinstance(kind, type) and isinstance(module, kind)]
        kinds = [name] if name in asked else fitting[:1]
        description = next((asked[kind] for kind in kinds), None) or (usual_layer(module) if kinds else None)
        if description is not None:
            attention_over(name, module, description, "self")
            chosen.append((name, module, description))
        elif kinds and layers is not None:
            raise CannotAdaptError(
                f"The parts of the layer {name} ({type(module).__name__}) have no usual names. {_DESCRIBE}"
            )
    return chosen
