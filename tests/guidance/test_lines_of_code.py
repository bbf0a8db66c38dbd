"""What it takes on networks of other styles: lines of code to adapt and to guide, and the share of a forward."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from foreign_networks import STYLES, diffusers_unet, inputs
from reference import relative
from test_any_network import GROUPS, LOSSES, TOKENS, contexts, noise
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ebama import methods
from ebama.guidance import guide_for
from ebama.models import adapt
from ebama.prompt import parse

ADAPT = """
from ebama.models import adapt
network = adapt(net, context_shape=(7, 10))
"""
GUIDE = """
from ebama.guidance import guide_for
guide = guide_for("ebama", network, context, prompt, calls=3)
for i, t in enumerate((800, 500, 200)):
    z = guide(z, t, i).latents
    z = z - 0.1 * network(z, t, context).detach()
"""


def made(style: str) -> nn.Module:
    torch.manual_seed(0)
    return diffusers_unet() if style == "diffusers" else STYLES[style][0]().eval()


ALL = [*STYLES, pytest.param("diffusers", marks=pytest.mark.slow)]


def words(text: str) -> list[tuple[int, int] | None]:
    """A tokenizer of seven positions: a start, five words, and an end."""
    ends = [i for i, letter in enumerate(f"{text} ") if letter == " "]
    return [None, *zip([0, *(end + 1 for end in ends)], ends, strict=False), None][:7]


@pytest.mark.parametrize("style", ALL)
def test_lines_that_adapt_and_guide(style: str) -> None:
    assert len(ADAPT.strip().splitlines()) <= 3
    assert len(GUIDE.strip().splitlines()) <= 5
    assert max(map(len, (ADAPT + GUIDE).splitlines())) <= 80
    prompt = parse("a red cat", words, "rules")
    names: dict[str, Any] = {"net": made(style), "z": noise(1), "context": contexts(1), "prompt": prompt}
    if style == "dit-masked":  # its last positions are hidden
        assert max(prompt.tokens) < 4
    exec(ADAPT + GUIDE, names)
    assert names["z"].isfinite().all()
    assert names["guide"](noise(1), 800, 0).gradient_norms.gt(0).all()


@pytest.mark.parametrize("style", ALL)
def test_attention_costs_the_part_of_a_forward_that_it_needs(style: str) -> None:
    """Counted in floating-point operations: as far as the first cross-attention, and as far as the last."""
    net = made(style)
    network, (z, t, context) = adapt(net, context_shape=(7, 10)), inputs(size=(16, 16))
    sites = [site for site in network.sites(z.shape) if site.kind == "cross"]

    def operations(run: Any) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        return counter.get_total_flops()

    whole = operations(lambda: network(z, t, context))
    shares = [operations(lambda site=site: network.attention(z, t, context, sites=[site])) / whole for site in sites]
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[-1] < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_guide_on_diffusers_own_unet_is_the_plain_gradient(name: str) -> None:
    net: Any = made("diffusers")
    network, z, context = adapt(copy.deepcopy(net), context_shape=(7, 10)), noise(2).requires_grad_(True), contexts(2)
    seen: list[Tensor] = []

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        if args[0].shape[1] == 64:
            q, k = module.to_q(args[0]), module.to_k(context)
            q, k = (part.unflatten(-1, (module.heads, -1)).transpose(1, 2) for part in (q, k))
            seen.append(q @ k.mT / math.sqrt(q.shape[-1]))

    for path, module in net.named_modules():
        if path.endswith("attn2"):
            module.register_forward_pre_hook(hook, with_kwargs=True)
    expected = net(z, 500, encoder_hidden_states=context).sample
    assert torch.equal(network(z.detach(), 500, context), expected)
    torch.testing.assert_close(
        network(z.detach(), 500, context, record=network.sites(z.shape))[0], expected, rtol=1e-5, atol=1e-5
    )
    scores, maps = (torch.cat(parts, 1).mean(1).unflatten(1, (8, 8)) for parts in (seen, [s.softmax(-1) for s in seen]))
    losses = LOSSES[name](scores, maps)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    found = guide_for(methods.get(name, step_size=2.0), network, context, GROUPS, TOKENS, calls=10)(z.detach(), 500, 3)
    factor = 2 * (math.sqrt(1 - 0.5 * 3 / 9) if name == "ane" else 1)
    torch.testing.assert_close(found.losses, losses.detach(), rtol=1e-5, atol=1e-6)
    assert relative(found.latents - z.detach(), -factor * gradient) <= 1e-4
