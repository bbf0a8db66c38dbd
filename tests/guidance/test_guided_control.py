"""Controls in guided passes, controls that leave maps alone, and second softmaxes of other tokenizers' keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from foreign_networks import foreign
from reference import model, noise, relative, run
from torch import Tensor
from torch.nn import functional as F

from ebama import methods
from ebama.energy import ebama_loss
from ebama.guidance import Conditioning, Controls, Energy, GradientMethod, Method, Needs, Task, guide_for
from ebama.guidance.control import ChainedControl, CheckedControl, checked
from ebama.maps import ContentRange
from ebama.methods.ane import ane_loss
from ebama.models import AttentionCall, AttentionRecord, AttentionRecords, Control, Site
from ebama.prompt import Box, Group

CROWN = "a purple crown and a blue suitcase"
GROUPS, TOKENS = [Group((2,), ((1,),)), Group((4,), ((3,),))], (1, 2, 3, 4)


class Louder(Control):
    """Scales the scores of each row of its batch by a factor of its own."""

    def __init__(self, factors: Tensor) -> None:
        self.factors = factors

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        assert len(scores) == len(self.factors)
        return scores * self.factors[:, None, None, None]


@dataclass(frozen=True)
class Loud(GradientMethod):
    """Has both: its energy is the mean score, its control scales the scores by the number of the row's objects."""

    name: ClassVar[str] = "loud"
    changes: ClassVar[str] = "scores, and the latent by them"
    reference: ClassVar[str] = "a toy"
    needs: ClassVar[Needs] = Needs(groups=True, gradient=True)

    step_size: float = 1.0
    guided_steps: int | None = None
    controlled_calls: int = 10

    def energy(self, task: Task) -> Energy:
        return lambda records, samples, i: records.mean_scores().square().mean(dim=(1, 2, 3))

    def control(self, task: Task, conditioning: Conditioning) -> Controls:
        factors = torch.ones(len(conditioning.contexts))
        factors[conditioning.prompt_rows] = torch.tensor([1 + len(groups) / 10 for groups in task.groups])
        control = Louder(factors)
        return lambda i: control if i < self.controlled_calls else None


@dataclass(frozen=True)
class Quiet(Loud):
    """The same energy without the control."""

    def control(self, task: Task, conditioning: Conditioning) -> None:
        return None


def test_guided_passes_see_the_methods_own_control() -> None:
    _, network = foreign("ldm")
    context, z = torch.randn(3, 7, 10, generator=torch.Generator().manual_seed(2)), noise(1, 8).expand(3, -1, -1, -1)
    groups = [GROUPS, [], GROUPS[:1]]  # the second is left alone: the control is made for the other two
    loud, quiet = (guide_for(m, network, context, groups, TOKENS, calls=3) for m in (Loud(controlled_calls=1), Quiet()))
    found, plain = loud(z, 500, 0), quiet(z, 500, 0)
    assert found.losses is not None
    assert plain.losses is not None
    sites = [site for site in network.sites(z.shape) if site.kind == "cross" and site.resolution == (8, 8)]
    records = network.attention(z[[0, 2]], 500, context[[0, 2]], sites=sites, control=Louder(torch.tensor([1.2, 1.1])))
    torch.testing.assert_close(found.losses[[0, 2]], records.mean_scores().square().mean(dim=(1, 2, 3)))
    assert relative(found.losses[[0, 2]], plain.losses[[0, 2]]) > 0.1
    assert torch.equal(loud(z, 500, 1).latents, quiet(z, 500, 1).latents), "the control of call 1 is none"


@pytest.mark.slow
def test_a_run_with_both_differs_from_each_alone_and_is_one_by_one() -> None:
    prompts = [CROWN, "a cat"]
    both = run(prompts, Loud(), seeds=[3])
    for k, prompt in enumerate(prompts):
        assert relative(both.latents[k : k + 1], run(prompt, Loud(), seeds=[3]).latents) <= 1e-5
    assert relative(both.latents, run(prompts, Quiet(), seeds=[3]).latents) > 1e-3
    assert relative(both.losses, run(prompts, Quiet(), seeds=[3]).losses) > 1e-2


@pytest.mark.slow
def test_the_controls_of_a_composition_act_in_its_guided_passes() -> None:
    @dataclass(frozen=True)
    class Controlling(Method):
        name: ClassVar[str] = "controlling"
        changes: ClassVar[str] = "scores"
        reference: ClassVar[str] = "a toy"

        def control(self, task: Task, conditioning: Conditioning) -> Controls:
            return Loud().control(task, conditioning)

    z = noise(3)
    together, one = run(CROWN, [Controlling(), Quiet()], latents=z), run(CROWN, Loud(), latents=z)
    assert torch.equal(together.latents, one.latents)
    assert torch.equal(together.losses, one.losses)


# --- controls that edit no map keep fused attention ---


class Swapping(Control):
    def contexts(self, site: Site, context: Tensor) -> tuple[Tensor, Tensor]:
        return context.flip(1), context


