"""Inversion: the noise from which a model comes back to a picture that exists, and how it does so under guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ebama.models import Context
from ebama.models.conditions import with_tokens
from ebama.samplers import DDIM
from ebama.samplers.sampler import Progress, Step

from ..checks import expect
from ..guidance import Conditioning, Method, Task
from ..guidance.options import apply_rules, number, option, whole
from ..runtime.progress import Bar
from .images import digest


@dataclass(frozen=True)
class NullText:
    """Null-text optimisation (Mokady et al. 2023): in each model call other tokens stand for the negative prompt, so
    that sampling under guidance stays on the way that inversion took.

    It starts from the negative prompt's tokens and goes on from those of the call before. Adam makes the mean square of
    z* - step(z, e_u + w (e_c - e_u)) smaller, where z* is the next latent on that way. As published, its learning rate
    falls evenly to half, and the mean square at which it stops rises by 0.001 over the run.

    A picture costs, besides what sampling it costs, `iterations` predictions of one row in each call at most, and as
    many backward passes through the whole network.

    Attributes:
        guidance: w, which sampling should have too.
        iterations: of Adam in each model call, at most.
        learning_rate: of Adam in the first call.
        tolerance: the mean square at which the first call stops.
    """

    guidance: float = option(7.5, number())
    iterations: int = option(10, whole(least=1))
    learning_rate: float = option(1e-2, number(lambda x: x > 0, "a positive number"))
    tolerance: float = option(1e-5, number())

    def __post_init__(self) -> None:
        apply_rules(self)


@dataclass(frozen=True, eq=False)
class Inversion:
    """Pictures as noise: `Pipeline(...)(prompt, image=inversion)` samples from it with any method.

    Attributes:
        latents: where sampling begins, [N, 4, h, w] float32 on the CPU.
        sampler: whose steps lead back.
        images: the pictures, as the VAE saw them.
        recipes: for each picture what a `Recipe` says of it.
        null_texts: [N, calls, key, D] float32 on the CPU, as `NullText` makes them; None without.
    """

    latents: Tensor
    sampler: DDIM
    images: tuple[Image.Image, ...]
    recipes: tuple[Mapping[str, Any], ...]
    null_texts: Tensor | None = None


def described(stored: object) -> dict[str, Any]:
    """The "inversion" of a picture's recipe as arguments of `Pipeline.invert`; ValueError for what it does not take."""
    known = ("prompt", "guidance", "rounds", "null_text", "negative_prompt")
    facts: dict[str, Any] = dict(stored) if isinstance(stored, Mapping) else {}
    fits = "prompt" in facts and facts.keys() <= set(known)
    expect("image.inversion", stored, fits, f"a prompt and perhaps {', '.join(known[1:])}")
    if "null_text" in facts:
        options, entries = facts["null_text"], NullText.__dataclass_fields__
        fits = isinstance(options, Mapping) and options.keys() <= entries.keys()
        expect("image.inversion.null_text", options, fits, f"values for {', '.join(entries)}")
        facts["null_text"] = NullText(**options)
    return facts


@dataclass(frozen=True)
class Inverter:
    """DDIM inversion of latents under the conditioning of a method.

    Attributes:
        rounds: see `DDIM.invert`.
        null_text: None for no null texts.
        negative_prompt: what the task says of it, for recipes.
        progress: show bars.
        on_call: told (done, all) of the model calls that lead to noise; what it raises ends the run.
    """

    method: Method
    sampler: DDIM
    rounds: int = 1
    null_text: NullText | None = None
    negative_prompt: str = ""
    progress: bool = False
    on_call: Callable[[int, int], None] | None = None

    def run(self, task: Task, latents: Tensor, images: Sequence[Image.Image], batch_size: int) -> Inversion:
        """The inversion of pictures, whose clean latents [N, 4, h, w] these are, `batch_size` at once.

        Raises FloatingPointError if a latent becomes infinite or NaN.
        """
        batches = [list(range(len(latents))[first:][:batch_size]) for first in range(0, len(latents), batch_size)]
        done = count(1)

        def told() -> None:
            if self.on_call is not None:
                self.on_call(next(done), len(batches) * task.calls * self.rounds)

        noises, texts = zip(*(self._batch(task.select(batch), latents[batch], told) for batch in batches), strict=True)
        inputs = task.inputs
        facts: dict[str, Any] = {"guidance": inputs.guidance, "rounds": self.rounds}
        facts |= {"negative_prompt": self.negative_prompt} if self.negative_prompt else {}
        facts |= {} if self.null_text is None else {"null_text": asdict(self.null_text)}
        return Inversion(
            torch.cat(noises),
            self.sampler,
            tuple(images),
            tuple(
                {"sha256": digest(image), "inversion": {"prompt": parsed.prompt, **facts}}
                for image, parsed in zip(images, inputs.prompts, strict=True)
            ),
            None if self.null_text is None else torch.cat(texts),
        )

    def _batch(self, task: Task, latents: Tensor, told: Callable[[], None]) -> tuple[Tensor, Tensor | None]:
        """Noise [B, 4, h, w] and null texts of one batch, float32 on the CPU; every model call is `told`."""
        conditioning = self.method.conditioning(task)

        def denoise(z: Tensor, t: int) -> Tensor:
            output = conditioning.predict(task.network, z, t)
            told()
            return output

        path = self.sampler.invert(
            denoise,
            latents.to(task.context.device),
            rounds=self.rounds,
            progress=self._bar("inversion"),
        )
        if not path[0].isfinite().all():
            raise FloatingPointError("The latent became infinite or NaN in its inversion; lower the guidance.")
        if self.null_text is None:
            return path[0].cpu(), None
        return path[0].cpu(), _null_texts(task, self.sampler, path, self.null_text, self._bar("null text"))

    def _bar(self, label: str) -> Progress | None:
        return partial(Bar, desc=label, leave=False) if self.progress else None


