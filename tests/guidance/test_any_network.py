"""Guides and starts of any method on networks of other people's styles, held against plain autograd computations."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from foreign_networks import LDM, DitCross, LdmBlock, SeparateCross, foreign
from reference import FEW, reading, relative
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ebama import methods
from ebama.energy import ebama_loss
from ebama.guidance import Method, Needs, Start, Task, guide_for, start_for
from ebama.methods import DivideAndBind, Ebama
from ebama.methods.ane import ane_loss
from ebama.methods.ebama_official import official_loss
from ebama.methods.syngen import syngen_loss
from ebama.models import AttentionRecords, Control, Network, Site, adapt
from ebama.prompt import Box, Group, Parsed

GROUPS = [Group((2,), ((1,),), Box(0, 0, 0.5, 0.7)), Group((4, 5), ((3,),), Box(0.5, 0.2, 1, 1))]
OTHER = [Group((1,), box=Box(0.2, 0, 0.9, 0.9)), Group((3,), ((4,),))]
TOKENS = (1, 2, 3, 4, 5)
GUIDED = [name for name in methods.names() if "guide" in methods.get(name).complete().places]


def noise(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def contexts(batch: int) -> Tensor:
    return 3 * torch.randn(batch, 7, 10, generator=torch.Generator().manual_seed(2))


def plain_scores(net: nn.Module, z: Tensor, context: Tensor, size: int) -> list[Tensor]:
    """Scores [B, head, query, key] of the cross-attention layers with maps of size x size, from hooks."""
    seen: list[Tensor] = []

    def split(x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        x = args[0]
        if x.shape[1] != size**2:
            return
        if isinstance(module, DitCross):
            heads, q, k = module.num_heads, module.q_linear(x), module.kv_linear(context).chunk(2, -1)[0]
        elif isinstance(module, SeparateCross):
            heads, q, k = module.n_heads, module.q_proj(x), module.k_proj(context)
        else:
            heads, q, k = module.heads, module.to_q(x), module.to_k(context)
        q, k = split(q, heads), split(k, heads)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if (padding := getattr(net, "padding", 0)) > 0:
            scores = scores.masked_fill(torch.arange(7) >= 7 - padding, -math.inf)
        seen.append(scores)

    for name, module in net.named_modules():
        if isinstance(module, DitCross | SeparateCross) or name.endswith("attn2"):
            module.register_forward_pre_hook(hook, with_kwargs=True)
    net(z, torch.full((len(z),), 500), context)
    return seen


def mean(maps: Sequence[Tensor], size: int) -> Tensor:
    return torch.cat(list(maps), dim=1).mean(dim=1).unflatten(1, (size, size))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ebama": lambda scores, maps: ebama_loss(scores, maps, GROUPS, TOKENS),
    "ebama-official": lambda scores, maps: official_loss(maps, GROUPS, TOKENS),
    "ane": lambda scores, maps: ane_loss(maps, GROUPS, TOKENS),
    "syngen": lambda scores, maps: syngen_loss(maps, GROUPS, TOKENS),
}


@pytest.mark.parametrize("style", ["ldm", "fused", "dit"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_guide_on_a_foreign_network_is_the_plain_gradient(style: str, name: str) -> None:
    plain, network = foreign(style)
    z, context, size = noise(2), contexts(2), 4 if style == "dit" else 8
    guide = guide_for(methods.get(name, step_size=2.0), network, context, GROUPS, TOKENS, calls=10)
    found = guide(z, 500, 3)

    moving = z.clone().requires_grad_(True)
    scores = plain_scores(plain, moving, context, size)
    losses = LOSSES[name](mean(scores, size), mean([s.softmax(-1) for s in scores], size))
    (gradient,) = torch.autograd.grad(losses.sum(), moving)
    factor = 2 * (math.sqrt(1 - 0.5 * 3 / 9) if name == "ane" else 1)
    assert relative(found.latents - z, -factor * gradient) <= 1e-4
    assert found.losses is not None
    assert found.gradient_norms is not None
    torch.testing.assert_close(found.losses, losses.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.gradient_norms, gradient.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "name"),
    [(style, name) for style in ("ldm", "dit-masked") for name in GUIDED]
    + [(style, name) for style in ("fused", "dit") for name in ("ane", "ebama", "bounded-attention")],
)
def test_a_batch_is_what_its_samples_are_one_by_one(style: str, name: str) -> None:
    _, network = foreign(style)
    z, context, groups, tokens = noise(3), contexts(3), [GROUPS, OTHER, []], TOKENS
    if style == "dit-masked":  # keys 4 to 6 are hidden
        box, tokens = Box(0, 0, 0.5, 0.7), (0, 1, 2, 3)
        groups = [[Group((1,), ((2,),), box), Group((3,))], [Group((3,), ((2,),), box), Group((1,))], []]
    together = guide_for(name, network, context, groups, tokens, calls=5)(z, 500, 0)
    assert (together.latents - z).flatten(1).norm(dim=1).gt(0).tolist() == [True, True, False]
    for k in range(3):
        one = guide_for(name, network, context[k : k + 1], groups[k], tokens, calls=5)(z[k : k + 1], 500, 0)
        assert relative(together.latents[k : k + 1], one.latents) <= 1e-5


def cut(block: Callable[..., Any], *, frozen: bool) -> Network:
    """A network whose blocks run within something else."""
    plain, _ = foreign("ldm")
    for module in plain.children():
        module.forward = block(module.forward) if isinstance(module, LdmBlock) else module.forward
    plain.requires_grad_(not frozen)
    return adapt(plain, LDM, lambda net, z, t, context: net(z, t, context), context_shape=(7, 10))


@pytest.mark.parametrize(
    "block",
    [
        lambda forward: torch.no_grad()(forward),
        lambda forward: lambda x, *more: forward(x.detach(), *more),
        lambda forward: partial(checkpoint, forward, use_reentrant=True),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_network_that_keeps_the_gradient_back_is_named(frozen: bool, block: Callable[..., Any]) -> None:
    network, says = cut(block, frozen=frozen), r"No gradient leads from the maps to the latents; .*re-entrant"
    with pytest.raises(ValueError, match=says):
        guide_for("ebama", network, contexts(2), GROUPS, TOKENS, calls=10)(noise(2), 500, 0)
    start = start_for(
        "initno", network, contexts(2), GROUPS, TOKENS, calls=10, generators=[torch.Generator(), torch.Generator()]
    )
    with pytest.raises(ValueError, match=says):
        start(noise(2))


def test_weights_that_were_made_without_gradients_are_named() -> None:
    with torch.inference_mode():
        network = cut(lambda forward: forward, frozen=True)
    with pytest.raises(
        ValueError, match=r"made in torch\.inference_mode, where nothing has a gradient; load it outside"
    ):
        guide_for("ebama", network, contexts(2), GROUPS, TOKENS, calls=10)(noise(2), 500, 0)


def test_a_network_that_checkpoints_itself_is_right_or_named() -> None:
    found, expected = (
        guide_for("ebama", network, contexts(2), GROUPS, TOKENS, calls=10)
        for network in (cut(lambda f: partial(checkpoint, f, use_reentrant=False), frozen=True), foreign("ldm")[1])
    )
    torch.testing.assert_close(found(noise(2), 500, 0), expected(noise(2), 500, 0))
    trained = cut(lambda forward: partial(checkpoint, forward, use_reentrant=False), frozen=False)
    with pytest.raises(ValueError, match=r"The network checkpoints blocks .*; switch that off"):
        guide_for("ebama", trained, contexts(2), GROUPS, TOKENS, calls=10)(noise(2), 500, 0)


def doubled(net: nn.Module, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Both rows of guidance in one pass, as a sampler's own wrapper has it."""
    return net(torch.cat([z, z]), torch.cat([t, t]), torch.cat([0 * context, context])).chunk(2)[1]  # type: ignore[no-any-return]


