"""From prompts to images."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from ebama.samplers import DDIM, Sampler
from ebama.weights import StableDiffusion
from ebama.weights.stable_diffusion import pixels

from . import __version__, arguments, methods
from .checks import expect, items, plain, short
from .guidance import AnyMethod, Method, PipelineInputs, Task
from .guidance.gradient_method import base_resolution
from .output.recipe import Recipe
from .prompt import PICTURE_WORDS, Group, Parsed, Words
from .prompt.words import Boxes
from .result import Result
from .runtime import memory, usage
from .runtime.memory import parse as parse_memory
from .runtime.running import running, running_all
from .sampling import sample_in_batches
from .starts import Images, Inversion, Inverter, NullText, Picture, Start, decode, encode, fitted, latent_size, start
from .starts.inversion import paired
from .trace import TraceOptions


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
        if not isinstance(sd, StableDiffusion):
            raise ValueError(f"sd is a {type(sd).__name__}; expected a StableDiffusion, as `load` gives.")
        self.sd, self.checkpoint = sd, checkpoint
        self.budget = None if memory is None else parse_memory(plain(memory))

    @cached_property
    def footprint(self) -> memory.Footprint:
        """The memory that a pass of this model holds, measured when it is first needed."""
        return memory.footprint(self.sd, base_resolution(self.sd.config.sample_size))

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seeds: Iterable[int] = (0,),
        method: AnyMethod = "ebama",
        steps: int = 50,
        guidance: float = 7.5,
        sampler: str | Sampler = "pndm",
        latents: Tensor | None = None,
        image: Images | None = None,
        strength: float | None = None,
        groups: Sequence[Group | Words] | Sequence[Sequence[Group | Words]] | None = None,
        boxes: Boxes | Sequence[Boxes] | None = None,
        negative_prompt: str | None = "",
        output: Literal["pil", "latent"] = "pil",
        trace: bool | TraceOptions = False,
        progress: bool = True,
        on_call: Callable[[int, int], None] | None = None,
        batch_size: int = 8,
        parser: str = "auto",
        ignore: Collection[str] = PICTURE_WORDS,
        size: tuple[int, int] | None = None,
        original_size: tuple[int, int] | None = None,
        crop: tuple[int, int] = (0, 0),
        target_size: tuple[int, int] | None = None,
    ) -> Result:
        """Make len(prompts) x len(seeds) pictures.

        Args:
            prompt: one prompt or several.
            seeds: of the initial noise, drawn on the CPU for each seed: device and batch do not change it.
            method: a name or what `ebama.methods.get` returned, whose other options are chosen for this model; or a
                method itself, which is used as it is; or a list of these, which run together (see `Composition`).
            steps: of the sampler; PNDM calls the model once more.
            guidance: classifier-free guidance scale w in e_u + w (e_c - e_u); 1 runs the prompt alone.
            sampler: "pndm", "ddim" (along the model's noise schedule) or an object of `ebama.samplers`, whose own steps
                and schedule then count.
            latents: initial noise [N, 4, h, w] instead of the seeds'; N / len(prompts) samples for each prompt. Noise
                that a sampler draws in between comes from the seeds, if there is one for each of a prompt's samples,
                else from their number.
            image: where to start instead of in noise alone: a picture of PIL or its path for all prompts, or a list of
                one for each. It is scaled and cut to `size`, or to the model's, and covered with the seeds' noise as
                far as `strength` says; what a method counts are then the calls that remain. Or what `invert` made of
                pictures, which brings its sampler and no noise.
            strength: which part of the sampler's steps the picture goes through: 1 leaves next to nothing of it; 0.8
                if none is given.
            groups: objects and their modifiers, as `Group`s or as words, e.g. [("crown", ["purple"])], instead of the
                parser's; the second of two crowns is "crown#2". For several prompts, one list for each.
            boxes: where objects should be, by their words, in fractions of the picture from its left and top, e.g.
                {"crown": (left, top, right, bottom)}. For several prompts, one mapping for each ({} for none). Methods
                that place objects read them.
            negative_prompt: what the other branch of guidance sees; None is "", for which some models have zeros.
            output: "latent" leaves the VAE out.
            trace: keep the mean maps of every call, see `Trace`; `TraceOptions` says which, and what else.
            progress: show a progress bar.
            on_call: told (done, all) model calls after each of them; what it raises ends the run.
            batch_size: samples that run at once; the pictures do not depend on it.
            parser, ignore: see `ebama.prompt.parse`.
            size: (height, width) of the pictures in pixels; None for what the model was trained on, or the latents'.
            original_size, crop, target_size: of training pictures like the result, for models that are told (Stable
                Diffusion XL), see `StableDiffusion.condition`.

        Raises:
            ValueError: a value out of range, with what was expected.
            FloatingPointError: a latent became infinite or NaN, usually from a step size that is too large.
            MemoryError: memory ran out; says what to lower.
        """
        prompts, seeds = arguments.listed(prompt), arguments.plain_seeds(seeds)
        guidance, steps, batch_size = plain(guidance), plain(steps), plain(batch_size)
        trace, progress = plain(trace), plain(progress)
        negative_prompt = "" if negative_prompt is None else negative_prompt
        completed, solver = methods.complete(method, self.sd.config), self._sampler(sampler, steps)
        arguments.check_watching(trace, progress, on_call)
        arguments.check(prompts, seeds, guidance, output, batch_size)
        channels = self.sd.vae.config.image_channels
        expect("output", output, output == "latent" or channels == 3, f"'latent' of a VAE of {channels} channels")
        fit = memory.Split(batch_size, self.checkpoint, batch_size)
        with running_all(self.sd, lambda: memory.advice(fit.batch_size, fit.checkpoint, self.budget)):
            size = None if size is None else pixels("size", items(size) or size)
            begin = start(self.sd, image, strength, solver, len(prompts), seeds, latents, size)
            starts, solver = begin.samples, begin.sampler
            arguments.check_negative_prompt(negative_prompt, self.sd.tokenizer)
            parsed = arguments.read(self.sd, prompts, groups, boxes, completed, parser, ignore)
            sizes = arguments.training_sizes(original_size, crop, target_size)
            index = [sample * len(prompts) // len(starts) for sample in range(len(starts))]  # of each sample's prompt
            task = self._task(parsed, index, completed, solver, guidance, negative_prompt, starts[0].noise.shape, sizes)
            task = begin.applied(task, completed)
            fit = self._split(completed, task, starts[0].noise.shape, min(batch_size, len(starts)))
            samples = sample_in_batches(
                replace(task, checkpoint=fit.checkpoint),
                completed,
                solver,
                starts,
                fit.batch_size,
                trace=TraceOptions() if trace is True else trace or None,
                progress=progress,
                on_call=on_call,
            )
        images = self.decode(samples.latents, fit.decode_size) if output == "pil" else None
        recipes = self._recipes([prompts[i] for i in index], task, completed, begin, negative_prompt, sizes)
        recorded = samples.trace and replace(samples.trace, images=tuple(images or ()))
        return Result(images, samples.latents, samples.losses, recorded, recipes)

    def invert(
        self,
        image: Picture | Sequence[Picture],
        prompt: str | Sequence[str],
        *,
        steps: int = 50,
        guidance: float = 1.0,
        rounds: int = 1,
        null_text: bool | NullText = False,
        sampler: str | Sampler = "ddim",
        negative_prompt: str | None = "",
        progress: bool = True,
        on_call: Callable[[int, int], None] | None = None,
        batch_size: int = 8,
        size: tuple[int, int] | None = None,
        original_size: tuple[int, int] | None = None,
        crop: tuple[int, int] = (0, 0),
        target_size: tuple[int, int] | None = None,
    ) -> Inversion:
        """The noise that leads to pictures, by DDIM inversion: `pipeline(prompt, image=inversion)` comes back to them,
        with traces and any method that does not choose the noise.

        `docs/concepts.md` says how near it comes. At the guidance of the inversion only rounding and the step from
        one timestep to the next keep the two apart; at a higher one they part, unless `null_text` holds them together.

        Args:
            image: one picture for all prompts or one for each, as `__call__` takes them.
            prompt: what the pictures show; one for all of them or one for each.
            guidance: of the inversion; 1, as published, runs the prompt alone.
            rounds: model calls for each step; more of them come nearer, see `DDIM.invert`.
            null_text: also optimise what stands for the negative prompt, see `NullText`; True takes its defaults.
            sampler: "ddim" or a `DDIM` without noise, also one that starts in the middle (`DDIM(50).starting_at(601)`).

        The other arguments are those of `__call__`, but that `on_call` hears nothing of null texts. Raises as it does.
        """
        solver = self._sampler(sampler, plain(steps))
        if not isinstance(solver, DDIM):
            raise ValueError(f"sampler is {short(sampler)}; only DDIM can be inverted: 'ddim', or a DDIM(...).")
        null_text, rounds, progress = plain(null_text), plain(rounds), plain(progress)
        expect("null_text", null_text, isinstance(null_text, bool | NullText), "True, False or NullText(...)")
        options = NullText() if null_text is True else null_text or None
        prompts, negative_prompt = arguments.listed(prompt), "" if negative_prompt is None else negative_prompt
        guidance, batch_size, method = plain(guidance), plain(batch_size), methods.complete("sd", self.sd.config)
        arguments.check_watching(None, progress, on_call)
        arguments.check(prompts, (0,), guidance, "latent", batch_size)
        images = self._fitted(image, size)
        images, prompts = paired(images, prompts)
        shape = latent_size(self.sd.config, (images[0].height, images[0].width))
        with running_all(self.sd, lambda: memory.advice(batch_size, self.checkpoint, self.budget)):
            arguments.check_negative_prompt(negative_prompt, self.sd.tokenizer)
            parsed = arguments.read(self.sd, prompts, None, None, method, "rules", ())
            sizes = arguments.training_sizes(original_size, crop, target_size)
            index = list(range(len(prompts)))
            task = self._task(parsed, index, method, solver, guidance, negative_prompt, shape, sizes)
            fit = self._split(method, task, shape, min(batch_size, len(images)), null_text=options is not None)
            task = replace(task, checkpoint=fit.checkpoint)
            inverter = Inverter(method, solver, rounds, options, negative_prompt, progress, on_call)
            return inverter.run(task, encode(self.sd.vae, images), images, fit.batch_size)

    def decode(self, latents: Tensor, batch_size: int = 8) -> list[Image.Image]:
        """Images of final latents [N, 4, h, w], `batch_size` at once or, if they are large, one by one."""
        with running(next(self.sd.vae.parameters()), lambda: memory.advice(batch_size, self.checkpoint, self.budget)):
            return decode(self.sd.vae, latents, batch_size)

    def encode(self, images: Picture | Sequence[Picture], *, size: tuple[int, int] | None = None) -> Tensor:
        """Latents [N, 4, h, w] of pictures of PIL or their paths, scaled and cut to `size` (height, width) or to the
        model's: the mean of the VAE's posterior, float32 on the CPU. `decode` is the way back."""
        with running(next(self.sd.vae.parameters()), lambda: memory.advice(1, self.checkpoint, self.budget)):
            return encode(self.sd.vae, self._fitted(images, size))

    def _fitted(self, images: Picture | Sequence[Picture], size: tuple[int, int] | None) -> list[Image.Image]:
        """Pictures of `size`, or of the model's."""
        height, width = latent_size(self.sd.config, None if size is None else pixels("size", items(size) or size))
        factor = self.sd.config.vae.factor
        return fitted(images, (height * factor, width * factor))

    def _sampler(self, sampler: str | Sampler, steps: int) -> Sampler:
        """The sampler that was named or given; what the network predicts is the network's, whatever the sampler."""
        if isinstance(sampler, str):
            return self.sd.sampler(sampler, steps)
        if not isinstance(sampler, Sampler):
            raise ValueError(f"sampler is {short(sampler)}; expected a name, or one of ebama.samplers, as DDIM(50).")
        return sampler.predicting(self.sd.config.prediction)

    def _task(
        self,
        parsed: Sequence[Parsed],
        index: Sequence[int],
        method: Method,
        solver: Sampler,
        guidance: float,
        negative_prompt: str,
        latent_shape: Sequence[int],
        sizes: Mapping[str, Any],
    ) -> Task:
        """The task of all samples; `index` is that of each sample's prompt."""
        config = self.sd.config
        height, width = (side * config.vae.factor for side in latent_shape[-2:])

        def condition(texts: Sequence[str], negative: bool = False) -> Tensor:
            return self.sd.condition(texts, size=(height, width), negative=negative, **sizes)

        prompts = [parsed[i] for i in index]
        inputs = PipelineInputs(
            prompts=prompts,
            negative_context=condition([negative_prompt], negative=True).expand(len(index), -1, -1),
            encode=condition,
            tokenizer=self.sd.tokenizer,
            guidance=guidance,
            sample_size=config.sample_size,
            prompts_per_group=len(parsed) if method.edits_prompts else 1,
        )
        return Task(
            network=self.sd.unet,
            context=condition([reading.prompt for reading in parsed])[index],
            groups=[reading.groups for reading in prompts],
            tokens=[reading.tokens for reading in prompts],
            calls=len(solver.timesteps),
            steps=solver.steps,
            first_timestep=solver.timesteps[0],
            noise=[1 - solver.schedule.alpha(t) for t in solver.timesteps],
            pipeline=inputs,
        )

    def _split(
        self, method: Method, task: Task, latent_shape: Sequence[int], wanted: int, null_text: bool = False
    ) -> memory.Split:
        """How the run is cut: as it was asked for, or to fit the budget."""
        if self.budget is None:
            return memory.Split(wanted, self.checkpoint, wanted)
        fit = memory.split(
            memory.footprint(self.sd, None) if null_text else self.footprint,
            self.budget,
            usage.held(task.context.device),
            pixels=math.prod(latent_shape[-2:]),
            rows=max(method.cost(prompt, 1).predictions for prompt in task.inputs.prompts),
            gradient=null_text or method.needs.gradient,
            wanted=wanted,
            least=task.inputs.prompts_per_group,
        )
        return replace(fit, checkpoint=fit.checkpoint or self.checkpoint)

    def _recipes(
        self,
        prompts: Sequence[str],
        task: Task,
        method: Method,
        begin: Start,
        negative_prompt: str,
        sizes: Mapping[str, Any],
    ) -> tuple[Recipe, ...]:
        fingerprint = self.sd.fingerprint()
        versions = {"ebama": __version__, "torch": torch.__version__, "python": platform.python_version()}
        return tuple(
            Recipe(
                prompt=prompt,
                seed=sample.seed,
                method=method.describe(),
                sampler=begin.asked_sampler,
                guidance=task.inputs.guidance,
                negative_prompt=negative_prompt,
                groups=parsed.groups,
                parser=parsed.parser_name,
                latent=tuple(sample.noise.shape),
                model=self.sd.config.name,
                fingerprint=fingerprint,
                versions=versions,
                image=image,
                **sizes,
            )
            for prompt, parsed, sample, image in zip(
                prompts, task.inputs.prompts, begin.samples, begin.images, strict=True
            )
        )

    def read(
        self,
        prompt: str,
        method: AnyMethod = "ebama",
        *,
        groups: Sequence[Group | Words] | None = None,
        boxes: Boxes | None = None,
        parser: str = "auto",
        ignore: Collection[str] = PICTURE_WORDS,
    ) -> Parsed:
        """The reading of a prompt that a run with this method goes by; ValueError for one that it would refuse."""
        completed = methods.complete(method, self.sd.config)
        return arguments.read(self.sd, [prompt], groups, boxes, completed, parser, ignore)[0]
