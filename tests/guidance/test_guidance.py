"""Guidance alone: an energy over the maps of any network becomes steps of the latent, without a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from reference import relative, run
from torch import Tensor

from ebama.guidance import Energy, GradientMethod, Maps, Needs, Refinement, Task, gradient_guide
from ebama.models import AttentionRecord, AttentionRecords, Site

SITE = Site("mine", "cross", resolution=(2, 2), heads=1)
SIZES = [0.5, 0.25]


def network(seen: list[tuple[int, int, list[int]]]) -> Maps:
    """A network whose one map is the latent [n, 1, 2, 2] itself, for its one key."""

    def maps(z: Tensor, t: int, samples: list[int]) -> AttentionRecords:
        seen.append((len(z), t, samples))
        return AttentionRecords([AttentionRecord(SITE, z.flatten(2)[..., None])])

    return maps


def squares(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
    return records.mean_scores().square().sum(dim=(1, 2, 3))


def latents(count: int) -> Tensor:
    return torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def test_a_guide_steps_down_the_gradient_of_any_networks_energy() -> None:
    z, seen = latents(3), []  # type: ignore[var-annotated]
    guide = gradient_guide(network(seen), squares, SIZES)
    for i, size in enumerate(SIZES):
        found = guide(z, 7, i)
        torch.testing.assert_close(found.latents, z - size * 2 * z)
        assert found.losses is not None
        assert found.gradient_norms is not None
        torch.testing.assert_close(found.losses, z.square().sum(dim=(1, 2, 3)))
        torch.testing.assert_close(found.gradient_norms, 2 * z.flatten(1).norm(dim=1))
    assert seen == [(3, 7, [0, 1, 2])] * 2
    assert guide(z, 7, 2) == (z, None, None)


def test_only_the_samples_named_move_and_are_computed() -> None:
    z, seen = latents(3), []  # type: ignore[var-annotated]
    found = gradient_guide(network(seen), squares, SIZES, samples=[2, 0])(z, 7, 0)
    torch.testing.assert_close(found.latents, torch.stack([0 * z[0], z[1], 0 * z[2]]))
    assert found.losses is not None
    assert found.losses.isnan().tolist() == [False, True, False]
    assert seen == [(2, 7, [2, 0])]
    assert gradient_guide(network([]), squares, SIZES, samples=[])(z, 7, 0) == (z, None, None)


def test_samples_above_the_target_refine_until_they_meet_it_and_step_once_more() -> None:
    z = torch.ones(2, 1, 2, 2)
    z[1] /= 10  # losses 4 and 0.04; a step of 0.25 leaves a quarter of the loss
    seen: list[tuple[int, int, list[int]]] = []
    guide = gradient_guide(network(seen), squares, [0.25], refinements={0: Refinement(0.5, 10)})
    found = guide(z, 7, 0)
    assert [samples for _, _, samples in seen] == [[0, 1], [0], [0], [0]]
    torch.testing.assert_close(found.latents[0], z[0] / 2**4)
    torch.testing.assert_close(found.latents[1], z[1] / 2)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_guide_takes_gradients_wherever_it_is_called(context: type[torch.no_grad]) -> None:
    with context():
        z = latents(1)
        found = gradient_guide(network([]), squares, SIZES)(z, 7, 0).latents
    assert relative(found.clone() + 1, torch.ones_like(z)) == 0


def test_an_energy_that_does_not_depend_on_the_latent_moves_nothing() -> None:
    z = latents(2)
    with pytest.warns(UserWarning, match="The energy has no gradient at model call 0, and nothing moves"):
        found = gradient_guide(network([]), lambda records, samples, i: torch.ones(2), SIZES)(z, 7, 0)
    assert torch.equal(found.latents, z)
    assert found.losses is not None
    assert found.losses.tolist() == [1, 1]


@dataclass(frozen=True)
class Brighter(GradientMethod):
    """Reads self-attention and the finest cross-attention, which the default does not."""

    name: ClassVar[str] = "brighter"
    needs: ClassVar[Needs] = Needs(groups=True, gradient=True)

    step_size: float = 1.0
    guided_steps: int | None = None

    def sites(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        return [site for site in task.network.sites(latent_shape) if site.resolution == (8, 8)]

    def energy(self, task: Task) -> Energy:
        def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
            assert {(r.site.kind, r.site.resolution) for r in records} == {("self", (8, 8)), ("cross", (8, 8))}
            return -torch.stack([r.scores.flatten(1).mean(dim=1) for r in records]).sum(dim=0)

        return energy


@pytest.mark.slow
def test_a_method_says_which_sites_its_energy_reads() -> None:
    found = run("a cat and a dog", Brighter())
    assert found.losses.isfinite().all()
    assert relative(found.latents, run("a cat and a dog", "sd").latents) > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": -1.0}, "step_size is -1.0; expected a finite number of at least 0"),
        ({"step_size": math.nan}, "step_size is nan"),
        ({"guided_steps": 2.5}, "guided_steps is 2.5; expected a whole number of at least 0, or None for every call"),
    ],
)
def test_methods_of_your_own_check_step_size_and_guided_steps(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Brighter(**options)  # type: ignore[arg-type]


def test_a_hidden_key_under_an_energy_of_your_own_is_named() -> None:
    def maps(z: Tensor, t: int, samples: list[int]) -> AttentionRecords:
        scores = (
            z.flatten(2).mT.unsqueeze(1).expand(-1, 1, -1, 3)
        )  # three keys, of which sample 1 does not see the last
        hidden = torch.tensor([[False] * 3, [False, False, True]])[samples, None, None]
        return AttentionRecords([AttentionRecord(SITE, scores.masked_fill(hidden, -math.inf))])

    def energy(keys: list[int]) -> Energy:
        return lambda records, samples, i: records.mean_scores()[..., keys].softmax(1).square().sum(dim=(1, 2, 3))

    z = latents(2)
    with pytest.raises(ValueError, match=r"energy of sample 1 is NaN, and a mask or a control hides keys \[2\]"):
        gradient_guide(maps, energy([1, 2]), SIZES)(z, 7, 0)
    assert gradient_guide(maps, energy([0, 1]), SIZES)(z, 7, 0).latents.isfinite().all()
    assert gradient_guide(maps, energy([1, 2]), SIZES, samples=[0])(z, 7, 0).latents.isfinite().all()


@pytest.mark.parametrize("shape", ["mean", "map"])
def test_an_energy_without_a_loss_for_each_sample_is_named(shape: str) -> None:
    def energy(records: AttentionRecords, samples: list[int], i: int) -> Tensor:
        return records.mean_scores().mean() if shape == "mean" else records.mean_scores().mean(dim=(1, 2))

    with pytest.raises(ValueError, match=r"The energy returned shape \[.*\]; expected \[2\], a loss a sample"):
        gradient_guide(network([]), energy, SIZES)(latents(2), 7, 0)