def one_by_one(net: nn.Module, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
    return torch.cat([net(z[k : k + 1], t[k : k + 1], context[k : k + 1]) for k in range(len(z))])


@pytest.mark.parametrize(("call", "rows"), [(doubled, 4), (one_by_one, 1)])
@pytest.mark.parametrize("name", ["ebama", "ane", "self-cross"])
def test_rows_that_are_not_the_latents_are_named(name: str, call: Any, rows: int) -> None:
    network, says = (
        adapt(foreign("ldm")[0], LDM, call, context_shape=(7, 10)),
        rf"ran {rows} rows for 2 latents; expected",
    )
    with pytest.raises(ValueError, match=says):
        guide_for(name, network, contexts(2), GROUPS, TOKENS, calls=10)(noise(2), 500, 0)
    with pytest.raises(ValueError, match=says):
        network(noise(2), 500, contexts(2), record=network.sites((8, 8)))
    with pytest.raises(ValueError, match=says):
        network(noise(2), 500, contexts(2), control=Control())
    assert network(noise(2), 500, contexts(2)).shape == (2, 4, 8, 8)


def test_a_layer_that_does_not_run_as_in_the_trial_is_named() -> None:
    network = foreign("ldm")[1]
    sites = network.sites((8, 8))
    for name, module in network.named_modules():
        if name.endswith(("attn1", "attn2")):
            module.forward = lambda x, context=None, mask=None: x
    for options in ({"record": sites}, {"control": Control()}):
        with pytest.raises(
            ValueError, match=r"layer \w+\.attn\d \(and 5 more\) was asked for and did not run .*del layer"
        ):
            network(noise(2), 500, contexts(2), **options)
    with pytest.raises(ValueError, match=r"was asked for and did not run in this call"):
        guide_for("ebama", network, contexts(2), GROUPS, TOKENS, calls=10)(noise(2), 500, 0)


def test_a_layer_that_the_trial_did_not_see_is_named() -> None:
    def call(net: Any, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return net(z, t, context) if t[0] > 100 else net.conv_out(net.outer(net.conv_in(z), context))  # type: ignore[no-any-return]

    network = adapt(foreign("ldm")[0], LDM, call, context_shape=(7, 10))
    with pytest.raises(ValueError, match=r"The layer inner\.attn1 runs in this call, and did not in the trial run"):
        network(noise(2), 500, contexts(2), control=Control())


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_contexts_come_in_the_networks_precision(precision: torch.dtype) -> None:
    network = foreign("ldm")[1].to(precision)
    made = guide_for("ebama", network, contexts(2), GROUPS, TOKENS, calls=10)(noise(2), 500, 0)
    wanted = guide_for("ebama", network, contexts(2).to(precision), GROUPS, TOKENS, calls=10)(noise(2), 500, 0)
    assert made.latents.dtype == torch.float32
    assert torch.equal(made.latents, wanted.latents)
    assert not torch.equal(made.latents, noise(2))


def test_every_guide_of_the_registry_is_tried() -> None:
    prompt = reading("a crown")
    placed = replace(prompt, groups=(Group((2,), ((1,),), Box(0, 0, 1, 1)), Group((3,))))
    costs = {name: methods.get(name).complete().cost(placed, 51).backwards for name in methods.names()}
    assert [name for name, backwards in costs.items() if backwards] == GUIDED


def test_five_lines_guide_a_network_of_your_own() -> None:
    _, network = foreign("ldm")
    z, context, before = noise(1), contexts(1), noise(1)
    guide = guide_for("ane", network, context, [Group((2,), ((1,),))], tokens=[1, 2, 3], calls=4)
    for i, t in enumerate((800, 600, 400, 200)):
        z, _losses, _norms = guide(z, t, i)
        z = z - 0.1 * network(z, t, context).detach()
    assert relative(z, before) > 1e-3


@pytest.mark.slow
def test_names_are_known_after_a_plain_import() -> None:
    code = """
import torch
from ebama.guidance import guide_for
from foreign_networks import foreign
guide = guide_for("ane+step_size=5", foreign("ldm")[1], torch.randn(1, 7, 10), [], [1], calls=1)
print(guide(torch.ones(1, 4, 8, 8), 1, 0).latents.sum().item())"""
    path = next(entry for entry in sys.path if entry.endswith("tests"))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({path!r})\n{code}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == 4 * 64


def test_sites_that_are_named_are_read() -> None:
    _, network = foreign("ldm")
    z, context = noise(1), contexts(1)

    class Noting:
        asked: ClassVar[list[Any]] = []

        def sites(self, latent_shape: Sequence[int], /) -> list[Site]:
            return network.sites(latent_shape)

        def attention(self, *args: Any, **options: Any) -> AttentionRecords:
            self.asked.append(list(options["sites"]))
            return network.attention(*args, **options)

        def __call__(self, *args: Any, **options: Any) -> Any:
            return network(*args, **options)

    noting = Noting()
    assert isinstance(noting, Network)
    site = network.sites(z.shape)[3]
    for sites in (["inner.attn2"], [site]):
        guide_for("ane", noting, context, GROUPS, TOKENS, calls=1, sites=sites)(z, 1, 0)
    assert noting.asked[0] == ["inner.attn2"] == noting.asked[-1]
    with pytest.raises(ValueError, match=r"no attention site \['middle'\]"):
        guide_for("ane", noting, context, GROUPS, TOKENS, calls=1, sites=["middle"])(z, 1, 0)
    with pytest.raises(ValueError, match="only over sites of one kind"):
        guide_for("ane", noting, context, GROUPS, TOKENS, calls=1, sites=["up.attn1", "up.attn2"])(z, 1, 0)


def test_a_method_object_a_choice_and_a_text_are_the_same() -> None:
    _, network = foreign("fused")
    z, context = noise(1), contexts(1)
    found = [
        guide_for(method, network, context, GROUPS, TOKENS, calls=3)(z, 1, 0).latents
        for method in (
            Ebama(step_size=3.0),
            methods.get("ebama", step_size=3.0),
            "ebama+step_size=3",
            ["ebama+step_size=3"],
        )
    ]
    assert all(torch.equal(latents, found[0]) for latents in found)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sd", "it is plain sampling"),
        ("cd", "it acts by its conditioning"),
        ("strd", "it acts by its control"),
        ("ebca", "it acts by its control"),
        ("p2p", "it acts by its control"),
        ("strd,ebca", "it acts by its control"),
    ],
)
def test_methods_without_a_guide_say_so_in_one_line(name: str, says: str) -> None:
    _, network = foreign("ldm")
    with pytest.raises(ValueError, match=f"^{name} has no guide: {says}. Run it in a Pipeline") as caught:
        guide_for(name, network, contexts(1), GROUPS, TOKENS, calls=3)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"^{name} has no start"):
        start_for(name, network, contexts(1), GROUPS, TOKENS, calls=3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "anne"}, "no method 'anne'; choose one of"),
        ({"method": 3}, "method is 3; expected a name"),
        ({"context": torch.zeros(7, 10)}, r"context is \[7, 10\]; expected a tensor \[B, key, D\]"),
        ({"network": nn.Linear(1, 1)}, "network is a Linear without `sites`, `attention` and `__call__`"),
        ({"calls": 0}, "calls is 0"),
        ({"groups": [GROUPS, GROUPS, GROUPS]}, "Got lists for 3 samples"),
        ({"groups": [Parsed((), (), (), "", "", ())]}, "Got lists for 1 samples"),
    ],
)
def test_arguments_that_no_guide_can_be_made_of(changed: dict[str, Any], message: str) -> None:
    _, network = foreign("ldm")
    given: dict[str, Any] = {"method": "ane", "network": network, "context": contexts(2), "groups": GROUPS}
    with pytest.raises(ValueError, match=message):
        guide_for(**(given | {"tokens": TOKENS, "calls": 3} | changed))


