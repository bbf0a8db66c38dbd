"""`torch.compile` sees the whole network as one graph: predictions, records, attention passes and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from reference import TINY, randomise, relative

from ebama.guidance.control import CheckedControl
from ebama.methods.ebca import MovingContext
from ebama.models import UNet

pytestmark = pytest.mark.slow


@pytest.fixture
def compiled() -> Iterator[tuple[UNet, list[Any]]]:
    """A network whose graphs are kept; a break in one of them is an error."""
    torch._dynamo.reset()
    unet, graphs = randomise(UNet(TINY.unet)), list[Any]()

    def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph

    unet.compile(fullgraph=True, backend=keep)
    yield unet, graphs
    torch._dynamo.reset()


def test_predictions_with_records_are_one_graph_for_all_timesteps(compiled: tuple[UNet, list[Any]]) -> None:
    (unet, graphs), plain = compiled, randomise(UNet(TINY.unet))
    z, context = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 16)
    sites = [site for site in plain.sites(z.shape) if site.kind == "cross"]
    for t in (981, 961, 941):
        with torch.no_grad():
            epsilon, records = unet(z, t, context, record=sites)
            expected, its_records = plain(z, t, context, record=sites)
        assert relative(epsilon, expected) <= 1e-5
        for record, its in zip(records, its_records, strict=True):
            assert record.site == its.site
            assert relative(record.scores, its.scores) <= 1e-5
    assert len(graphs) == 1


def test_an_attention_pass_is_one_graph_and_its_gradient_the_same(compiled: tuple[UNet, list[Any]]) -> None:
    (unet, graphs), plain = compiled, randomise(UNet(TINY.unet))
    z, context = torch.randn(1, 4, 16, 16, requires_grad=True), torch.randn(1, 77, 16)
    gradients = []
    for network in (unet, plain):
        records = network.attention(z, 500, context, resolution=8)
        gradients += torch.autograd.grad(records.mean_probabilities().square().sum(), z)
    assert len(graphs) == 1
    assert relative(*gradients) <= 1e-5


def test_a_control_that_moves_the_context_is_watched_in_one_graph(compiled: tuple[UNet, list[Any]]) -> None:
    (unet, graphs), plain = compiled, randomise(UNet(TINY.unet))
    z, context = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 16)
    moving = MovingContext(torch.full((2, 77), 0.02), 0.3)
    for t in (981, 961):
        with torch.no_grad():
            watched = CheckedControl(moving)
            assert relative(unet(z, t, context, control=watched), plain(z, t, context, control=moving)) <= 1e-5
            watched.check_asked()
    assert len(graphs) == 1
