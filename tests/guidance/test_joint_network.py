"""The documentation's network whose text and image are one sequence: every method on it, or one clear refusal."""

from __future__ import annotations

import ast
import copy
import dataclasses
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import model, relative
from test_any_network import GROUPS, GUIDED, LOSSES, OTHER, TOKENS, contexts, noise
from torch import Tensor
from torch.nn import functional as F

from ebama import Pipeline, Result, methods
from ebama.guidance import guide_for
from ebama.models import AttentionCall, Control, Network

PAGE = Path(__file__).resolve().parents[2] / "docs" / "in-your-own-network.md"


@cache
def documented() -> dict[str, Any]:
    """The classes of the page, and what it imports for them."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    source = "\n".join(block for block in blocks if "diffusers" not in block)
    wanted = (ast.Import, ast.ImportFrom, ast.ClassDef)
    names: dict[str, Any] = {}
    exec(
        compile(ast.Module([node for node in ast.parse(source).body if isinstance(node, wanted)], []), PAGE, "exec"),
        names,
    )
    return names


def joint(context_width: int = 10) -> tuple[Any, Any]:
    """The module, and the network over a copy of it."""
    torch.manual_seed(0)
    net = documented()["YourJointNetwork"](width=16, context_width=context_width).requires_grad_(False)
    with torch.no_grad():
        for block in net.blocks:
            block.qkv.weight *= 3  # so that attention is far from even
    return net, documented()["JointNetwork"](copy.deepcopy(net))


def test_it_is_a_network_that_computes_what_the_module_does() -> None:
    net, network = joint()
    z, context = noise(2), contexts(2)
    assert isinstance(network, Network)
    expected = net(z, torch.full((2,), 500), context)
    torch.testing.assert_close(network(z, 500, context), expected)
    torch.testing.assert_close(network(z, 500, context, control=Control()), expected)
    found, records = network(z, 500, context, record=network.sites(z.shape))
    torch.testing.assert_close(found, expected)
    assert [(r.site.kind, r.scores.shape[-1]) for r in records] == [("cross", 7), ("self", 16)] * 2
    sums = [record.probabilities.sum(-1) for record in records]
    torch.testing.assert_close(sums[0] + sums[1], torch.ones_like(sums[0]))


@pytest.mark.parametrize("name", LOSSES)
def test_a_guide_on_it_is_the_plain_gradient(name: str) -> None:
    net, network = joint()
    z, context = noise(2).requires_grad_(True), contexts(2)
    seen: list[tuple[Tensor, Tensor]] = []

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        seen.append((scores[..., 7:, :7], scores.softmax(-1)[..., 7:, :7]))
        return F.scaled_dot_product_attention(q, k, v)

    net(z, torch.full((2,), 500), context, [attend, attend])
    maps = [torch.cat(list(part), 1).mean(1).unflatten(1, (4, 4)) for part in zip(*seen, strict=True)]
    losses = LOSSES[name](*maps)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    found = guide_for(methods.get(name, step_size=2.0), network, context, GROUPS, TOKENS, calls=10)(z.detach(), 500, 3)
    factor = 2 * (math.sqrt(1 - 0.5 * 3 / 9) if name == "ane" else 1)
    torch.testing.assert_close(found.losses, losses.detach(), rtol=1e-5, atol=1e-6)
    assert relative(found.latents - z.detach(), -factor * gradient) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", [*GUIDED, "syngen,ane"])
def test_a_batch_on_it_is_what_its_samples_are_one_by_one(name: str) -> None:
    _, network = joint()
    network.net.double()  # many rounds of refinement make rounding large
    z, context, groups = noise(3).double(), contexts(3).double(), [GROUPS, OTHER, []]
    together = guide_for(name, network, context, groups, TOKENS, calls=5)(z, 500, 0)
    assert (together.latents - z).flatten(1).norm(dim=1).gt(0).tolist() == [True, True, False]
    for k in range(3):
        one = guide_for(name, network, context[k : k + 1], groups[k], TOKENS, calls=5)(z[k : k + 1], 500, 0)
        assert relative(together.latents[k : k + 1], one.latents) <= 1e-5


def run(network: Any, method: Any, prompt: Any = "a purple crown and a blue suitcase") -> Result:
    sd = dataclasses.replace(model(), unet=network)
    boxes = {"crown": (0, 0, 0.5, 0.7)} if methods.complete(method).needs.boxes else None
    options: dict[str, Any] = {"steps": 1, "output": "latent", "progress": False, "parser": "rules"}
    return Pipeline(sd)(prompt, method=method, boxes=boxes, **options)


@pytest.mark.parametrize("name", ["attention-regulation", "p2p", "syngen,ane", "sd,ane"])
def test_methods_that_edit_its_maps_run(name: str) -> None:
    _, network = joint(16)
    prompts = ["a cat", "a dog"] if name == "p2p" else "a purple crown and a blue suitcase"
    assert relative(run(network, name, prompts).latents, run(network, "sd", prompts).latents) > 1e-6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("strd", "^MeanValues rewrites attention, .* it never asked for contexts"),
        ("ebca", "^MovingContext moves the text context .* no cross-attention site asked"),
    ],
)
def test_methods_that_replace_its_contexts_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(joint(16)[1], name)


def test_scores_that_a_control_hides_are_hidden_from_all() -> None:
    class Blind(Control):
        def edits_maps(self, site: Any) -> bool:
            return bool(site.kind == "cross")

        def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
            assert call.key.shape[2] == scores.shape[-1]
            return torch.full_like(scores, -math.inf)

    _, network = joint()
    z, context = noise(1), contexts(1)
    other = contexts(2)[1:]
    assert relative(network(z, 500, context), network(z, 500, other)) > 1e-3
    torch.testing.assert_close(network(z, 500, context, control=Blind()), network(z, 500, other, control=Blind()))