class Softer(Control):
    def probabilities(self, call: AttentionCall, probabilities: Tensor) -> Tensor:
        return probabilities


class Moving(Control):
    def next_context(self, call: AttentionCall) -> Tensor:
        return call.context + 1 if call.site.kind == "cross" else call.context


@pytest.mark.parametrize(
    ("control", "edits"),
    [(Control(), False), (Swapping(), False), (Moving(), False), (Softer(), True), (Louder(torch.ones(1)), True)],
    ids=lambda value: type(value).__name__,
)
def test_edits_maps_follows_from_what_is_overridden(
    control: Control, edits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = model().unet
    z, context = noise(0), torch.randn(1, 77, 16)
    fused: list[Any] = []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: fused.append(1) or attend(*a, **k))
    unet(z, 500, context, control=control)
    sites = unet.sites(z.shape)
    assert [control.edits_maps(site) for site in sites] == [edits] * len(sites)
    assert len(fused) == (0 if edits else len(sites))


def test_every_control_is_checked() -> None:
    for control in (Moving(), Swapping(), Softer()):
        assert isinstance(checked(lambda i, control=control: control, 0), CheckedControl)  # type: ignore[misc]
    assert checked(lambda i: None, 0) is checked(None, 0) is None


@pytest.mark.slow
def test_a_checked_control_does_what_it_does_alone_and_under_checkpointing() -> None:
    for network in (model().unet, foreign("ldm")[1]):
        z = noise(0) if network is model().unet else noise(0, 8)
        context = torch.randn(1, 7, 16 if network is model().unet else 10)
        with torch.no_grad():
            plain = network(z, 500, context, control=Moving())
            assert torch.equal(network(z, 500, context, control=CheckedControl(Moving())), plain)
        moving = z.clone().requires_grad_(True)
        out = network(moving, 500, context, control=CheckedControl(Moving()), checkpoint=True)
        (gradient,) = torch.autograd.grad(out.square().sum(), moving)
        (expected,) = torch.autograd.grad(network(moving, 500, context, control=Moving()).square().sum(), moving)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


# --- records of several kinds ---


def record(name: str, kind: Any, resolution: tuple[int, int], keys: int = 16) -> AttentionRecord:
    site = Site(name, kind, resolution, 1)
    return AttentionRecord(site, torch.zeros(1, 1, resolution[0] * resolution[1], keys))


RECORDS = AttentionRecords(
    [
        record("down.0.attn1", "self", (4, 4)),
        record("down.0.attn2", "cross", (4, 4)),
        record("up.0.attn1", "self", (4, 8)),
        record("up.0.attn2", "cross", (4, 8)),
    ]
)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({}, ["down.0.attn1", "down.0.attn2", "up.0.attn1", "up.0.attn2"]),
        ({"kind": "cross"}, ["down.0.attn2", "up.0.attn2"]),
        ({"resolution": 4}, ["down.0.attn1", "down.0.attn2"]),
        ({"resolution": (4, 8), "kind": "self"}, ["up.0.attn1"]),
        ({"name": "up.*"}, ["up.0.attn1", "up.0.attn2"]),
        ({"name": "down.0.attn2"}, ["down.0.attn2"]),
        ({"name": "attn2"}, []),
    ],
)
def test_where_chooses_records(asked: dict[str, Any], names: Sequence[str]) -> None:
    chosen = RECORDS.where(**asked)
    assert isinstance(chosen, AttentionRecords)
    assert [r.site.name for r in chosen] == names


def test_a_mean_over_sites_of_both_kinds_is_refused_though_the_keys_agree() -> None:
    for mixed in (RECORDS.where(resolution=4), RECORDS, RECORDS.where(kind="cross"), RECORDS.where(name="nothing")):
        for mean in (mixed.mean_scores, mixed.mean_probabilities):
            with pytest.raises(ValueError, match="only over sites of one kind, one resolution"):
                mean()
    assert RECORDS.where(resolution=4, kind="self").mean_scores().shape == (1, 4, 4, 16)


# --- the second softmax on the content range at hand ---


@pytest.mark.parametrize(
    ("tokens", "keys", "inside"),
    [
        ((1, 2, 3), 77, range(1, 76)),  # CLIP
        ((), 77, range(1, 76)),
        ((0, 1, 2), 77, range(76)),  # T5: no start token
        ((1, 2, 3), 5, range(1, 4)),  # no padding
        ((0, 1, 2), 3, range(3)),  # neither start nor end
        ((2, 3), 9, range(2, 8)),  # two special tokens in front
        (range(1, 247), 248, range(1, 247)),  # a long CLIP
    ],
)
def test_the_second_softmax_goes_over_the_content_range(tokens: Sequence[int], keys: int, inside: range) -> None:
    maps = torch.randn(2, 3, 2, keys, dtype=torch.float64).softmax(-1)
    found = ContentRange.of([tokens, (1,)])[[0]].softmax(maps[:1])
    expected = torch.zeros_like(maps[:1])
    expected[..., list(inside)] = (100 * maps[:1, ..., list(inside)]).softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_the_range_of_a_sample_is_its_own() -> None:
    maps = torch.randn(2, 4, 4, 9).softmax(-1)
    both = ane_loss(maps, [[Group((1,))], [Group((2,))]], [(0, 1), (2, 3)])
    single = [ane_loss(maps[k : k + 1], [Group((k + 1,))], tokens) for k, tokens in enumerate([(0, 1), (2, 3)])]
    torch.testing.assert_close(both, torch.cat(single))


