"""Guides and starts of any method on any network, without a checkpoint, a prompt or a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from ..checks import expect, is_whole, items, plain, short
from ..maps import Groups, Tokens, WordPositions, groups_and_tokens
from ..models import Network, Site, UNet
from ..models.attention import site_names
from ..models.foreign.adapted import AdaptedNetwork
from ..prompt import Parsed
from .gradient import call_number, check_latents
from .method import Guide, Method, Start
from .task import Task


class MethodChoice(Protocol):
    """What `ebama.methods.get` returns."""

    def complete(self) -> Method:
        """The method, with Stable Diffusion v1's options where none were named."""
        ...


AnyMethod = str | Method | MethodChoice | Sequence[str | Method | MethodChoice]
"""A method, its name (with options, as "ane+step_size=5"), a choice of it, or several of these in one run."""

_COMPUTED = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_MOST_CALLS = 100_000  # more than any schedule has timesteps


def guide_for(
    method: AnyMethod,
    network: Network,
    context: Tensor,
    groups: Groups | Parsed | Sequence[Parsed],
    tokens: Tokens | None = None,
    *,
    calls: int,
    sites: Iterable[Site | str] | None = None,
    checkpoint: bool = False,
) -> Guide:
    """The guide of a method on a network of your own: (z [B, C, h, w], t, i) -> latents, losses, gradient norms.

    Call it before model call i of your sampling loop, with the timestep t that the network takes then: a number, or
    one for each sample. A guide may remember earlier calls, so make one for each run.

    Args:
        method: see `AnyMethod`; a name has Stable Diffusion v1's options.
        network: `adapt` makes one of a foreign module.
        context: text encodings of the samples, [B, key, D]; brought to the precision of the network's weights, where
            these have one.
        groups: objects and modifiers as positions along the keys, for all samples or a list for each; or prompts as
            `ebama.prompt.parse` reads them, one for all samples or one for each.
        tokens: content positions along the keys, likewise; None for those of the prompts.
        calls: how many model calls the loop makes.
        sites: whose maps guide (or their names); None for those that the method chooses.
        checkpoint: see `Network.attention`.

    Raises:
        ValueError: an unknown method, one without a guide, or one that needs the prompts' texts.
    """
    chosen = _method(method)
    names = None if sites is None else site_names(sites)
    task = replace(_task(chosen, network, context, groups, tokens, calls), sites=names, checkpoint=checkpoint)
    guide = chosen.guide(task)
    if guide is None:
        raise _lacking("guide", chosen)
    return lambda z, t, i: guide(z, t, call_number(i))


def start_for(
    method: AnyMethod,
    network: Network,
    context: Tensor,
    groups: Groups | Parsed | Sequence[Parsed],
    tokens: Tokens | None = None,
    *,
    calls: int,
    timestep: int = 999,
    generators: Sequence[torch.Generator] = (),
) -> Start:
    """What a method makes of the initial noise on a network of your own: z [B, C, h, w] -> z.

    `timestep` is that of the noise, the network's first. `generators`, one for each sample and on the CPU, are where
    fresh noise comes from; without any, it depends on the noise alone. The rest is as for `guide_for`.
    """
    chosen = _method(method)
    task = _task(chosen, network, context, groups, tokens, calls)
    listed = items(generators) if generators else []
    if not all(isinstance(one, torch.Generator) and one.device.type == "cpu" for one in listed):
        raise ValueError(f"generators are {short(generators)}; expected torch.Generator, all on the CPU.")
    if generators and len(listed) != len(context):
        raise ValueError(f"generators are {len(listed)} for {len(context)} contexts; expected one for each.")
    start = chosen.start(replace(task, first_timestep=timestep, generators=listed))
    if start is None:
        raise _lacking("start", chosen)
    moved = start

    def checked(z: Tensor) -> Tensor:
        check_latents(z, len(context))
        return moved(z)

    return checked


def _method(method: AnyMethod) -> Method:
    if isinstance(method, Method):
        return method
    # The one look upward, when a name is asked for: this room knows where methods are listed and not which there are,
    # so that it serves methods from anywhere and no import of it brings one.
    complete: Callable[[AnyMethod], Method] = import_module("..methods", __package__).complete
    return complete(method)


def _task(
    method: Method,
    network: Network,
    context: Tensor,
    groups: Groups | Parsed | Sequence[Parsed],
    tokens: Tokens | None,
    calls: int,
) -> Task:
    if not isinstance(context, Tensor) or context.ndim != 3:
        shape = list(context.shape) if isinstance(context, Tensor) else type(context).__name__
        raise ValueError(f"context is {shape}; expected a tensor [B, key, D], one text encoding for each sample.")
    if not isinstance(network, Network):
        raise ValueError(
            f"network is a {type(network).__name__} without `sites`, `attention` and `__call__`; expected a Network: "
            "ebama.models.adapt makes one of a foreign module."
        )
    calls = plain(calls)
    good = is_whole(calls) and 1 <= calls <= _MOST_CALLS
    expect("calls", calls, good, f"how many model calls your loop makes, from 1 to {_MOST_CALLS:,}")
    prompts: Any = list(groups) if isinstance(groups, Iterator) else groups
    if isinstance(prompts, Parsed):
        prompts, content = prompts.groups, prompts.tokens
    elif isinstance(prompts, Iterable) and (listed := [*prompts]) and all(isinstance(each, Parsed) for each in listed):
        prompts, content = [prompt.groups for prompt in listed], [prompt.tokens for prompt in listed]
    else:
        content = None
    tokens = content if tokens is None else tokens
    if tokens is None:
        raise ValueError("tokens are None; expected the content positions, or prompts as `parse` reads them as groups.")
    context = context.to(_precision(network) or context.dtype)
    task = Task(network, context, *groups_and_tokens(prompts, tokens, len(context)), calls=calls, steps=calls)
    words = [[word for group in sample for word in (group.object, *group.modifiers)] for sample in task.groups]
    for positions in (words, [[sample] for sample in task.tokens]):
        WordPositions.of(positions).check(context.shape[1])
    boxes = [getattr(group, "box", None) for sample in task.groups for group in sample]
    if method.needs.boxes and boxes and not any(boxes):
        raise ValueError(
            f"{method.name} places objects in boxes, and got none; give them in the groups, as "
            "Group((3,), box=(0, 0.2, 0.5, 0.8)): left, top, right and bottom in fractions of the picture."
        )
    return task


def _precision(network: Network) -> torch.dtype | None:
    """The one dtype of our own network's weights, or of an adapted one's; None if they have several, or compute in
    another."""
    weights = network.parameters() if isinstance(network, UNet | AdaptedNetwork) else ()
    dtypes = {weight.dtype for weight in weights if weight.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 and dtypes <= _COMPUTED else None


def _lacking(place: str, method: Method) -> ValueError:
    acts = f"it acts by its {' and '.join(method.places)}" if method.places else "it is plain sampling"
    return ValueError(
        f"{method.name} has no {place}: {acts}. Run it in a Pipeline, with your network by "
        "Pipeline(dataclasses.replace(sd, unet=network))."
    )
