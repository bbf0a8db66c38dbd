"""Structured Diffusion: contexts of noun phrases, in both modes, against plain loops and a loop over diffusers."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from reference import (
    assert_batch_is_one_by_one,
    maps_of,
    model,
    noise,
    out_of,
    plain_unet,
    pndm,
    reading,
    relative,
    rows_of,
    run,
    their_scheduler,
    their_tiny_unet,
)
from torch import Tensor

from ebama.guidance import Cost
from ebama.methods.strd import StructuredDiffusion

CAT = "a cat"
NESTED = "a dog with a red hat and a cat"
SPANS = {
    "a purple crown and a blue suitcase": [(1, 4, "a purple crown"), (5, 8, "a blue suitcase")],
    NESTED: [(1, 3, "a dog"), (4, 10, "a red hat and a cat"), (4, 7, "a red hat"), (8, 10, "a cat")],
    "a spiky surfboard and a red dog": [(1, 6, "a spiky surfboard"), (7, 10, "a red dog")],  # spi ky surf board
    "a red dog and a red dog.": [(1, 4, "a red dog"), (5, 8, "a red dog")],
    "A Red Car and a Cat": [(1, 4, "a red car"), (5, 7, "a cat")],
}
"""Positions from, to (exclusive), counted by hand; the phrase that is the whole prompt is its own encoding."""
modes = pytest.mark.parametrize("mode", ["values", "keys"])


def contexts_of(prompt: str) -> tuple[list[Tensor], Tensor]:
    """c_0 .. c_n, and v: c_0 with every phrase written into it in turn."""
    encoding = model().encode_text([prompt])[0].double()
    aligned, written = [encoding], encoding.clone()
    for first, last, text in SPANS[prompt]:
        alone = model().encode_text([text])[0].double()
        own = encoding.clone()
        for k in range(last - first):
            own[first + k] = alone[1 + k]
            written[first + k] = alone[1 + k]
        aligned.append(own)
    return aligned, written


def attend(mode: str, layer: Any, x: Tensor, aligned: list[Tensor], written: Tensor) -> Tensor:
    """The layer's output for the prompt's row."""
    if mode == "values":
        maps = maps_of(layer, x, aligned[0])
        return sum(out_of(layer, maps, context) for context in aligned) / len(aligned)  # type: ignore[return-value]
    each = [maps_of(layer, x, context) for context in [written, *aligned[1:]]]
    mean = [sum(maps[head] for maps in each) / len(each) for head in range(layer.heads)]
    return out_of(layer, mean, written)  # type: ignore[arg-type]


@pytest.mark.slow
@modes
@pytest.mark.parametrize("prompt", SPANS)
@torch.no_grad()
def test_numbers(prompt: str, mode: Any) -> None:
    aligned, written = contexts_of(prompt)
    empty = model().encode_text([""]).double()
    prompted = False

    def cross(layer: Any, name: str, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        if prompted:
            return attend(mode, layer, x, aligned, written), context
        return out_of(layer, maps_of(layer, x, context), context), context

    unet = plain_unet(cross)

    def denoise(z: Tensor, t: int, i: int) -> Tensor:
        nonlocal prompted
        prompted = False
        plain = unet(z, t, empty)
        prompted = True
        return plain + 7.5 * (unet(z, t, aligned[0][None]) - plain)

    found = run(prompt, StructuredDiffusion(mode), seeds=[5], steps=2, sampler="pndm").latents
    assert relative(found, pndm(denoise, noise(5).double(), 2)) <= 1e-4
    assert relative(run(prompt, "sd", seeds=[5], steps=2, sampler="pndm").latents, found) > 1e-3


class Processor:
    """What the authors' `multi_qkv` amounts to, for a diffusers layer and the batch [negative, prompt]."""

    def __init__(self, mode: str, aligned: list[Tensor], written: Tensor) -> None:
        self.mode = mode
        self.keys = [aligned[0]] if mode == "values" else [written, *aligned[1:]]
        self.values = aligned if mode == "values" else [written]

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(-2, -3)

        out = []
        for row, x in enumerate(split(attn.to_q(hidden_states))):
            negative = [encoder_hidden_states[0]]
            keys, values = (self.keys, self.values) if row else (negative, negative)
            parts = []
            for key in keys:
                map_ = torch.softmax(x @ split(attn.to_k(key)).transpose(1, 2) / math.sqrt(x.shape[-1]), dim=-1)
                parts += [map_ @ split(attn.to_v(value)) for value in values]
            out.append(torch.stack(parts).mean(0).transpose(0, 1).flatten(1))
        return attn.to_out[0](torch.stack(out))  # type: ignore[no-any-return]


