"""Prompt-to-Prompt: maps taken over from the first prompt, against plain loops with tables written by hand."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from reference import maps_of, model, noise, out_of, plain_unet, pndm, reading, relative, rows_of, run
from torch import Tensor

from ebama.guidance import Cost
from ebama.methods.correspondence import align_tokens, refining, replacing
from ebama.methods.p2p import PromptToPrompt

CATS, DOGS = "a red cat and a bench", "a red dog and a bench"
SHORT, LONG = "a cat and a dog", "a red cat and a big dog"
SPIKY = "a cat and a spiky surfboard"

Table = Mapping[int, Sequence[tuple[int, float]]]
"""Token of the edit -> (token of the source, weight) whose sum it takes; one without an entry keeps its own map."""


def same(first: int) -> dict[int, list[tuple[int, float]]]:
    """Everything from `first` on stands for itself."""
    return {n: [(n, 1.0)] for n in range(first, 77)}


TABLES: dict[tuple[str, str, str], Table] = {
    (CATS, DOGS, "replace"): same(0),
    # a cat and a spi ky surf board . -> a surf board and a red surf board .
    (SPIKY, "a Surfboard and a red surfboard", "replace"): {
        **same(0),
        2: [(2, 0.5)],
        3: [(2, 0.5)],
        4: [(3, 1)],
        5: [(4, 1)],
        6: [(5, 1), (6, 1)],
    },
    ("a cat", "a surfboard", "replace"): {**same(0), 3: [(2, 0.5)], 2: [(2, 0.5)], 4: [(3, 1)]},
    ("a surfboard", "a cat", "replace"): {**same(0), 2: [(2, 1), (3, 1)], 3: [(4, 1)], 4: [(5, 1)]},
    (SHORT, LONG, "refine"): {
        **{0: [(0, 1)], 1: [(1, 1)], 3: [(2, 1)], 4: [(3, 1)], 5: [(4, 1)], 7: [(5, 1)], 8: [(6, 1)]},
        **same(9),
    },
    (LONG, "a cat", "refine"): {
        **{0: [(0, 1)], 1: [(1, 1)], 2: [(3, 1)], 3: [(8, 1)]},
        **{n: [(9, 1)] for n in range(4, 9)},
        **same(9),
    },
}


@torch.no_grad()
def derived(
    source: str,
    edit: str,
    table: Table,
    *,
    inside: Callable[[int, int], bool],
    self_calls: Sequence[int],
    factors: Mapping[int, float] = {},
    steps: int = 4,
    size: int = 16,
    copied_queries: int = 256,
) -> tuple[Tensor, Tensor]:
    """Source and edit, one after the other; `inside(call, token)` says where cross-attention is edited."""
    texts = {"none": "", "source": source, "edit": edit}
    contexts = {role: model().encode_text([text]).double() for role, text in texts.items()}
    mixed = torch.zeros(77, 77, dtype=torch.float64)  # [token of the source, token of the edit]
    for n, parts in table.items():
        for m, weight in parts:
            mixed[m, n] = weight
    kept: dict[tuple[int, str], list[Tensor]] = {}
    role, call = "none", 0

    def cross(layer: Any, name: str, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        maps = maps_of(layer, x, context)
        if role == "source":
            kept[call, name] = maps
        if role == "edit":
            edited = [n for n in range(77) if inside(call, n)]
            taken = [n for n in edited if n in table]
            for old, own in zip(kept[call, name], maps, strict=True):
                own[:, taken] = (old @ mixed)[:, taken]
                own[:, edited] *= torch.tensor([factors.get(n, 1.0) for n in edited], dtype=own.dtype)
        return out_of(layer, maps, context), context

    def own(layer: Any, name: str, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        maps = maps_of(layer, x, context)
        if role == "source":
            kept[call, name] = maps
        if role == "edit" and call in self_calls and len(x) <= copied_queries:
            maps = kept[call, name]
        return out_of(layer, maps, context), context

    unet = plain_unet(cross, own)

    def sampled(wanted: str) -> Tensor:
        def denoise(z: Tensor, t: int, i: int) -> Tensor:
            nonlocal role, call
            call = i
            role = "none"
            plain = unet(z, t, contexts["none"])
            role = wanted
            return plain + 7.5 * (unet(z, t, contexts[wanted]) - plain)

        return pndm(denoise, noise(5, size).double(), steps)

    return sampled("source"), sampled("edit")


# --- numbers ---


@pytest.mark.parametrize(("source", "edit", "kind"), TABLES)
def test_tables(source: str, edit: str, kind: str) -> None:
    prompts = reading(source), reading(edit)
    ids = [[model().tokenizer(prompt.prompt)["input_ids"][k] for k in prompt.tokens] for prompt in prompts]
    found = replacing(*prompts) if kind == "replace" else refining(*prompts, *ids)
    expected = torch.zeros(77, 77)
    for n, parts in TABLES[source, edit, kind].items():
        for m, weight in parts:
            expected[m, n] = weight
    assert torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "edit", "kind"), [case for case in TABLES if case[0] not in ("a cat", "a surfboard", SHORT)]
)
def test_numbers(source: str, edit: str, kind: Any) -> None:
    """Four steps of PNDM are five calls: int(0.8 * 5) of them in the one window, int(0.4 * 4) in the other."""
    found = run([source, edit], PromptToPrompt(kind), seeds=[5], steps=4, sampler="pndm").latents
    expected = derived(source, edit, TABLES[source, edit, kind], inside=lambda i, n: i < 4, self_calls=[0])
    assert relative(found, torch.cat(expected)) <= 1e-4
    assert relative(found[1:], run(edit, "sd", seeds=[5], steps=4, sampler="pndm").latents) > 1e-2
    auto = run([source, edit], PromptToPrompt(), seeds=[5], steps=4, sampler="pndm").latents
    assert torch.equal(auto, found)


@pytest.mark.slow
def test_numbers_of_windows_and_factors() -> None:
    """Cross-attention in calls 1 and 2, "red" in 0 and 1, "big" in none; self-attention in calls 1 and 2."""
    method = PromptToPrompt(
        "refine", (0.2, 0.6), (0.25, 0.75), {"Red": 0.4, "big": (0.5, 0.5)}, {"cat": 3.0, "red": -2, "and": 0}
    )
    found = run([SHORT, LONG], method, seeds=[5], steps=4, sampler="pndm").latents
    calls = {2: (0, 1), 6: ()}  # of the tokens "red" and "big"
    expected = derived(
        SHORT,
        LONG,
        TABLES[SHORT, LONG, "refine"],
        inside=lambda i, n: i in calls.get(n, (1, 2)),
        self_calls=[1, 2],
        factors={3: 3.0, 2: -2.0, 4: 0.0},
    )
    assert relative(found, torch.cat(expected)) <= 1e-4


@pytest.mark.slow
def test_a_factor_for_every_occurrence_of_a_word() -> None:
    prompt = "a red dog and a red cat"
    found = run([prompt, prompt], PromptToPrompt(reweight={"red": 4}), seeds=[5], steps=4, sampler="pndm").latents
    factors = {2: 4.0, 6: 4.0}
    expected = derived(prompt, prompt, same(0), inside=lambda i, n: i < 4, self_calls=[0], factors=factors)
    assert relative(found, torch.cat(expected)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("sample_size", "copied_queries"), [(32, 16 * 16), (16, 32 * 32)])
def test_self_attention_is_copied_up_to_16x16_at_the_models_own_size(sample_size: int, copied_queries: int) -> None:
    """Latents of 32x32 have sites of 32x32 and 16x16; to a model made for 16x16 the larger ones count as 16x16."""
    method = PromptToPrompt(cross_steps=0, self_steps=1)
    latents = noise(5, 32).repeat(2, 1, 1, 1)
    found = run([CATS, DOGS], method, latents=latents, sample_size=sample_size, sampler="pndm").latents
    expected = derived(
        *(CATS, DOGS, {}),
        inside=lambda i, n: False,
        self_calls=[0, 1],
        steps=2,
        size=32,
        copied_queries=copied_queries,
    )
    assert relative(found, torch.cat(expected)) <= 1e-4


@pytest.mark.slow
def test_the_sources_picture_is_plain() -> None:
    plain = run(CATS, "sd", seeds=[3, 4]).latents
    for method in (PromptToPrompt(), PromptToPrompt(cross_steps=1, self_steps=1, reweight={"dog": 5})):
        found = run([CATS, DOGS], method, seeds=[3, 4]).latents
        assert relative(found[:2], plain) <= 1e-5
        assert relative(found[2:], plain) > 1e-2


def test_closed_windows_are_plain_sampling() -> None:
    closed = PromptToPrompt(cross_steps=0, self_steps=(0.5, 0.5))
    assert torch.equal(run([CATS, DOGS], closed).latents, run([CATS, DOGS], "sd").latents)


def test_an_edit_to_the_same_prompt_is_the_source() -> None:
    for kind in ("replace", "refine"):
        source, edit = run([LONG, LONG.upper()], PromptToPrompt(kind, 1, 1)).latents
        assert relative(edit, source) <= 1e-5


def test_whole_numbers_are_shares_too() -> None:
    whole, floats = (run([CATS, DOGS], PromptToPrompt(cross_steps=x, self_steps=x)).latents for x in (1, 1.0))
    assert torch.equal(whole, floats)


@pytest.mark.slow
def test_without_guidance() -> None:
    found, almost = (run([CATS, DOGS], PromptToPrompt(), guidance=w).latents for w in (1, 1 + 1e-6))
    assert relative(found, almost) <= 1e-4
    assert rows_of([CATS, DOGS], PromptToPrompt(), guidance=1) == [2] * 3


def test_the_negative_prompts_rows_are_left_alone() -> None:
    found, plain = (run([CATS, DOGS], m, guidance=0, negative_prompt="a bow").latents for m in (PromptToPrompt(), "sd"))
    assert relative(found, plain) <= 1e-6


# --- batches and cost ---


@pytest.mark.slow
def test_a_batch_is_its_seeds_and_its_edits_one_by_one() -> None:
    prompts, method = [SHORT, LONG, "a bear and a spiky surfboard"], PromptToPrompt()
    together = run(prompts, method, seeds=[3, 4]).latents
    for seed, k in ((3, 0), (4, 1)):
        assert relative(together[k::2], run(prompts, method, seeds=[seed]).latents) <= 1e-4
        for edit in (1, 2):
            pair = run([SHORT, prompts[edit]], method, seeds=[seed]).latents
            assert relative(together[[k, 2 * edit + k]], pair) <= 1e-4
    for size in (1, 4):
        assert relative(run(prompts, method, seeds=[3, 4], batch_size=size).latents, together) <= 1e-4


def test_a_trace_changes_nothing() -> None:
    plain, traced = (run([CATS, DOGS], PromptToPrompt(), trace=trace).latents for trace in (False, True))
    assert relative(traced, plain) <= 1e-5


@pytest.mark.slow
def test_cost() -> None:
    method = PromptToPrompt()
    assert rows_of([CATS, DOGS, SHORT], method, seeds=[0, 1]) == [12] * 3
    costs = [method.cost(reading(prompt), 3) for prompt in (CATS, DOGS)]
    assert costs == [Cost(predictions=6)] * 2
    assert sum(rows_of([CATS, DOGS], method)) == 12


# --- alignment of tokens ---


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ([1], [1, 1], [0, None]),  # a token of the target is left out first, from the end
        ([1, 1], [1], [0]),
        ([1, 2], [2, 1], [1, None]),
        ([1, 2, 3], [4, 5], [None, None]),
        ([], [1], [None]),
        ([1], [], []),
        ([1, 2, 3, 4], [1, 9, 3, 4, 8], [0, None, 2, 3, None]),
    ],
)
def test_alignments_by_hand(source: list[int], target: list[int], expected: list[int | None]) -> None:
    assert align_tokens(source, target) == expected


def test_no_alignment_matches_more() -> None:
    chance = random.Random(0)
    for _ in range(100):
        source, target = ([chance.randrange(4) for _ in range(chance.randrange(7))] for _ in range(2))
        pairs = [(i, j) for j, i in enumerate(align_tokens(source, target)) if i is not None]
        assert all(source[i] == target[j] for i, j in pairs)
        assert pairs == sorted(pairs)
        assert len({i for i, _ in pairs}) == len(pairs)
        longest = max(
            n
            for n in range(len(target) + 1)
            if {*itertools.combinations(source, n)} & {*itertools.combinations(target, n)}
        )
        assert len(pairs) == longest


# --- what goes in ---


def test_one_prompt_alone() -> None:
    with pytest.raises(ValueError, match="'a red cat and a bench' alone; give two prompts or more"):
        run(CATS, PromptToPrompt(), seeds=[0, 1])


def test_replacing_with_another_number_of_words() -> None:
    with pytest.raises(ValueError, match=r"'a red cat and a big dog' has 7 words .* of 'a cat and a dog', which has 5"):
        run([SHORT, LONG], PromptToPrompt("replace"))


@pytest.mark.parametrize("option", ["reweight", "word_steps"])
def test_a_word_that_no_edit_has(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} names 'cat'; the edits have the words a, and, bench, dog, red"):
        run([CATS, DOGS], PromptToPrompt(**{option: {"cat": 0.5}}))


@pytest.mark.parametrize("edit", ["a cat", "{} and a cat", "two frogs and {}"])
def test_more_than_77_pieces(edit: str) -> None:
    long = " and ".join(["a red dog"] * 20)
    with pytest.warns(UserWarning, match="does not see: "):
        found = run([long, edit.format(long)], PromptToPrompt()).latents
    assert found.isfinite().all()


def test_options_come_back_from_json() -> None:
    method = PromptToPrompt("refine", (0, 0.5), 1, {"cat": 0.3, "dog": (0.1, 0.2)}, {"cat": 2})
    options = json.loads(json.dumps(method.describe()))
    assert options.pop("name") == "p2p"
    assert PromptToPrompt(**options) == method
    assert len({method, PromptToPrompt(**options)}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edit": "swap"}, "edit is 'swap'"),
        ({"cross_steps": 1.2}, "cross_steps has the window 1.2"),
        ({"cross_steps": (0.5, 0.2)}, r"cross_steps has the window \(0.5, 0.2\)"),
        ({"self_steps": "0.4"}, "self_steps has the window '0.4'"),
        ({"self_steps": math.nan}, "self_steps has the window nan"),
        ({"word_steps": {"cat": -1}}, "'cat' has the window -1"),
        ({"reweight": {"cat": math.inf}}, "reweight has inf for 'cat'"),
        ({"reweight": "cat"}, "reweight is 'cat'; expected a mapping, as {'cat': 2.0}"),
        ({"reweight": {"cat": "2"}}, "reweight has '2' for 'cat'"),
        *(({option: {3: 0.5}}, f"{option} names 3; expected words") for option in ("reweight", "word_steps")),
    ],
)
def test_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptToPrompt(**options)
