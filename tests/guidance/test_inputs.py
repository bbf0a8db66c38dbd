"""What people hand to guides, controls and samplers by mistake is named, and never read as something else."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from foreign_networks import foreign, inputs
from torch import Tensor

from ebama.energy import binding_loss
from ebama.guidance import Refinement, gradient_guide, guide_for, start_for
from ebama.models import AttentionRecord, Control, Site
from ebama.prompt import Group
from ebama.samplers import DDIM, PNDM

GROUPS, TOKENS = [Group((2,), ((1,),)), Group((3,))], [1, 2, 3]
Z, T, CONTEXT = inputs()
NETWORK = foreign("ldm")[1]


def _maps(z: Tensor, t: Any, samples: list[int]) -> Any:
    return NETWORK.attention(z, t, CONTEXT[samples], resolution=(8, 12))


def _energy(records: Any, samples: list[int], i: int) -> Tensor:
    return records.mean_scores().sum((1, 2, 3))


@pytest.mark.parametrize("method", ["boxdiff", "layout-guidance", "bounded-attention", ["ebama", "boxdiff"]], ids=str)
def test_a_method_of_boxes_without_any_is_refused(method: Any) -> None:
    with pytest.raises(ValueError, match="got none; give them in the groups"):
        guide_for(method, NETWORK, CONTEXT, GROUPS, TOKENS, calls=2)


@pytest.mark.parametrize("method", ["ane", "ebama", "divide-and-bind"])
def test_ids_are_no_positions(method: str) -> None:
    with pytest.raises(ValueError, match=r"do not all lie on the key axis of length"):
        guide_for(method, NETWORK, CONTEXT, GROUPS, [49406, 320, 2368], calls=2)


MASK = [False, True, True, True]
WRONG_POSITIONS = {
    "mask": (GROUPS, MASK, "Got False among"),
    "mask as a tensor": (GROUPS, torch.tensor(MASK), "Got False among"),
    "mask of numbers": (GROUPS, [0, 1, 1, 1], "tokens hold a position twice, as masks of 0 and 1 do"),
    "a position twice": (GROUPS, torch.tensor([1, 2, 2]), "tokens hold a position twice"),
    "numbers with a point": (GROUPS, [1.0, 2.0], "Got 1.0 among"),
    "tokens of text": (GROUPS, "123", "Got '1' among"),
    "no tokens": (GROUPS, [None], "Got None among"),
    "words": ([[("cat", ["red"])]] * 2, TOKENS, r"Got \('cat', \['red'\]\) among"),
    "dictionaries": ([{"object": (2,)}], TOKENS, "Got {'object'"),
    "no groups": (None, TOKENS, "Got None among"),
    "positions of objects": ([2, 5], TOKENS, "Got 2 among groups; expected groups, as Group"),
    "positions in a tensor": (torch.tensor([2, 5]), TOKENS, "Got 2 among groups"),
}


@pytest.mark.parametrize("name", WRONG_POSITIONS)
def test_groups_and_tokens_of_another_kind_are_named(name: str) -> None:
    groups, tokens, message = WRONG_POSITIONS[name]
    with pytest.raises(ValueError, match=message):
        binding_loss(torch.randn(2, 3, 3, 7), groups, tokens)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        guide_for("ebama", NETWORK, CONTEXT, groups, tokens, calls=2)  # type: ignore[arg-type]


def test_a_mask_s_positions_are_taken() -> None:
    scores, positions = torch.randn(2, 3, 3, 7), torch.tensor(MASK).nonzero().flatten()
    same = [binding_loss(scores, GROUPS, tokens) for tokens in (TOKENS, positions, np.array(TOKENS), tuple(TOKENS))]
    assert all(losses.equal(same[0]) for losses in same)


@pytest.mark.slow
def test_lists_of_any_kind_are_taken() -> None:
    """Sets and iterators of positions and groups; arrays and tensors of step sizes; iterators of generators."""

    def guided(groups: Any, tokens: Any) -> Tensor:
        return guide_for("ebama", NETWORK, CONTEXT, groups, tokens, calls=2)(Z, T, 0).latents

    expected = guided(GROUPS, TOKENS)
    for tokens in (set(TOKENS), iter(TOKENS), dict.fromkeys(TOKENS).keys(), [set(TOKENS)] * 2, np.array([TOKENS] * 2)):
        assert guided(GROUPS, tokens).equal(expected)
    for groups in (iter(GROUPS), dict(enumerate(GROUPS)).values(), [dict(enumerate(GROUPS)).values()] * 2):
        assert guided(groups, TOKENS).equal(expected)

    def moved(step_sizes: Any, samples: Any = None) -> Tensor:
        guide = gradient_guide(_maps, _energy, step_sizes, samples=samples)
        return guide(guide(Z, T, 0).latents, T, 1).latents

    for step_sizes in (np.linspace(2, 1, 2), torch.linspace(2, 1, 2), (2, np.float32(1)), iter([2.0, 1.0])):
        assert moved(step_sizes).equal(moved([2.0, 1.0]))
    for samples in (torch.tensor([0, 1]), iter([0, 1]), {0, 1}, np.arange(2)):
        assert moved([1.0, 1.0], samples).equal(moved([1.0, 1.0]))
    assert moved([]).equal(Z)
    for wrong in ({0: 1.0}, "1", torch.tensor(1.0), None):
        with pytest.raises(ValueError, match="expected a list, one for each guided call"):
            moved(wrong)
    generators = (torch.Generator() for _ in CONTEXT)
    assert start_for("initno", NETWORK, CONTEXT, GROUPS, TOKENS, calls=2, generators=generators)


NUMBERS: list[Callable[[int], Any]] = [np.int64, torch.tensor, np.array]


@pytest.mark.parametrize("number", NUMBERS, ids=["numpy", "tensor", "array"])
def test_model_calls_are_counted_by_numbers_of_any_library(number: Callable[[int], Any]) -> None:
    """Refinements are looked up by them."""

    def moved(first: Any, i: Any) -> Tensor:
        return gradient_guide(_maps, _energy, [1.0] * 2, refinements={first: Refinement(-9.0, 2)})(Z, T, i).latents

    refined = moved(0, 0)
    assert not refined.equal(moved(1, 0))
    assert not refined.isnan().any()
    assert isinstance(number(0), np.ndarray) or moved(number(0), 0).equal(refined)  # which is no key
    assert moved(0, number(0)).equal(refined)


@pytest.mark.slow
def test_methods_count_model_calls_so_too() -> None:
    latents = [
        guide_for("ane+thresholds=[[0,0.99]]", NETWORK, CONTEXT, GROUPS, TOKENS, calls=calls)(Z, T, i).latents
        for calls, i in ((10, 0), (10, torch.tensor(0)), (np.int64(10), np.int64(0)), (torch.tensor(10), 0))
    ]
    assert all(one.equal(latents[0]) for one in latents)
    for wrong in (True, 1.5, "1", None, torch.tensor([0]), -1):
        with pytest.raises(ValueError, match=r"i is .*the number of a model call"):
            gradient_guide(_maps, _energy, [1.0])(Z, T, wrong)  # type: ignore[arg-type]
    for nowhere in (float("nan"), torch.tensor([1.0, float("inf")])):
        with pytest.raises(ValueError, match="expected a finite timestep"):
            gradient_guide(_maps, _energy, [1.0])(Z, nowhere, 0)
    with pytest.raises(ValueError, match="refinements is"):
        gradient_guide(_maps, _energy, [1.0], refinements=[Refinement(-9.0, 2)])  # type: ignore[arg-type]
    assert Group((np.int64(3),), (tuple(torch.tensor([1, 2])),)) == Group((3,), ((1, 2),))
    for mask in ((True,), (np.True_,), (torch.tensor(True),)):
        with pytest.raises(ValueError, match="is no position"):
            Group(mask)


@pytest.mark.parametrize("z", [Z[0], Z[:1], Z.long(), Z.numpy(), None], ids=["3-D", "fewer", "whole", "numpy", "None"])
def test_latents_that_do_not_fit_the_contexts_are_named(z: Any) -> None:
    guides: list[Callable[[], object]] = [
        lambda: guide_for("ebama", NETWORK, CONTEXT, GROUPS, TOKENS, calls=2)(z, T, 0),
        lambda: start_for("initno", NETWORK, CONTEXT, GROUPS, TOKENS, calls=2)(z),
    ]
    for call in guides:
        with pytest.raises(ValueError, match=r"expected floating point \[2, C, h, w\]"):
            call()


def test_timesteps_samples_steps_and_generators_are_counted() -> None:
    with pytest.raises(ValueError, match=r"t has shape \[3\] for 2 latents"):
        gradient_guide(_maps, _energy, [1.0])(Z, torch.tensor([9, 8, 7]), 0)
    for samples in ([5], [0, 0], [-1], [True, False]):
        with pytest.raises(ValueError, match="expected their indices, each once"):
            gradient_guide(_maps, _energy, [1.0], samples=samples)(Z, T, 0)
    with pytest.raises(ValueError, match="expected a list, one for each guided call"):
        gradient_guide(_maps, _energy, 1.0)  # type: ignore[arg-type]
    for sizes in ([None], ["20"], [[20.0]], [math.nan], [math.inf], [True]):
        with pytest.raises(ValueError, match=r"step_sizes is .*, of numbers"):
            gradient_guide(_maps, _energy, sizes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="The energy returned a NoneType; expected"):
        gradient_guide(_maps, lambda *_: None, [1.0])(Z, T, 0)  # type: ignore[arg-type, return-value]
    for t in (None, "981", b"9", object(), True):
        with pytest.raises(ValueError, match="expected a finite timestep"):
            gradient_guide(_maps, _energy, [1.0])(Z, t, 0)  # type: ignore[arg-type]
    for generators in ([0, 1], [np.random.default_rng(0)] * 2, [torch.Generator(), None]):
        with pytest.raises(ValueError, match=r"generators are .*; expected torch.Generator, all on the CPU"):
            start_for("initno", NETWORK, CONTEXT, GROUPS, TOKENS, calls=2, generators=generators)  # type: ignore[arg-type]
    for calls in (10**8, 10**400):
        with pytest.raises(ValueError, match=r"calls is .*; expected how many model calls your loop makes, from 1 to"):
            guide_for("ebama", NETWORK, CONTEXT, GROUPS, TOKENS, calls=calls)
    with pytest.raises(ValueError, match="generators are 1 for 2 contexts"):
        start_for("initno", NETWORK, CONTEXT, GROUPS, TOKENS, calls=2, generators=[torch.Generator()])


@pytest.mark.parametrize("method", ["ebama", "bounded-attention", "boxdiff", "syngen", "initno"])
def test_positions_beyond_the_context_are_named(method: str) -> None:
    box = (0, 0, 0.5, 1) if method in ("bounded-attention", "boxdiff") else None
    keys = CONTEXT.shape[1]
    group = Group((keys,), ((1,),), box=box)  # type: ignore[arg-type]
    for make in (guide_for, start_for):
        with pytest.raises(ValueError, match=rf"Positions \({keys},.*do not all lie on the key axis of length {keys}"):
            make(method, NETWORK, CONTEXT, [group], TOKENS, calls=2)


def test_one_site_may_stand_for_a_list() -> None:
    site = NETWORK.sites(Z.shape)[1]
    for sites in (site, site.name, [site]):
        assert NETWORK(Z, T, CONTEXT, record=sites)[1][0].site == site
        assert guide_for("ebama", NETWORK, CONTEXT, GROUPS, TOKENS, calls=2, sites=sites)(Z, T, 0).losses is not None


def control(**methods: Callable[..., Any]) -> Control:
    return type("Mine", (Control,), {name: staticmethod(method) for name, method in methods.items()})()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("scores", lambda call, scores: None),
        ("scores", lambda call, scores: scores[..., :-1]),
        ("probabilities", lambda call, shares: shares[:1]),
        ("contexts", lambda site, context: context),
        ("contexts", lambda site, context: (context[:1], context[:1])),
        ("contexts", lambda site, context: (context[:, 1:], context)),
    ],
    ids=["none", "fewer keys", "one sample", "one context", "contexts of one sample", "unlike contexts"],
)
def test_what_a_control_returns_has_the_shape_of_what_it_got(name: str, wrong: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=rf"Mine.{name} returned .*; expected"):
        NETWORK(Z, T, CONTEXT, control=control(**{name: wrong}))


@pytest.mark.parametrize("control", [Control, lambda *_: None, object(), "ebca", Site])
def test_what_is_no_control_is_named(control: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: NETWORK(Z, T, CONTEXT, control=control),
        lambda: NETWORK.attention(Z, T, CONTEXT, resolution=(4, 6), control=control),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"control is \w+; expected an object of a class that extends Control"):
            call()


def test_a_control_may_compute_in_another_precision_and_change_the_number_of_keys() -> None:
    plain = NETWORK(Z, T, CONTEXT)
    for mine in (
        control(probabilities=lambda call, shares: shares.double()),
        control(scores=lambda call, scores: scores.double()),
        control(contexts=lambda site, context: [context, context]),
        control(contexts=lambda site, context: torch.stack([context, context])),
        control(
            contexts=lambda site, context: (context.repeat(1, 2, 1),) * 2 if site.kind == "cross" else (context,) * 2
        ),
    ):
        torch.testing.assert_close(NETWORK(Z, T, CONTEXT, control=mine), plain)


@pytest.mark.parametrize("shape", [(1, 8, 4), (1, 1, 9, 4), (4,)], ids=str)
def test_scores_of_another_shape_than_their_site_s_are_no_record(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[batch, head, query, key\] with 8 queries"):
        AttentionRecord(Site("mine", "cross", (2, 4), 1), torch.randn(shape))


@pytest.mark.parametrize("sampler", [DDIM(2), PNDM(2)], ids=["ddim", "pndm"])
def test_a_sampler_names_what_its_callbacks_return(sampler: Any) -> None:
    for given in (None, (Z,), SimpleNamespace(latents=Z), Z[:1]):
        with pytest.raises(ValueError, match=r"before_step returned .* expected latents"):
            sampler.sample(lambda z, t: z, Z, before_step=lambda z, t, i, given=given: given)
        with pytest.raises(ValueError, match=r"denoise returned .* expected one noise estimate"):
            sampler.sample(lambda z, t, given=given: given, Z)
    with pytest.raises(ValueError, match=r"z is torch.int64; expected floating point"):
        sampler.sample(lambda z, t: z, Z.long())