class OnlyContexts:
    """A network whose own attention layers know of keys and values alone, and never ask for a next context."""

    def __init__(self) -> None:
        self.network = foreign("ldm")[1]

    def __call__(self, z: Tensor, t: int, context: Tensor, *, control: Control) -> Tensor:
        site = self.network.sites(z.shape)[1]
        return self.network(z, t, control.contexts(site, context)[0])


class AsksForMaps(OnlyContexts):
    """One that asks whether maps are edited, and then edits none."""

    def __call__(self, z: Tensor, t: int, context: Tensor, *, control: Control) -> Tensor:
        control.edits_maps(self.network.sites(z.shape)[1])
        return super().__call__(z, t, context, control=control)


class Deaf(OnlyContexts):
    def __call__(self, z: Tensor, t: int, context: Tensor, *, control: Control) -> Tensor:
        return self.network(z, t, context)


@pytest.mark.parametrize(
    ("control", "network", "message"),
    [
        (Swapping(), OnlyContexts, None),
        (Swapping(), AsksForMaps, None),
        (Swapping(), Deaf, "^Swapping rewrites attention, .* it never asked for contexts"),
        (Softer(), OnlyContexts, "^Softer rewrites attention, .* never asked for probabilities"),
        (Softer(), AsksForMaps, "^Softer .* never asked for probabilities"),
        (Louder(torch.ones(1)), Deaf, "^Louder .* never asked for scores"),
        (ChainedControl([Swapping(), Softer()]), Deaf, "never asked for contexts or probabilities"),
        (ChainedControl([Swapping(), ChainedControl([Softer()])]), OnlyContexts, "^Softer .* for probabilities"),
        (ChainedControl([Swapping(), Moving()]), OnlyContexts, "^Moving moves the text context .* no cross-attention"),
        (Control(), Deaf, None),
    ],
)
def test_a_network_that_does_not_ask_a_control_is_noticed(control: Control, network: Any, message: str | None) -> None:
    watching = checked(lambda i: control, 0)
    assert watching is not None
    network()(noise(0, 8), 5, torch.randn(1, 7, 10), control=watching)
    if message is None:
        watching.check_asked()
        return
    with pytest.raises(ValueError, match=message) as caught:
        watching.check_asked()
    assert "\n" not in str(caught.value)


def test_a_network_that_ignores_controls_in_guided_passes_is_noticed() -> None:
    _, network = foreign("ldm")

    class Ignoring:
        def sites(self, latent_shape: Sequence[int], /) -> list[Site]:
            return network.sites(latent_shape)

        def attention(self, *args: Any, control: Any = None, **options: Any) -> AttentionRecords:
            return network.attention(*args, **options)

        def __call__(self, *args: Any, control: Any = None, **options: Any) -> Any:
            return network(*args, **options)

    context, boxed = torch.randn(1, 7, 10), [Group((2,), ((1,),), Box(0, 0, 0.5, 0.5))]
    for method, control in ((Loud(), "Louder"), ("bounded-attention", "Bounds")):
        guide = guide_for(method, Ignoring(), context, boxed, TOKENS, calls=3)
        with pytest.raises(ValueError, match=f"^{control} rewrites attention, .* never asked for anything|scores"):
            guide(noise(1, 8), 500, 0)
    assert guide_for(Quiet(), Ignoring(), context, boxed, TOKENS, calls=3)(noise(1, 8), 500, 0).losses is not None


def test_padding_of_a_batch_does_not_read_a_hidden_key() -> None:
    """Tokenizers that pad on the left hide position 0, which stands in for the words that a sample does not have."""
    scores = torch.randn(2, 3, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores[..., :2] = -torch.inf
    scores.requires_grad_(True)
    groups, tokens = [[Group((3,), ((2,),)), Group((5,))], [Group((4,))]], [(2, 3, 4, 5), (4,)]
    losses = ebama_loss(scores, scores.softmax(-1), groups, tokens)
    single = [ebama_loss(scores[[k]], scores[[k]].softmax(-1), groups[k], tokens[k]) for k in range(2)]
    torch.testing.assert_close(losses, torch.cat(single))
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert gradient.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["a cat and a dog", [CROWN, "a cat and a dog"]])
def test_divide_and_bind_of_prompts_without_modifiers(prompt: Any) -> None:
    options = {"mode": "tv-bind", "step_size": 1.0, "max_refinements": (1, 1)}
    assert run(prompt, methods.get("divide-and-bind", **options), steps=1).losses[:, 0].isfinite().all()
