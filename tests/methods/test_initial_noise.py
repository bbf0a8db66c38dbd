"""InitNO and Self-Cross: regions, the search for noise and whole runs, derived again in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference import assert_batch_is_one_by_one, model, noise, passes, reading, relative, run, transfer
from test_gradient_methods import falling, sharpened, smoothed
from torch import Tensor

from ebama import methods
from ebama.guidance import start_for
from ebama.methods import InitNO, SelfCross
from ebama.methods.initial_noise.regions import component, otsu_mask
from ebama.methods.initial_noise.search import Candidate
from ebama.models import SD_V1
from ebama.prompt import Group, parse
from ebama.weights import clip_tokenizer

CROWN, CATS, CAR = "a purple crown and a blue suitcase", "a cat and a dog", "a car"
TOKENS = {CROWN: [3, 7], CATS: [2, 5], CAR: [2]}
NAMES = ("initno", "self-cross")
QUICK: dict[str, Any] = {
    "max_rounds": 2,
    "iterations": 2,
    "final_iterations": 2,
    "step_size": 2.0,
    "guided_steps": 3,
    "refine_calls": (1,),
    "max_refinements": 2,
}


def otsu(values: list[float]) -> float:
    levels = [math.floor(255 * value) for value in values]
    count, best, threshold = len(levels), 0.0, 0
    for i in sorted(set(levels)):  # between them nothing changes
        low, high = [v for v in levels if v <= i], [v for v in levels if v > i]
        if min(len(low), len(high)) / count < 2**-23:
            continue
        means = sum(low) / len(low), sum(high) / len(high)
        variance = len(low) / count * len(high) / count * (means[0] - means[1]) ** 2
        if variance > best + 1e-9:  # of equal ones the first
            best, threshold = variance, i
    return threshold / 255


def region(mask: list[list[bool]], y: int, x: int) -> list[list[bool]]:
    reached, stack = [[False] * len(row) for row in mask], [(y, x)]
    while stack:
        y, x = stack.pop()
        if 0 <= y < len(mask) and 0 <= x < len(mask[0]) and mask[y][x] and not reached[y][x]:
            reached[y][x] = True
            stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return reached


@pytest.mark.parametrize("shape", [(16, 16), (6, 9)])
@pytest.mark.parametrize("power", [1, 4, 20])
def test_regions(shape: tuple[int, int], power: int) -> None:
    maps = torch.rand(4, 2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** power
    maps[0, 0] = 0.3
    masks, pixels = otsu_mask(maps), maps.flatten(2).argmax(2)
    found = component(masks, pixels)
    for b in range(4):
        for k in range(2):
            threshold = otsu(maps[b, k].flatten().tolist())
            expected = [[value >= threshold for value in row] for row in maps[b, k].tolist()]
            assert masks[b, k].tolist() == expected
            assert found[b, k].tolist() == region(expected, *divmod(int(pixels[b, k]), shape[1]))


def test_the_greatest_levels_own_pixels_lie_in_the_mask() -> None:
    """Two levels, 0 and 51: the first threshold that separates them best is 0, so everything is in."""
    map_ = torch.tensor([[0.0, 0.2], [0.2, 0.0]])
    assert otsu_mask(map_).all()
    assert otsu_mask(torch.tensor([[0.21, 0.9], [0.9, 0.2]])).tolist() == [[True, True], [True, False]]


# --- the terms, one pixel at a time ---


def best_pixel(map_: Tensor) -> tuple[int, int]:
    return divmod(int(map_.flatten().argmax()), map_.shape[1])


def clean_of(map_: Tensor) -> Tensor:
    threshold = otsu(map_.flatten().float().tolist())
    mask = [[v >= threshold for v in row] for row in map_.float().tolist()]
    inside = torch.tensor(region(mask, *best_pixel(map_)))
    outside, least = (map_ * ~inside).max(), map_[inside].min()
    return outside if outside.item() > least.item() else 0 * outside


Measured = tuple[Tensor, Tensor, Tensor, list[Tensor]]
"""cross, conflict, clean, the objects' maps before smoothing."""


