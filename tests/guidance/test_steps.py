"""The step itself is one place: normalised, with momentum, Adam; state of each sample."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from foreign_networks import foreign
from reference import noise, relative
from torch import Tensor

from ebama.guidance import Refinement, Step, Task, gradient_guide, guide_for
from ebama.methods import AttendAndExcite
from ebama.models import AttentionRecord, AttentionRecords, Site
from ebama.prompt import Group

SITE = Site("mine", "cross", resolution=(2, 2), heads=1)


def maps(z: Tensor, t: int, samples: list[int]) -> AttentionRecords:
    """The latent itself is the map."""
    return AttentionRecords([AttentionRecord(SITE, z.flatten(2)[..., None])])


def squares(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
    """Gradient 2 z."""
    return records.mean_scores().square().sum(dim=(1, 2, 3))


def normalised(z: Tensor, gradient: Tensor, step_size: float, samples: list[int], i: int) -> Tensor:
    return z - step_size * gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]


class Adam:
    """Each sample has its own moments and its own count of steps."""

    def __init__(self) -> None:
        self.states: dict[int, tuple[Tensor, Tensor, int]] = {}

    def __call__(self, z: Tensor, gradient: Tensor, step_size: float, samples: list[int], i: int) -> Tensor:
        moved = z.clone()
        for row, (sample, g) in enumerate(zip(samples, gradient, strict=True)):
            first, second, count = self.states.get(sample, (torch.zeros_like(g), torch.zeros_like(g), 0))
            first, second, count = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g, count + 1
            self.states[sample] = first, second, count
            moved[row] -= step_size * (first / (1 - 0.9**count)) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
        return moved


class Momentum:
    """v <- decay v + gradient; z <- z - step size * v, for each sample."""

    def __init__(self, decay: float) -> None:
        self.decay, self.velocity = decay, dict[int, Tensor]()

    def __call__(self, z: Tensor, gradient: Tensor, step_size: float, samples: list[int], i: int) -> Tensor:
        for sample, g in zip(samples, gradient, strict=True):
            self.velocity[sample] = self.decay * self.velocity.get(sample, torch.zeros_like(g)) + g
        return z - step_size * torch.stack([self.velocity[sample] for sample in samples])


def test_a_normalised_step_moves_every_sample_by_the_step_size() -> None:
    z = torch.stack([torch.ones(1, 2, 2), 100 * torch.ones(1, 2, 2)])
    found = gradient_guide(maps, squares, [0.5], step=normalised)(z, 7, 0)
    torch.testing.assert_close((z - found.latents).flatten(1).norm(dim=1), torch.tensor([0.5, 0.5]))
    assert found.gradient_norms is not None
    torch.testing.assert_close(found.gradient_norms, 2 * z.flatten(1).norm(dim=1))  # that of the gradient itself


def test_adam_is_torchs_for_each_sample_though_they_step_unequally_often() -> None:
    z = torch.stack([torch.ones(1, 2, 2), 0.1 * torch.ones(1, 2, 2)])
    refinements = {0: Refinement(2.0, 3)}  # the first sample alone is above
    guide = gradient_guide(maps, squares, [0.05] * 3, refinements=refinements, step=Adam())
    moved = z
    for i in range(3):
        moved = guide(moved, 7, i).latents
    for sample, steps in enumerate((6, 3)):
        parameter = z[sample].clone().requires_grad_(True)
        optimizer = torch.optim.Adam([parameter], lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()
        torch.testing.assert_close(moved[sample], parameter.detach(), rtol=1e-5, atol=1e-6)


@dataclass(frozen=True)
class Heavy(AttendAndExcite):
    """A published method with another step."""

    decay: float = 0.9

    def step(self, task: Task) -> Step:
        return Momentum(self.decay)


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_method_with_momentum_is_one_by_one_and_every_guide_starts_anew(decay: float) -> None:
    _, network = foreign("ldm")
    context, z = torch.randn(2, 7, 10, generator=torch.Generator().manual_seed(2)), noise(1, 8).repeat(2, 1, 1, 1)
    z[1] += 1
    groups = [[Group((2,))], [Group((3,)), Group((4,))]]

    def moved(rows: list[int]) -> Tensor:
        latents = z[rows]
        guide = guide_for(
            Heavy(decay=decay, max_refinements=2),
            network,
            context[rows],
            [groups[row] for row in rows],
            (1, 2, 3, 4),
            calls=3,
        )
        for i in range(3):
            latents = guide(latents, 500, i).latents
        return latents

    together = moved([0, 1])
    for row in (0, 1):
        assert relative(together[row : row + 1], moved([row])) <= 1e-5
    plain = guide_for(AttendAndExcite(max_refinements=2), network, context, groups, (1, 2, 3, 4), calls=3)
    latents = z
    for i in range(3):
        latents = plain(latents, 500, i).latents
    assert (relative(together, latents) <= 1e-6) == (decay == 0)


def test_timesteps_of_each_sample_reach_the_network() -> None:
    seen: list[object] = []

    def noting(z: Tensor, t: Tensor, samples: list[int]) -> AttentionRecords:
        seen.append(t.tolist() if isinstance(t, Tensor) else t)
        return maps(z, 0, samples)

    guide = gradient_guide(noting, squares, [0.1], samples=[2, 0])
    z = torch.ones(3, 1, 2, 2)
    for t in (torch.tensor([1.0, 2.0, 3.5]), torch.tensor(4), 0.25, 7):
        guide(z, t, 0)
    assert seen == [[3.5, 1.0], 4, 0.25, 7]