def test_latents_without_a_context_are_named() -> None:
    _, network = foreign("ldm")
    with pytest.raises(ValueError, match="got 3 latents for 2 contexts"):
        guide_for("ane", network, contexts(2), GROUPS, TOKENS, calls=3)(noise(3), 1, 0)
    with pytest.raises(ValueError, match=r"Positions \(9,\) do not all lie on the key axis of length 7"):
        guide_for("ane", network, contexts(2), [Group((9,))], TOKENS, calls=3)(noise(2), 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.names())
def test_a_method_without_a_pipeline_works_or_says_what_it_needs(name: str) -> None:
    _, network = foreign("ldm")
    method, task = methods.get(name).complete(), Task(network, contexts(1), [GROUPS], [TOKENS], calls=3, steps=3)
    with pytest.raises(ValueError, match="needs the text of the prompts and the guidance scale"):
        method.conditioning(task)
    assert method.guide(task) is None or method.guide(task)(noise(1), 1, 0).losses is not None  # type: ignore[misc]


@pytest.mark.parametrize("name", ["ebama", "syngen"])
def test_a_masked_key_among_the_words_is_an_error_that_names_it(name: str) -> None:
    _, network = foreign("dit-masked")  # keys 4 to 6 are hidden
    z, context = noise(2), contexts(2)
    groups = [[Group((1,), ((2,),))], [Group((1,), ((5,),))]]
    with pytest.raises(ValueError, match=r"energy of sample 1 is NaN, and a mask.* hides keys \[4, 5, 6\]"):
        guide_for(name, network, context, groups, [(1, 2), (1, 5)], calls=3)(z, 1, 0)
    visible = guide_for(name, network, context, groups[0], (1, 2, 3), calls=3)(z, 1, 0)
    assert visible.latents.isfinite().all()


