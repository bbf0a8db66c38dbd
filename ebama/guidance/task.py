"""The batch of samples that a method is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..maps import GroupLike
from ..models import Network
from ..prompt import Parsed, Tokenizer

if TYPE_CHECKING:
    from .method import Method


@dataclass(frozen=True)
class PipelineInputs:
    """What only a pipeline knows of a batch; a guide or a start alone does without.

    Attributes:
        prompts: one for each sample, B in all.
        negative_context: encodings of the negative prompt, [B, key, D].
        encode: encodes further texts, -> [n, key, D].
        guidance: the classifier-free guidance scale.
        sample_size: side of the latents that the network was trained on.
        prompts_per_group: samples come in groups of this many that share their initial latent, one for each prompt of
            the pipeline's call; 1 unless the method `edits_prompts`.
        null_texts: tokens that replace the negative prompt's, others in each model call, [B, calls, key, D] on the CPU;
            None where it stays.
    """

    prompts: Sequence[Parsed]
    negative_context: Tensor
    encode: Callable[[Sequence[str]], Tensor]
    tokenizer: Tokenizer
    guidance: float
    sample_size: int
    prompts_per_group: int = 1
    null_texts: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """A batch of samples to make, as far as an energy, a start or a control asks: on any network, of any prompts.

    Attributes:
        network: predicts the noise.
        context: text encodings of the samples, [B, key, D].
        groups: objects and modifiers of each sample.
        tokens: content positions of each sample.
        calls: how many model calls the sampler makes; steps: those that it was asked for (PNDM makes one call more).
        first_timestep: of the initial noise.
        generators: of each sample's further noise, on the CPU; () without a pipeline.
        noise: 1 - abar_t, the noise's part in the latent's variance, at each model call; () where it is not known.
        sites: names of the sites whose maps guide, if not those that the method chooses.
        checkpoint: compute activations of guided passes again for the gradient instead of keeping them.
        controlled_by: the method whose control acts in guided passes; None for the guiding method itself.
        pipeline: what else a pipeline knows; None without one. Methods that need it ask for `inputs`.
    """

    network: Network
    context: Tensor
    groups: Sequence[Sequence[GroupLike]]
    tokens: Sequence[Sequence[int]]
    calls: int
    steps: int
    first_timestep: int = 999
    generators: Sequence[torch.Generator] = ()
    noise: Sequence[float] = ()
    sites: tuple[str, ...] | None = None
    checkpoint: bool = False
    controlled_by: Method | None = None
    pipeline: PipelineInputs | None = None

    @property
    def inputs(self) -> PipelineInputs:
        """`pipeline`; ValueError if this batch comes without one."""
        if self.pipeline is None:
            raise ValueError(
                "The method needs the text of the prompts and the guidance scale, which groups and tokens do not hold; "
                "run it in a Pipeline: Pipeline(dataclasses.replace(sd, unet=network))."
            )
        return self.pipeline

    def select(self, samples: Sequence[int]) -> Task:
        """The same for some of the samples."""
        pipeline, rows = self.pipeline, list(samples)
        if pipeline is not None:
            prompts = [pipeline.prompts[sample] for sample in rows]
            null_texts = None if pipeline.null_texts is None else pipeline.null_texts[rows]
            negative = pipeline.negative_context[rows]
            pipeline = replace(pipeline, prompts=prompts, negative_context=negative, null_texts=null_texts)
        return replace(
            self,
            context=self.context[rows],
            groups=[self.groups[sample] for sample in rows],
            tokens=[self.tokens[sample] for sample in rows],
            generators=[self.generators[sample] for sample in rows] if self.generators else (),
            pipeline=pipeline,
        )
