"""From prompts to pictures: one short loop that knows no method by name."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial, wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ebama.samplers import DDIM, PNDM, NoiseSchedule
from ebama.samplers import get as get_sampler
from ebama.weights import StableDiffusion, Vocabulary

from . import __version__, methods
from .guidance.method import Method, Task
from .prompt import Group, Parsed, Words, parse
from .prompt.alignment import check_characters
from .prompt.parsers import check as check_parser
from .runtime import memory
from .runtime.arithmetic import usable_arithmetic
from .runtime.memory import parse as parse_memory
from .trace import Trace, TraceOptions, TraceRecorder

Sampler = DDIM | PNDM
_DECODED_PIXELS = 512 * 512
"""Decoded at once: of full-size pictures one, since each takes the decoder's memory anew."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a run made; samples are prompt-major (all seeds of the first prompt, then of the second...).

    Attributes:
        images: PIL pictures; None for `output="latent"`.
        latents: final latents [N, 4, h, w], float32 on the CPU.
        losses: [N, calls], NaN where a model call was not guided.
        trace: attention of every call if asked for, else None.
        metadata: for each sample all that is needed to make it again.
    """

    images: list[Image.Image] | None
    latents: Tensor
    losses: Tensor
    trace: Trace | None
    metadata: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Start:
    """Where one sample starts: its noise [4, h, w] and the generator, on the CPU, of any noise that it still needs."""

    noise: Tensor
    seed: int | None
    generator: torch.Generator

    @classmethod
    def drawn(cls, shape: Sequence[int], seed: int) -> Start:
        """The noise of a seed."""
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = torch.randn(tuple(shape), generator=generator, device="cpu", dtype=torch.float32)
        return cls(noise, seed, generator)


class _OutOfMemory(MemoryError):
    """Says what to lower."""


P = ParamSpec("P")
R = TypeVar("R")


def _at_usable_speed(run: Callable[Concatenate[Pipeline, P], R]) -> Callable[Concatenate[Pipeline, P], R]:
    @wraps(run)
    def running(self: Pipeline, /, *args: P.args, **kwargs: P.kwargs) -> R:
        like = next(self.sd.unet.parameters())
        # Not in a caller's inference mode, where the gradients that methods follow could not exist.
        with torch.inference_mode(False), torch.no_grad(), usable_arithmetic(like.device, like.dtype):
            batch_size: Any = kwargs.get("batch_size", 8)
            with _advising(batch_size, self.checkpoint, self.budget):
                return run(self, *args, **kwargs)

    return running


@contextmanager
def _advising(batch_size: int, checkpoint: bool, budget: int | None) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, _OutOfMemory) or not memory.is_exhausted(error):
            raise
        raise _OutOfMemory(memory.advice(batch_size, checkpoint, budget)) from error


class Pipeline:
    """Stable Diffusion with any of `ebama.methods` on it.

    Samples are independent: a batch gives the pictures that its samples give one by one.

    Args:
        checkpoint: guided passes compute their activations again for the gradient instead of keeping them: less memory,
            more time in them, the same pictures.
        memory: the most that may be in use, weights included, as "6GB" or in bytes: by the process, or on a GPU by
            tensors (leave about 1 GB there for CUDA itself). Runs are then cut to fit (fewer samples at once,
            checkpointing, pictures decoded one by one), or refused with ValueError.
    """

    def __init__(self, sd: StableDiffusion, *, checkpoint: bool = False, memory: str | int | None = None) -> None:
        self.sd, self.checkpoint = sd, checkpoint
        self.budget = None if memory is None else parse_memory(memory)

    @cached_property
    def footprint(self) -> memory.Footprint:
        """What a pass of this model holds, measured when it is first asked for."""
        return memory.footprint(self.sd)

    @_at_usable_speed
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seeds: Sequence[int] = (0,),
        method: str | Method = "ebama",
        steps: int = 50,
        guidance: float = 7.5,
        sampler: str | Sampler = "pndm",
        latents: Tensor | None = None,
        groups: Sequence[Group | Words] | Sequence[Sequence[Group | Words]] | None = None,
        negative_prompt: str = "",
        output: Literal["pil", "latent"] = "pil",
        trace: bool | TraceOptions = False,
        progress: bool = True,
        on_call: Callable[[int, int], None] | None = None,
        batch_size: int = 8,
        parser: str = "auto",
    ) -> Result:
        """Make len(prompts) x len(seeds) pictures.

        Args:
            prompt: one prompt or several.
            seeds: of the initial noise, drawn on the CPU for each seed: device and batch do not change it.
            method: a name (its hyper-parameters are then chosen for this model) or what `ebama.methods.get` returned.
            steps: of the sampler; PNDM calls the model once more.
            guidance: classifier-free guidance scale w in e_u + w (e_c - e_u); 1 runs the prompt alone.
            sampler: "pndm", "ddim" or an object of `ebama.samplers` (its own steps then count).
            latents: initial noise [N, 4, h, w] instead of the seeds'; N / len(prompts) samples for each prompt. Noise
                that a sampler draws in between comes from the seeds, if there is one for each of a prompt's samples,
                else from their number.
            groups: objects and their modifiers, as `Group`s or as words, e.g. [("crown", ["purple"])], instead of the
                parser's; for several prompts, one list for each.
            negative_prompt: what the other branch of guidance sees.
            output: "latent" leaves the VAE out.
            trace: keep the mean maps of every call, see `Trace`; `TraceOptions` says which, and what else.
            progress: show a progress bar.
            on_call: told (done, all) model calls after each of them; what it raises ends the run.
            batch_size: samples that run at once; the pictures do not depend on it.
            parser: see `ebama.prompt.parse`.

        Raises:
            ValueError: a value out of range, with what was expected.
            FloatingPointError: a latent became infinite or NaN, usually from a step size that is too large.
            MemoryError: memory ran out; says what to lower.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        chosen = (methods.get(method) if isinstance(method, str) else method).resolved(self.sd.config)
        solver = get_sampler(sampler, steps) if isinstance(sampler, str) else sampler
        check(prompts, seeds, guidance, output, batch_size)
        starts = self._starts(len(prompts), seeds, latents)
        check_characters(negative_prompt, "negative_prompt")
        parsed = self._parse(prompts, groups, chosen, parser)
        text = self.sd.encode_text([reading.prompt for reading in parsed])
        negative = self.sd.encode_text([negative_prompt])
        each = len(starts) // len(prompts)
        kept = TraceOptions() if trace is True else trace or None
        together = len(prompts) if chosen.edits_prompts else 1
        order = list(range(len(starts)))
        if chosen.edits_prompts:  # all prompts of a seed side by side
            order.sort(key=lambda sample: sample % each)
        fit = self._split(chosen, parsed, starts, batch_size, together)
        size = max(fit.batch_size // together, 1) * together

        parts: list[tuple[Tensor, Tensor, Trace | None]] = []
        for first in range(0, len(order), size):
            samples = order[first : first + size]
            index = [sample // each for sample in samples]
            task = Task(
                unet=self.sd.unet,
                config=self.sd.config,
                prompts=[parsed[i] for i in index],
                text=text[index],
                negative_text=negative.expand(len(index), -1, -1),
                encode=self.sd.encode_text,
                tokenizer=self.sd.tokenizer,
                guidance=guidance,
                steps=solver.steps,
                calls=len(solver.timesteps),
                prompts_per_group=together,
                checkpoint=fit.checkpoint,
            )
            bar = f"{chosen.name} {first + 1}-{first + len(samples)} of {len(starts)}" if progress else None
            done, total = len(parts) * task.calls, -(-len(order) // size) * task.calls
            tell = partial(_tell, on_call, done, total) if on_call else None
            own = [starts[sample] for sample in samples]
            with _advising(len(own), fit.checkpoint, self.budget):
                parts.append(self._sample(task, chosen, solver, own, kept, bar, tell))
        back = sorted(range(len(order)), key=order.__getitem__)
        final = torch.cat([part[0] for part in parts])[back]
        fingerprint = self.sd.fingerprint()
        metadata = [
            {
                "prompt": prompts[sample // each],
                "seed": start.seed,
                "method": chosen.describe(),
                "sampler": _describe(solver),
                "guidance": guidance,
                "negative_prompt": negative_prompt,
                "groups": [{"object": g.object, "modifiers": g.modifiers} for g in parsed[sample // each].groups],
                "parser": parsed[sample // each].parser_name,
                "latent": list(start.noise.shape),
                "model": self.sd.config.name,
                "fingerprint": fingerprint,
                "versions": {"ebama": __version__, "torch": torch.__version__, "python": platform.python_version()},
            }
            for sample, start in enumerate(starts)
        ]
        return Result(
            self.decode(final, fit.decode_size) if output == "pil" else None,
            final,
            torch.cat([part[1] for part in parts])[back],
            Trace.joined([part[2] for part in parts if part[2] is not None], back) if kept else None,
            metadata,
        )

    @_at_usable_speed
    @torch.no_grad()
    def decode(self, latents: Tensor, batch_size: int = 8) -> list[Image.Image]:
        """Pictures of final latents [N, 4, h, w], `batch_size` at once or, if they are large, one by one."""
        vae, images = self.sd.vae, []
        like = next(vae.parameters())
        at_once = max(min(batch_size, _DECODED_PIXELS // (latents.shape[-2:].numel() * vae.config.factor**2)), 1)
        for part in latents.split(at_once):
            pixels = vae.decode(part.to(like) / vae.scale).float()
            pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to("cpu", torch.uint8)
            images += [Image.fromarray(p.numpy()) for p in rearrange(pixels, "b c h w -> b h w c").contiguous()]
        return images

    def _sample(
        self,
        task: Task,
        method: Method,
        solver: Sampler,
        starts: Sequence[Start],
        kept: TraceOptions | None,
        bar: str | None,
        tell: Callable[[int], None] | None,
    ) -> tuple[Tensor, Tensor, Trace | None]:
        """The loop: guide, predict, combine, step. Everything between model calls is float32."""
        conditioning, guide = method.conditioning(task), method.guide(task)
        controls = method.control(task, conditioning)
        z = torch.stack([start.noise for start in starts]).to(task.text.device)
        losses, norms = (torch.full((len(starts), task.calls), float("nan")) for _ in range(2))
        recorder = TraceRecorder(task, conditioning, z.shape, kept) if kept else None
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

        @torch.no_grad()
        def denoise(z: Tensor, t: int) -> Tensor:
            contexts = conditioning.contexts
            batch = z.to(contexts.dtype)[conditioning.sample_index]
            control = controls(call) if controls is not None else None
            if recorder is None:
                epsilon = combine(task.unet(batch, t, contexts, control=control).float(), conditioning.weights)
            else:
                rows, records = task.unet(batch, t, contexts, record=recorder.sites, control=control)
                epsilon = combine(rows.float(), conditioning.weights)
                recorder.add(t, records, solver.schedule.clean(z, epsilon, t))
            if tell is not None:
                tell(call + 1)
            return epsilon

        def watched(calls: Iterable[Any]) -> Iterable[Any]:
            return tqdm(calls, bar, leave=False) if bar else calls

        final = solver.sample(
            denoise,
            z,
            before_step=before_step,
            progress=watched,
            generators=[start.generator for start in starts],
        ).cpu()
        if not final.isfinite().all():
            raise FloatingPointError(
                f"The latent became infinite or NaN under {method.describe()}; lower its step size (or the guidance)."
            )
        return final, losses, recorder.trace(losses, norms) if recorder else None

    def _split(
        self, method: Method, parsed: Sequence[Parsed], starts: Sequence[Start], wanted: int, together: int
    ) -> memory.Split:
        """How the run is cut: as it was asked for, or to fit the budget."""
        if self.budget is None:
            return memory.Split(wanted, self.checkpoint, wanted)
        found = memory.split(
            self.footprint,
            self.budget,
            memory.held(next(self.sd.unet.parameters()).device),
            pixels=starts[0].noise.shape[-2] * starts[0].noise.shape[-1],
            rows=max(method.cost(prompt, 1).predictions for prompt in parsed),
            gradient=method.needs.gradient,
            wanted=wanted,
            least=together,
        )
        return replace(found, checkpoint=found.checkpoint or self.checkpoint)

    def _starts(self, prompts: int, seeds: Sequence[int], latents: Tensor | None) -> list[Start]:
        """Initial noise of every sample, prompt-major."""
        config = self.sd.config
        if latents is None:
            shape = (config.unet.in_channels, config.sample_size, config.sample_size)
            return [Start.drawn(shape, seed) for _ in range(prompts) for seed in seeds]
        if (
            latents.ndim != 4
            or latents.shape[1] != config.unet.in_channels
            or len(latents) % prompts
            or not len(latents)
        ):
            raise ValueError(
                f"latents have shape {list(latents.shape)}; expected [N, {config.unet.in_channels}, h, w] with N a "
                f"multiple of the number of prompts, {prompts}."
            )
        if not latents.isfinite().all():
            raise ValueError("latents hold infinite or NaN values; expected initial noise, finite throughout.")
        each = len(latents) // prompts
        later = list(seeds) if len(seeds) == each else list(range(each))
        return [
            Start(latent, None, torch.Generator("cpu").manual_seed(later[sample % each]))
            for sample, latent in enumerate(latents.detach().float().cpu())
        ]

    def _parse(self, prompts: Sequence[str], groups: Sequence[Any] | None, method: Method, parser: str) -> list[Parsed]:
        if self.sd.vocabulary is not None:
            _warn_unknown_words(prompts, self.sd.vocabulary)
        if not (method.needs.groups or method.needs.phrases):
            if isinstance(parser, str):
                check_parser(parser)
            parser = "rules"  # nothing of the reading is used but where the words stand
        if groups is None:
            each: Sequence[Any] = [None if method.needs.groups else ()] * len(prompts)
        elif len(prompts) == 1 and not (groups and isinstance(groups[0], list)):
            each = [groups]
        else:
            each = groups
        if len(each) != len(prompts):
            raise ValueError(
                f"groups has {len(each)} entries for {len(prompts)} prompts; give one list for each prompt."
            )
        return [parse(p, self.sd.tokenizer, parser, groups=g) for p, g in zip(prompts, each, strict=True)]


def combine(epsilons: Tensor, weights: Tensor) -> Tensor:
    """Noise estimates [R, 4, h, w] of all rows, weighted by [B, R], to those of the samples [B, 4, h, w]."""
    with torch.autocast(epsilons.device.type, enabled=False):
        combined: Tensor = torch.tensordot(weights, epsilons, dims=1)
    return combined


def check(prompts: Sequence[str], seeds: Sequence[int], guidance: float, output: str, batch_size: int) -> None:
    """Raise ValueError for a value that no run can be made with, naming it."""
    if not prompts:
        raise ValueError("There is no prompt; give at least one.")
    if odd := [prompt for prompt in prompts if not isinstance(prompt, str)]:
        raise ValueError(f"A prompt is {odd[0]!r}; expected a string.")
    listed = isinstance(seeds, Sequence)
    if not listed or not seeds or not all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in seeds):
        raise ValueError(f"seeds are {seeds!r}; expected a list of at least one whole number from 0 to 2**63 - 1.")
    if not (isinstance(guidance, int | float) and abs(guidance) < float("inf")):
        raise ValueError(f"guidance is {guidance!r}; expected a finite number (7.5 is usual, 1 switches it off).")
    if output not in ("pil", "latent"):
        raise ValueError(f"output is {output!r}; expected 'pil' or 'latent'.")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; expected a whole number of at least 1.")


def _warn_unknown_words(prompts: Sequence[str], vocabulary: Vocabulary) -> None:
    unknown = list(dict.fromkeys(word for prompt in prompts for word in vocabulary.unknown_words(prompt)))
    if unknown:
        warnings.warn(
            f"The {vocabulary.name} does not know: {', '.join(unknown)}. It knows {', '.join(vocabulary.nouns)}, "
            f"in {', '.join(vocabulary.colours)}.",
            stacklevel=4,
        )


def _tell(on_call: Callable[[int, int], None], before: int, total: int, call: int) -> None:
    on_call(before + call, total)


def _describe(solver: Sampler) -> dict[str, Any]:
    found = {"name": type(solver).__name__.lower(), "steps": solver.steps, "eta": getattr(solver, "eta", 0.0)}
    usual = solver.schedule == NoiseSchedule()
    return found if usual else {**found, "schedule": asdict(solver.schedule)}