@pytest.mark.parametrize("name", ["ane", "ebama-official", "conform", "divide-and-bind"])
def test_a_masked_key_where_it_only_lowers_a_map_gives_a_number(name: str) -> None:
    _, network = foreign("dit-masked")
    method = methods.get(name, **FEW.get(name, {}))
    guide = guide_for(method, network, contexts(1), [Group((1,), ((2,),)), Group((5,))], (1, 2, 5), calls=3)
    assert guide(noise(1), 1, 0).latents.isfinite().all()


def test_the_finer_sites_of_divide_and_bind_on_a_network_of_two_levels() -> None:
    _, network = foreign("ldm")
    method = DivideAndBind(mode="tv-bind", max_refinements=(2, 2))
    found = guide_for(method, network, contexts(1), GROUPS, TOKENS, calls=3)(noise(1), 1, 0)
    assert found.latents.isfinite().all()
    mixed = guide_for(method, network, contexts(1), GROUPS, TOKENS, calls=3, sites=["inner.attn2", "up.attn1"])
    with pytest.raises(ValueError, match="reads cross-attention alone"):
        mixed(noise(1), 1, 0)


@dataclass(frozen=True)
class Dimmed(Method):
    """Halves each sample's noise as often as it has objects."""

    name: ClassVar[str] = "dimmed"
    changes: ClassVar[str] = "halves the noise"
    reference: ClassVar[str] = "a toy"
    needs: ClassVar[Needs] = Needs(groups=True)

    def start(self, task: Task) -> Start:
        factors = torch.tensor([0.5 ** len(groups) for groups in task.groups])
        return lambda z: z * factors.to(z)[:, None, None, None]


def test_a_start_moves_the_noise_of_each_sample() -> None:
    _, network = foreign("ldm")
    z = noise(2)
    start = start_for(Dimmed(), network, contexts(2), [GROUPS, OTHER[:1]], TOKENS, calls=3)
    assert torch.equal(start(z), torch.stack([z[0] / 4, z[1] / 2]))
    twice = start_for([Dimmed(), "ane", Dimmed()], network, contexts(2), GROUPS, TOKENS, calls=3)
    assert torch.equal(twice(z), z / 16)