def initno_terms(cross_maps: Tensor, self_maps: Tensor, tokens: list[int], eps: float) -> Measured:
    raw = [sharpened(cross_maps, token) for token in tokens]
    maps = [smoothed(map_) for map_ in raw]
    cross = torch.stack([(1 - map_[best_pixel(map_)]).clamp(min=0) for map_ in maps]).max()
    looked = [smoothed(self_maps[best_pixel(map_)]) for map_ in maps]
    pairs = [(i, j) for i in range(len(maps)) for j in range(i + 1, len(maps))]
    shared = [torch.minimum(looked[i], looked[j]).sum() / ((looked[i] + looked[j]).sum() + 1e-6) for i, j in pairs]
    conflict = torch.stack(shared).mean() if shared else cross.new_zeros(())
    return cross, conflict, sum(map(clean_of, maps)), raw  # type: ignore[return-value]


def self_cross_terms(cross_maps: Tensor, self_maps: Tensor, tokens: list[int], eps: float) -> Measured:
    raw = [sharpened(cross_maps, token) for token in tokens]
    maps = [smoothed(map_) for map_ in raw]
    cross = torch.stack([(1 - map_.flatten().sort().values[-16:].mean()).clamp(min=0) for map_ in maps]).max()
    attended = []
    for map_ in maps:
        inside = map_.float().double() >= otsu(map_.flatten().float().tolist())
        u = smoothed((map_[inside][:, None, None] * self_maps[inside]).sum(dim=0))
        attended.append(u / (u.sum() + eps))
    pairs = [(i, j) for i in range(len(maps)) for j in range(len(maps)) if i != j]
    others = [map_ / (map_.sum() + eps) if max(map_.shape) > 16 else map_ for map_ in maps]
    conflict = torch.stack([torch.minimum(attended[j], others[i]).sum() for i, j in pairs]).mean()
    return cross, conflict * (cross.item() <= 0.5), sum(map(clean_of, maps)), raw  # type: ignore[return-value]


TERMS: dict[str, Callable[..., Measured]] = {"initno": initno_terms, "self-cross": self_cross_terms}


def measured(name: str, prompt: str, z: Tensor, t: int, eps: float) -> Measured:
    text = model().encode_text([prompt])
    side = z.shape[-1]
    sites = [s for s in model().unet.sites((side, side)) if s.resolution == (side, side)]
    _, records = model().unet(z, t, text, record=sites)
    means = {}
    for kind in ("cross", "self"):
        heads = [h.double().softmax(-1) for r in records if r.site.kind == kind for h in r.scores[0]]
        means[kind] = sum(heads) / len(heads)  # type: ignore[operator]
    cross_maps, self_maps = means["cross"].view(side, side, 77), means["self"].view(side, side, side, side)
    return TERMS[name](cross_maps, self_maps, TOKENS[prompt], eps)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "searching"), [((24, 24), True), ((20, 24), False)])
