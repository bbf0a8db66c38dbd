"""`torch.compile` sees the whole network as one graph: predictions, records, attention passes and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from reference import TINY, randomise, relative

from ebama.guidance.control import CheckedControl
from ebama.methods.ebca import MovingContext
from ebama.models import UNet, UNetConfig

pytestmark = pytest.mark.slow
ONE_LEVEL = replace(TINY.unet, widths=(8,), attention=(True,), heads=(2,))
"""Every kind of block but the change of size, which an attention pass is compiled with; each is traced anew."""
TWO_LEVELS = replace(TINY.unet, attention=(False, True))


Compile = Callable[[UNetConfig], tuple[UNet, UNet, list[Any]]]


@pytest.fixture
def compiled() -> Iterator[Compile]:
    """Networks, compiled and plain, of a configuration, and the graphs; a break in one of them is an error."""
    torch._dynamo.reset()

    def compile(config: UNetConfig) -> tuple[UNet, UNet, list[Any]]:
        unet, graphs = randomise(UNet(config)), list[Any]()

        def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
            graphs.append(graph)
            return graph

        unet.compile(fullgraph=True, backend=keep)
        return unet, randomise(UNet(config)), graphs

    yield compile
    torch._dynamo.reset()


def test_watched_predictions_with_records_are_one_graph_for_all_timesteps(compiled: Compile) -> None:
    """Of a control that moves the context, seen by the check that its context travels on."""
    unet, plain, graphs = compiled(ONE_LEVEL)
    z, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 16)
    sites = [site for site in plain.sites(z.shape) if site.kind == "cross"]
    moving = MovingContext(torch.full((2, 77), 0.02), 0.3)
    for t in (981, 961, 941):
        watched = CheckedControl(moving)
        with torch.no_grad():
            epsilon, records = unet(z, t, context, record=sites, control=watched)
            expected, its_records = plain(z, t, context, record=sites, control=moving)
            unmoved = plain(z, t, context)
        watched.check_asked()
        assert relative(epsilon, expected) <= 1e-5
        assert relative(unmoved, expected) > 1e-4
        for record, its in zip(records, its_records, strict=True):
            assert record.site == its.site
            assert relative(record.scores, its.scores) <= 1e-5
    assert len(graphs) == 1


def test_an_attention_pass_is_one_graph_and_its_gradient_the_same(compiled: Compile) -> None:
    unet, plain, graphs = compiled(TWO_LEVELS)
    z, context = torch.randn(1, 4, 16, 16, requires_grad=True), torch.randn(1, 77, 16)
    gradients = []
    for network in (unet, plain):
        records = network.attention(z, 500, context, resolution=8)
        gradients += torch.autograd.grad(records.mean_probabilities().square().sum(), z)
    assert len(graphs) == 1
    assert relative(*gradients) <= 1e-5
