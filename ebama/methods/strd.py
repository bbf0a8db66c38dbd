"""Structured Diffusion: each noun phrase of the prompt, encoded alone, takes part in cross-attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..guidance import Conditioning, Controls, Method, Needs, Task
from ..guidance.options import one_of, option
from ..models import AttentionCall, AttentionRecord, Control, Site, attention_scores
from ..prompt import Parsed


@dataclass(frozen=True)
class StructuredDiffusion(Method):
    """Every noun phrase at every depth gives a context c_i: the prompt's encoding c_0 with the phrase's rows
    replaced by those that the phrase has when it is encoded alone.

    A phrase that is the whole prompt is c_0 itself, and a prompt without phrases is plain Stable Diffusion. The
    negative prompt's rows are left alone; so is everything outside cross-attention. Phrases that reach beyond the 75
    tokens that CLIP sees take no part (reading the prompt warns of them). The authors run PLMS ("pndm") with 50 steps;
    they take the dots out of the prompt, which here are encoded with it, and phrases from its first sentence only.

    Attributes:
        mode: "values", the authors' default: softmax(Q K(c_0)^T) times the mean of the values of c_0, c_1 ... c_n.
            "keys", their `--conjunction`: the mean of softmax(Q K(c)^T) over c in v, c_1 ... c_n, times the values of
            v, which is c_0 with all phrases written into it in turn, inner ones over outer ones. That v also stands in
            for c_0 among the keys, is in the published code an effect of writing in place, and is kept. A trace shows
            the maps of c_0, in mode "keys" those of v alone.
    """

    name: ClassVar[str] = "strd"
    changes: ClassVar[str] = "cross-attention: values (or keys) of each noun phrase encoded alone"
    reference: ClassVar[str] = "Feng et al. 2023 (Structured Diffusion Guidance)"
    needs: ClassVar[Needs] = Needs(phrases=True, sites="every cross")

    mode: Literal["values", "keys"] = option("values", one_of("values", "keys"))

    def control(self, task: Task, conditioning: Conditioning) -> Controls | None:
        """The same control in every call; none if no prompt has a phrase."""
        phrases = [_phrases(prompt) for prompt in task.inputs.prompts]
        texts = list(dict.fromkeys(text for own in phrases for _, _, text in own))
        if not texts:
            return None
        alone = dict(zip(texts, task.inputs.encode(texts), strict=True))
        contexts, rows = [], []
        all_written, mean = conditioning.contexts.clone(), conditioning.contexts.clone()
        for row, prompt, own in zip(conditioning.prompt_rows.tolist(), task.inputs.prompts, phrases, strict=True):
            start = prompt.tokens[0]
            aligned = [conditioning.contexts[row]]
            for first, last, text in own:
                aligned.append(conditioning.contexts[row].clone())
                for context in (aligned[-1], all_written[row]):
                    context[first:last] = alone[text][start : start + last - first]
            mean[row] = torch.stack(aligned).mean(dim=0)
            contexts += aligned[1:]
            rows += [row] * len(own)
        prompts = conditioning.prompt_rows
        if self.mode == "values":
            values = MeanValues(mean[prompts], prompts)
            return lambda i: values
        of_phrases = torch.tensor(rows, device=mean.device)
        maps = 1 + torch.bincount(of_phrases, minlength=len(mean))[:, None, None, None]
        keys = MeanMaps(all_written[prompts], prompts, torch.stack(contexts), of_phrases, maps)
        return lambda i: keys


class MeanValues(Control):
    """Cross-attention takes its values in `rows` [B] of the batch from `values` [B, 77, D]. (They are linear in the
    context: the values of a mean of contexts are the mean of their values.)"""

    def __init__(self, values: Tensor, rows: Tensor) -> None:
        self._values, self._rows = values, rows

    def contexts(self, site: Site, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys as ever, values from the mean."""
        return context, context.index_copy(0, self._rows, self._values) if site.kind == "cross" else context


class MeanMaps(Control):
    """Cross-attention takes keys and values in `prompts` [B] of the batch's rows from `written` [B, 77, D]; row rows[p]
    also looks at the keys of further[p] [P, 77, D], and the map of a row is the mean of its `maps` [R, 1, 1, 1]."""

    def __init__(self, written: Tensor, prompts: Tensor, further: Tensor, rows: Tensor, maps: Tensor) -> None:
        self._written, self._prompts, self._further, self._rows, self._maps = written, prompts, further, rows, maps

    def edits_maps(self, site: Site) -> bool:
        """At every cross-attention site."""
        return site.kind == "cross"

    def contexts(self, site: Site, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what was written."""
        context = context.index_copy(0, self._prompts, self._written) if site.kind == "cross" else context
        return context, context

    def probabilities(self, call: AttentionCall, probabilities: Tensor) -> Tensor:
        """The mean over all key sets of a row."""
        scores = attention_scores(call.query[self._rows], call.layer.keys(self._further))
        further = AttentionRecord(call.site, scores).probabilities
        return probabilities.index_add(0, self._rows, further.to(probabilities.dtype)) / self._maps


def _phrases(prompt: Parsed) -> list[tuple[int, int, str]]:
    """The prompt's phrases but the one that is the prompt itself (its dots aside)."""

    def bare(text: str) -> str:
        return text.replace(".", "").strip().lower()

    return [phrase for phrase in prompt.phrases if bare(phrase[2]) != bare(prompt.prompt)]