def test_self_cross_on_finer_maps(shape: tuple[int, int], searching: bool) -> None:
    """Stable Diffusion 2.1's are 24x24 at 768 pixels: there the others' maps are normalised too."""
    generator, (h, w) = torch.Generator().manual_seed(3), shape
    y, x = torch.arange(h, dtype=torch.float64)[:, None], torch.arange(w, dtype=torch.float64)
    bumps = [((y - cy * h) ** 2 + (x - cx * w) ** 2) / -6 for cy, cx in ((0.3, 0.3), (0.6, 0.5))]
    logits = torch.stack(
        [torch.zeros(h, w).double(), *(3 + bump for bump in bumps), torch.zeros(h, w).double()], dim=-1
    )
    logits += torch.randn(logits.shape, generator=generator, dtype=torch.float64) / 4
    cross_maps = torch.softmax(logits, dim=-1).requires_grad_()
    near = torch.exp(-(torch.cdist(grid := torch.cartesian_prod(y[:, 0], x), grid) ** 2) / 40)
    self_maps = (near / near.sum(dim=1, keepdim=True)).view(h, w, h, w).requires_grad_()
    raw = torch.softmax(100 * cross_maps[..., 1:], dim=-1).permute(2, 0, 1)[None, :2]
    method, exist = methods.get("self-cross").complete(SD_V1), torch.ones(1, 2, dtype=torch.float64)
    assert isinstance(method, SelfCross)
    found = method.terms(raw, self_maps.flatten(2)[None], exist, searching=searching)
    maps77 = torch.cat([cross_maps, torch.zeros(h, w, 73).double() - torch.inf], dim=-1)
    expected = self_cross_terms(maps77, self_maps, [1, 2], 0 if searching else 1e-4)
    assert found.cross.item() < 0.5
    values = torch.stack([found.cross[0], found.conflict_if_seen()[0], found.clean[0]])
    same = torch.stack(list(expected[:3]))
    torch.testing.assert_close(values, same, rtol=1e-10, atol=1e-12)
    for leaf in (cross_maps, self_maps):
        gradients = [torch.autograd.grad(three.sum(), leaf, retain_graph=True)[0] for three in (values, same)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


# --- the search ---


class Adam:
    """Of one tensor, with bias correction."""

    def __init__(self, like: Tensor) -> None:
        self.m, self.v, self.count = torch.zeros_like(like), torch.zeros_like(like), 0

    def step(self, gradient: Tensor) -> Tensor:
        self.count += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        m, v = self.m / (1 - 0.9**self.count), self.v / (1 - 0.999**self.count)
        return 0.01 * m / (v.sqrt() + 1e-3)


def a_round(
    name: str, prompt: str, z0: Tensor, iterations: int, targets: tuple[float, float]
) -> tuple[float, bool, Tensor]:
    mean, log_variance = torch.zeros_like(z0), torch.zeros_like(z0)
    adams = Adam(z0), Adam(z0)
    score, succeeded = math.inf, False
    for _ in range(iterations):
        variables = mean.clone().requires_grad_(), log_variance.clone().requires_grad_()
        z = torch.exp(variables[1] / 2) * z0 + variables[0]
        cross, conflict, clean, _ = measured(name, prompt, z, 501, 0)
        gated = conflict * (cross.item() <= 0.5)
        score = (cross + gated).item() + (name == "initno" and gated.item() <= 1e-6)
        if cross.item() < targets[0] and gated.item() < targets[1]:
            return score, True, z.detach()
        gradients = torch.autograd.grad(cross + gated + clean, variables)
        while True:
            mean = mean - adams[0].step(gradients[0])
            log_variance = log_variance - adams[1].step(gradients[1])
            variables = mean.clone().requires_grad_(), log_variance.clone().requires_grad_()
            kl = -0.5 * (1 + variables[1] - variables[0] ** 2 - variables[1].exp()).mean()
            if kl.item() <= 1e-3:
                break
            gradients = torch.autograd.grad(kl, variables)
    return score, succeeded, torch.exp(log_variance / 2) * z0 + mean


def searched(name: str, prompt: str, seed: int, targets: tuple[float, float], rounds: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z0 = torch.randn(4, 16, 16, generator=generator)[None]
    pool: list[tuple[float, int, bool, Tensor, Tensor]] = []
    for k in range(rounds):
        score, succeeded, z = a_round(name, prompt, z0, 2, targets)
        pool.append((score, k, succeeded, z, z0))
        if succeeded:
            break
        z0 = torch.randn(4, 16, 16, generator=generator)[None]
    _, _, succeeded, z, z0 = min(pool, key=lambda entry: entry[:2])
    return z if succeeded else a_round(name, prompt, z0, 2, targets)[2]


NEVER, EASY = (0.0, 0.0), (0.97, 0.6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("prompt", "targets"), [(CROWN, NEVER), (CATS, EASY)])
def test_the_search(name: str, prompt: str, targets: tuple[float, float]) -> None:
    method = methods.get(name, **(QUICK | {"cross_target": targets[0], "self_target": targets[1], "guided_steps": 0}))
    found = run(prompt, method, seeds=[5], steps=2, sampler="ddim").latents
    start = searched(name, prompt, 5, targets)
    expected = run(prompt, "sd", latents=start, steps=2, sampler="ddim").latents
    assert relative(found, expected) <= 1e-4
    assert (relative(start, noise(5)) > 1e-3) or targets == EASY


@pytest.mark.slow
def test_many_steps_of_adam() -> None:
    """Down a gradient that stays, and as many down the divergence as it takes."""
    z0 = noise(3)[0]
    gradient = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))
    candidate, count = Candidate(z0, 0.01), 0
    mean, log_variance, adams = torch.zeros_like(z0).double(), torch.zeros_like(z0).double(), (Adam(z0), Adam(z0))
    for _ in range(4):
        candidate.step(gradient)
        of_mean, of_variance = gradient.double(), gradient * z0 * (log_variance / 2).exp() / 2
        while True:
            mean, log_variance = mean - adams[0].step(of_mean), log_variance - adams[1].step(of_variance)
            count += 1
            if (-(1 + log_variance - mean**2 - log_variance.exp()) / 2).mean().item() <= 1e-3:
                break
            of_mean, of_variance = mean / 1024, (log_variance.exp() - 1) / 2048
    assert count > 30
    assert relative(candidate.latent, (log_variance / 2).exp() * z0 + mean) <= 1e-5


