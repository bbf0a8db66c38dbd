"""The base of all methods: a frozen dataclass of hyper-parameters that may act in four places of the sampling loop."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ..models import Control, Site
from ..models.attention import Kind
from ..prompt import Parsed
from .conditioning import Conditioning, classifier_free
from .options import apply_rules
from .task import Task


class GuidanceResult(NamedTuple):
    """The outcome of a guide before one model call: the new latents [B, 4, h, w], and of each sample the loss and its
    gradient's norm at the last step, [B], NaN where it was left alone; None if the call is not guided."""

    latents: Tensor
    losses: Tensor | None = None
    gradient_norms: Tensor | None = None


Start = Callable[[Tensor], Tensor]
"""z [B, 4, h, w] -> z: the noise that each sample starts from instead, a function of its own noise only."""

Guide = Callable[[Tensor, Any, int], GuidanceResult]
"""(z, t, i) -> what was done to z before model call i at timestep t: a number, or one for each sample, [B]."""

Controls = Callable[[int], Control | None]
"""i -> what rewrites attention in model call i, or None if nothing does."""

PLACES = ("start", "conditioning", "control", "guide")
"""Where a method may act, in the order of a run."""


@dataclass(frozen=True)
class Needs:
    """A method's requirements: `groups` (the prompt's objects), `boxes` (of these), `phrases` (its noun phrases), the
    attention sites that it reads or rewrites, in words, of which "cross" and "self" are looked for in the network, and
    whether it takes a gradient through them."""

    groups: bool = False
    boxes: bool = False
    phrases: bool = False
    sites: str = "none"
    gradient: bool = False

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of attention that `sites` names."""
        kinds: tuple[Kind, ...] = ("cross", "self")
        return tuple(kind for kind in kinds if kind in self.sites.replace(",", " ").split())


@dataclass(frozen=True)
class Cost:
    """The cost of one image at most, in passes of a single sample through the U-Net.

    `predictions` are whole forwards, `attention` forwards that stop at the last site that is read, `backwards` the
    backward passes from there.
    """

    predictions: int
    attention: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods: plain Stable Diffusion, until a subclass overrides one of the four places.

    The defaults of options are Stable Diffusion v1's; `ebama.methods.presets` holds those of other models. `changes`
    and `reference` say what the method does and who published it, in a line each. A method that `edits_prompts` makes
    one prompt's image from another's, so all prompts of a seed run together. What stands between `separator`s of a
    prompt is encoded on its own.
    """

    name: ClassVar[str]
    changes: ClassVar[str]
    reference: ClassVar[str]
    needs: ClassVar[Needs] = Needs()
    edits_prompts: ClassVar[bool] = False
    separator: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        apply_rules(self)

    @property
    def places(self) -> tuple[str, ...]:
        """Those of `PLACES` in which it acts: what its class overrides."""
        return tuple(place for place in PLACES if getattr(type(self), place) is not getattr(Method, place))

    def sites(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        """The sites of `task.network` that it may read or rewrite: all."""
        return task.network.sites(latent_shape)

    def check_sites(self, task: Task, latent_shape: Sequence[int]) -> None:
        """Raise ValueError if there is no site of a kind that it `needs`, in the network or among those chosen."""
        size = "x".join(map(str, latent_shape[-2:]))
        listed = task.network.sites(latent_shape)
        self._expect_kinds(listed, f"that the network lists for latents of {size}")
        chosen = [site for site in listed if site.name in task.sites] if task.sites else []  # unknown ones it refuses
        self._expect_kinds(chosen or self.sites(task, latent_shape), f"that are read of latents of {size}")

    def _expect_kinds(self, sites: Sequence[Site], which: str) -> None:
        if missing := [kind for kind in self.needs.kinds if kind not in {site.kind for site in sites}]:
            there = ", ".join(map(str, sites[:6])) + (", ..." if len(sites) > 6 else "") or "none"
            raise ValueError(f"{self.name} needs sites of {' and '.join(missing)}-attention; those {which}: {there}.")

    def start(self, task: Task) -> Start | None:
        """What moves the initial noise, once, before the first model call."""
        return None

    def conditioning(self, task: Task) -> Conditioning:
        """Classifier-free guidance, e_u + w (e_c - e_u); without guidance (w = 1) only the prompt is run."""
        inputs, count = task.inputs, len(task.context)
        if inputs.guidance == 1:
            return Conditioning.prompts_alone(task.context)
        return classifier_free(inputs.negative_context, task.context, range(count), [inputs.guidance] * count)

    def control(self, task: Task, conditioning: Conditioning) -> Controls | None:
        """The control that rewrites attention in the noise predictions; its batch are the conditioning's rows.

        It acts in the guided passes too, where the rows are the prompts of the samples at hand."""
        return None

    def guide(self, task: Task) -> Guide | None:
        """The guide that moves the latent before each model call."""
        return None

    def cost(self, prompt: Parsed, calls: int) -> Cost:
        """The cost of an image of a prompt at most with classifier-free guidance."""
        return Cost(predictions=2 * calls)

    def describe(self) -> dict[str, Any]:
        """Name and hyper-parameters, as recorded in every output."""
        return {"name": self.name, **asdict(self)}
