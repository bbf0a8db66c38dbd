"""A run of a method: around each model call of a sampler's loop it guides, predicts and combines.

It knows no method by name; the loop over timesteps is `Sampler.sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ebama.samplers import Sampler

from .guidance import Method, Task
from .guidance.control import checked
from .runtime.progress import Bar
from .runtime.stops import check_stops
from .starts import InitialNoise
from .trace import Trace, TraceOptions, TraceRecorder


@dataclass(frozen=True, eq=False)
class Samples:
    """Final latents [B, 4, h, w] float32 on the CPU, losses [B, calls], and the trace if one was asked for."""

    latents: Tensor
    losses: Tensor
    trace: Trace | None

    @staticmethod
    def joined(parts: Sequence[Samples], order: Sequence[int]) -> Samples:
        """Several batches as one, whose sample k is the `order[k]`th of theirs."""
        traces = [part.trace for part in parts if part.trace is not None]
        return Samples(
            torch.cat([part.latents for part in parts])[order],
            torch.cat([part.losses for part in parts])[order],
            Trace.joined(traces, order) if traces else None,
        )


def sample_in_batches(
    task: Task,
    method: Method,
    solver: Sampler,
    starts: Sequence[InitialNoise],
    size: int,
    *,
    trace: TraceOptions | None = None,
    progress: bool = False,
    on_call: Callable[[int, int], None] | None = None,
) -> Samples:
    """Run all samples of a task, `size` at once as far as its groups of prompts allow; see `Pipeline.__call__`."""
    together, count = task.inputs.prompts_per_group, len(starts)
    order = sorted(range(count), key=lambda sample: sample % (count // together))  # the prompts of a seed side by side
    size = max(size // together, 1) * together
    batches = [order[first : first + size] for first in range(0, count, size)]

    def tell(calls_before: int, call: int) -> None:
        if on_call is not None:
            on_call(calls_before + call, len(batches) * task.calls)

    if trace is not None:
        trace.check(task.inputs.prompts)
    parts: list[Samples] = []
    for number, batch in enumerate(batches):
        label = f"{method.name} {number * size + 1}-{number * size + len(batch)} of {count}"
        noise = [starts[sample] for sample in batch]
        told = partial(tell, number * task.calls)
        parts.append(
            sample(
                task.select(batch),
                method,
                solver,
                noise,
                trace=trace,
                samples=batch,
                bar=label if progress else None,
                on_call=told,
            )
        )
    return Samples.joined(parts, sorted(range(count), key=order.__getitem__))


def sample(
    task: Task,
    method: Method,
    solver: Sampler,
    starts: Sequence[InitialNoise],
    *,
    trace: TraceOptions | None = None,
    samples: Sequence[int] = (),
    bar: str | None = None,
    on_call: Callable[[int], None] = lambda call: None,
) -> Samples:
    """Run one batch. Everything between model calls is float32.

    `samples` are their numbers in the run, for a trace in files; `bar` labels a progress bar; `on_call` is told after
    each model call how many are done. Raises FloatingPointError if a latent becomes infinite or NaN.
    """
    generators = [start.generator for start in starts]
    task = replace(task, generators=generators)
    method.check_sites(task, starts[0].noise.shape)
    conditioning, guide = method.conditioning(task), method.guide(task)
    controls = method.control(task, conditioning)
    z = torch.stack([start.noise for start in starts]).to(task.context.device)
    if (start := method.start(task)) is not None:
        z = _started(start(z), z, method)
    losses, norms = (
        torch.full((len(starts), task.calls), float("nan"), dtype=torch.float32, device="cpu") for _ in range(2)
    )
    recorder = TraceRecorder(task, conditioning, z.shape, trace, samples) if trace else None
    call = 0

    def before_step(z: Tensor, t: int, i: int) -> Tensor:
        nonlocal call
        call = i
        if guide is not None:
            z, *measured = guide(z, t, i)
            for values, value in zip((losses, norms), measured, strict=True):
                if value is not None:
                    values[:, i] = value.float().cpu()
        return z

    null_texts = task.inputs.null_texts

    @torch.no_grad()
    def denoise(z: Tensor, t: int) -> Tensor:
        check_stops()
        now = conditioning if null_texts is None else conditioning.against(null_texts[:, call])
        control = checked(controls, call)
        shown = control if recorder is None else recorder.watching(control)
        output = now.predict(task.network, z, t, control=shown)
        if recorder is not None:
            recorder.add(t, solver.schedule.clean(z, output, t), losses[:, call], norms[:, call])
        if control is not None:
            control.check_asked()
        on_call(call + 1)
        return output

    final = solver.sample(
        denoise,
        z,
        before_step=before_step,
        progress=partial(Bar, desc=bar, leave=False) if bar else None,
        generators=generators,
    ).cpu()
    if not final.isfinite().all():
        raise FloatingPointError(
            f"The latent became infinite or NaN under {method.describe()}; lower its step size (or the guidance)."
        )
    return Samples(final, losses, recorder.trace() if recorder else None)


def _started(z: Tensor, noise: Tensor, method: Method) -> Tensor:
    if z.shape != noise.shape or not z.isfinite().all():
        raise ValueError(f"The start of {method.name} made no latents of shape {list(noise.shape)}, finite throughout.")
    return z.to(noise)