# --- whole runs ---


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("prompt", "targets"), [(CROWN, (0.2, 0.3)), (CATS, (0.5, 0.6))])
def test_a_whole_run(name: str, prompt: str, targets: tuple[float, float]) -> None:
    sizes, steps, stride = falling(2, 3, 4), 4, 250
    text, empty = model().encode_text([prompt]), model().encode_text([""])
    cache: list[Tensor] = []
    z = noise(5)

    def evaluated(z: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor, bool]:
        """The latent, the ordinary loss, that of refinement, whether a target is missed."""
        nonlocal cache
        moving = z.detach().clone().requires_grad_()
        cross, conflict, clean, raw = measured(name, prompt, moving, t, 1e-4)
        now = [map_.detach() for map_ in raw]
        cache = [0.9 * c + 0.1 * a for c, a in zip(cache, now, strict=True)] if cache else now
        align = sum((smoothed(a) - smoothed(c)).abs().mean() for a, c in zip(raw, cache, strict=True))
        if name == "initno":
            ordinary, joint, seen = cross, cross + 0.1 * clean + 0.1 * align + conflict, cross
        else:
            ordinary = seen = cross + 0.1 * clean + conflict
            joint = ordinary + 0.1 * align
        return moving, ordinary, joint, seen.item() > targets[0] or conflict.item() > targets[1]

    for i in range(steps):
        t = 1 + (steps - 1 - i) * stride
        if i < 3:
            moving, ordinary, _, missed = evaluated(z, t)
            if i == 1 and missed:
                rounds = 0
                while missed and rounds < 2:
                    moving, _, joint, missed = evaluated(z, t)
                    z = (z - sizes[i] * torch.autograd.grad(joint, moving)[0]).detach()
                    rounds += 1
                moving, ordinary, _, _ = evaluated(z, t)
            z = (z - sizes[i] * torch.autograd.grad(ordinary, moving)[0]).detach()
        with torch.no_grad():
            plain, prompted = model().unet(z, t, empty), model().unet(z, t, text)
        z = transfer(z, plain + 7.5 * (prompted - plain), t, stride)

    options = QUICK | {"max_rounds": 0, "cross_target": targets[0], "self_target": targets[1]}
    found = run(prompt, methods.get(name, **options), seeds=[5], steps=4, sampler="ddim").latents
    assert relative(found, z) <= 1e-4
    assert relative(run(prompt, "sd", seeds=[5], steps=4, sampler="ddim").latents, z) > 1e-3