@pytest.mark.slow
@modes
@torch.no_grad()
def test_numbers_of_a_loop_over_diffusers(mode: Any) -> None:
    unet, scheduler = their_tiny_unet(), their_scheduler("pndm", 5)
    aligned, written = contexts_of(NESTED)
    ours = Processor(mode, [context.float() for context in aligned], written.float())
    unet.set_attn_processor({n: ours if ".attn2." in n else p for n, p in unet.attn_processors.items()})
    contexts = torch.stack([model().encode_text([""])[0], aligned[0].float()])
    x = noise(5)
    for t in scheduler.timesteps:
        plain, prompted = unet(torch.cat([x, x]), t, contexts).sample.chunk(2)
        x = scheduler.step(plain + 7.5 * (prompted - plain), t, x).prev_sample
    assert relative(run(NESTED, StructuredDiffusion(mode), seeds=[5], steps=5, sampler="pndm").latents, x) <= 1e-4


@pytest.mark.slow
@modes
def test_plain_sampling_without_phrases(mode: Any) -> None:
    """None at all, a bare noun, or one phrase that is the prompt."""
    for prompt in ("and", "cats", "A cat.", "a red dog"):
        assert torch.equal(run(prompt, StructuredDiffusion(mode)).latents, run(prompt, "sd").latents)


@modes
def test_a_phrase_at_the_beginning_has_the_prompts_own_rows(mode: Any) -> None:
    """CLIP's encoder looks back only, never ahead."""
    found = run("the red dog is big", StructuredDiffusion(mode)).latents
    assert relative(found, run("the red dog is big", "sd").latents) <= 1e-4


@pytest.mark.slow
@modes
def test_batches_of_different_numbers_of_phrases(mode: Any) -> None:
    assert_batch_is_one_by_one([NESTED, CAT, "a purple crown and a blue suitcase"], StructuredDiffusion(mode))


@pytest.mark.slow
@modes
def test_without_guidance(mode: Any) -> None:
    found = run([NESTED, CAT], StructuredDiffusion(mode), guidance=1).latents
    almost = run([NESTED, CAT], StructuredDiffusion(mode), guidance=1 + 1e-6).latents
    assert relative(found, almost) <= 1e-4
    assert rows_of([NESTED, CAT], StructuredDiffusion(mode), guidance=1) == [2] * 3


@modes
def test_the_negative_prompts_rows_are_left_alone(mode: Any) -> None:
    """With a guidance scale of 0 they are all that counts."""
    found = run(NESTED, StructuredDiffusion(mode), guidance=0, negative_prompt="a red dog").latents
    assert relative(found, run(NESTED, "sd", guidance=0, negative_prompt="a red dog").latents) <= 1e-6


@modes
def test_a_trace_changes_nothing(mode: Any) -> None:
    plain, traced = (run(NESTED, StructuredDiffusion(mode), trace=trace) for trace in (False, True))
    assert relative(traced.latents, plain.latents) <= 1e-5


@pytest.mark.slow
@modes
def test_cost(mode: Any) -> None:
    method = StructuredDiffusion(mode)
    assert rows_of([NESTED, CAT], method, seeds=[0, 1]) == [8] * 3
    assert method.cost(reading(NESTED), 3) == Cost(predictions=sum(rows_of(NESTED, method)))


@modes
def test_more_than_77_pieces(mode: Any) -> None:
    """Phrases within CLIP's 75 pieces take part, those that reach beyond do not, and both are said."""
    long = " and ".join(["a red dog"] * 20)  # 79 pieces
    with pytest.warns(UserWarning, match="does not see: "):
        found = run(long, StructuredDiffusion(mode)).latents
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert relative(found, run(long, "sd").latents) > 1e-4


def test_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="mode is 'maps'; expected 'values' or 'keys'"):
        StructuredDiffusion("maps")  # type: ignore[arg-type]