Reach = Callable[[Tensor, list[int]], Tensor]
"""(tokens [n, key, D], samples [n]) -> the latents of those samples after one step under guidance."""


def _null_texts(
    task: Task, sampler: DDIM, path: Sequence[Tensor], options: NullText, progress: Progress | None
) -> Tensor:
    """[B, calls, key, D] float32 on the CPU; `path` is that of `DDIM.invert`."""
    z, empty, made = path[0], task.inputs.negative_context, []
    tokens = (empty.tokens if isinstance(empty, Context) else empty).float()
    step, calls = sampler.stepper(z, None), sampler.timesteps
    for i, t in enumerate(progress(calls) if progress else calls):
        share = i / len(calls)
        rate, tolerance = options.learning_rate * (1 - share / 2), options.tolerance + 1e-3 * share
        reach = _reach(task, options.guidance, step, z, t, i)
        tokens = _optimised(tokens, reach, path[i + 1], options.iterations, rate, tolerance)
        z = reach(tokens, list(range(len(z))))
        made.append(tokens.cpu())
    return torch.stack(made, dim=1)


def _reach(task: Task, guidance: float, step: Step, z: Tensor, t: int, i: int) -> Reach:
    """What model call i at timestep t makes of z [B, 4, h, w]."""
    empty = task.inputs.negative_context

    def predicted(context: Tensor, z: Tensor) -> Tensor:
        return Conditioning.prompts_alone(context).predict(task.network, z, t, checkpoint=task.checkpoint)

    prompted = predicted(task.context, z)

    def reach(tokens: Tensor, samples: list[int]) -> Tensor:
        e_u = predicted(with_tokens(empty[samples], tokens.to(empty.dtype)), z[samples])
        return step(z[samples], e_u + guidance * (prompted[samples] - e_u), t, i)

    return reach


def _optimised(tokens: Tensor, reach: Reach, target: Tensor, iterations: int, rate: float, tolerance: float) -> Tensor:
    """The tokens [B, key, D] of one call; a sample stops with the step at which its error was small enough."""
    rows = [row.clone().requires_grad_(True) for row in tokens]
    adams, moving = [torch.optim.Adam([row], lr=rate) for row in rows], list(range(len(rows)))
    for _ in range(iterations):
        chosen = [rows[sample] for sample in moving]
        with torch.enable_grad():
            squares = (reach(torch.stack(chosen), moving) - target[moving]).square().flatten(1)
            gradients = torch.autograd.grad(squares.sum(), chosen)  # of the mean it would vanish in half precision
        for sample, gradient in zip(moving, gradients, strict=True):
            rows[sample].grad = gradient / squares.shape[1]
            adams[sample].step()
        errors = zip(moving, squares.mean(dim=1).tolist(), strict=True)
        moving = [sample for sample, error in errors if error > tolerance]
        if not moving:
            break
    return torch.stack([row.detach() for row in rows])


def paired(images: Sequence[Image.Image], prompts: Sequence[str]) -> tuple[list[Image.Image], list[str]]:
    """Pictures and prompts, where one of either stands for all."""
    count = max(len(images), len(prompts))
    if {len(images), len(prompts)} - {1, count}:
        raise ValueError(
            f"image has {len(images)} pictures for {len(prompts)} prompts; give one for all or one for each."
        )
    return list(images) * (count // len(images)), list(prompts) * (count // len(prompts))