@pytest.mark.slow
def test_a_guided_call_on_finer_maps() -> None:
    """24x24, as Stable Diffusion 2.1 has at 768 pixels."""
    z = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(5))
    moving = z.clone().requires_grad_()
    cross, conflict, clean, _ = measured("self-cross", CATS, moving, 1, 1e-4)
    loss = cross + 0.1 * clean + conflict
    expected = z - 2 * torch.autograd.grad(loss, moving)[0]
    method = methods.get("self-cross", max_rounds=0, refine_calls=(), step_size=2.0)
    found = run(CATS, method, latents=z, steps=1, sampler="ddim")
    assert found.losses[0, 0].item() == pytest.approx(loss.item(), rel=1e-5)
    plain = run(CATS, "sd", latents=expected.float(), steps=1, sampler="ddim").latents
    assert relative(found.latents, plain) <= 1e-4
    assert relative(run(CATS, "sd", latents=z, steps=1, sampler="ddim").latents, plain) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_samples_one_by_one(name: str) -> None:
    """One object, two, and samples that meet their targets at other times."""
    assert_batch_is_one_by_one([CATS, CAR], methods.get(name, **QUICK))
    targets = {"cross_target": 0.87, "self_target": 0.6}
    assert_batch_is_one_by_one([CROWN, CATS, CAR], methods.get(name, **(QUICK | targets)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_costs_what_is_declared(name: str) -> None:
    method = methods.get(name, **(QUICK | {"cross_target": 0.0})).complete(SD_V1)
    declared = method.cost(parse(CROWN, clip_tokenizer(), "rules"), calls=4)
    assert declared.attention == declared.backwards == 2 * 2 + 2 + 3 + 2
    counted = {"predictions": 8, "attention": declared.attention, "backwards": declared.backwards}
    assert passes([CROWN], method, steps=3) == counted
    easy = methods.get(name, **(QUICK | {"cross_target": 1.0, "self_target": 1.0}))
    assert passes([CROWN], easy, steps=3)["attention"] == 1 + 3
    assert method.cost(reading(CROWN), calls=4).attention == 0
    assert passes([CROWN], methods.get(name, **(QUICK | {"max_rounds": 0, "guided_steps": 0})), steps=3) == {
        "predictions": 8,
        "attention": 0,
        "backwards": 0,
    }


@pytest.mark.parametrize("name", NAMES)
def test_without_objects_or_rounds_it_is_plain_sampling(name: str) -> None:
    plain = run(CATS, "sd").latents
    assert torch.equal(run(CATS, methods.get(name, **QUICK), groups=[]).latents, plain)
    assert torch.equal(run(CATS, methods.get(name, **(QUICK | {"max_rounds": 0, "guided_steps": 0}))).latents, plain)


@pytest.mark.slow
def test_starts_on_any_network_with_generators_or_without() -> None:
    sd, z = model(), torch.cat([noise(1), noise(2)])
    groups, context = [Group((2,)), Group((5,))], sd.encode_text([CATS, CATS])

    def start(**options: Any) -> Tensor:
        method = InitNO(max_rounds=2, iterations=1, final_iterations=0)
        return start_for(method, sd.unet, context, groups, range(1, 6), calls=4, timestep=751, **options)(z)

    alone = start()
    assert torch.equal(alone, start())
    assert relative(alone, z) > 1e-3
    seeded = start(generators=[torch.Generator().manual_seed(seed) for seed in (1, 2)])
    assert seeded.shape == z.shape


@pytest.mark.slow
def test_with_another_method() -> None:
    both = [methods.get("initno", **QUICK), methods.get("ebama", guided_steps=2)]
    assert run(CROWN, both).latents.isfinite().all()
    named = run(CROWN, "initno+max_rounds=1+iterations=1+final_iterations=0+guided_steps=0,ebama").latents
    assert relative(named, run(CROWN, "ebama").latents) > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rounds": -1}, "max_rounds is -1"),
        ({"learning_rate": 0}, "learning_rate is 0; expected a positive number"),
        ({"refine_calls": 10}, "refine_calls is 10"),
        ({"cross_target": math.nan}, "cross_target is nan"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_values_out_of_range(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.get(name, **options)
