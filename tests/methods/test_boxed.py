"""Methods with boxes: their energies and first steps derived again in plain loops; batches, costs, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from reference import model, noise, passes, reading, relative, run, transfer
from test_gradient_methods import falling, sharpened, smoothed
from torch import Tensor

from ebama import methods
from ebama.guidance import GradientMethod
from ebama.methods import BoxDiff, LayoutGuidance
from ebama.methods.boxed.boxdiff import box_terms
from ebama.prompt import Box, Group

CROWN, CAR = "a purple crown and a blue suitcase", "a car"
BOXES = {"crown": (0, 0.2, 0.5, 0.8), "suitcase": (0.55, 0.25, 1, 0.95)}
PLACED = [(3, (0, 0.2, 0.5, 0.8)), (7, (0.55, 0.25, 1, 0.95))]
QUICK: dict[str, dict[str, Any]] = {
    "boxdiff": {"step_size": 2.0, "thresholds": ((0, 0.05), (2, 0.5)), "max_refinements": 3},
    "layout-guidance": {"step_size": 5.0, "max_rounds": 2},
}


def quick(name: str, **options: Any) -> GradientMethod:
    method = methods.get(name, **(QUICK[name] | options)).complete()
    assert isinstance(method, GradientMethod)
    return method


def cells(box: tuple[float, ...], side: int = 16) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2); Python rounds halves to the even number."""
    x1, y1, x2, y2 = (round(share * side) for share in box)
    return x1, y1, x2, y2


def top(values: Tensor, count: int) -> Tensor:
    return values.flatten().sort(descending=True).values[:count].mean()


def terms(map_: Tensor, box: tuple[float, ...], corner: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Of a smoothed map of 16x16."""
    x1, y1, x2, y2 = cells(box)
    mask = torch.tensor([[y1 <= y < y2 and x1 <= x < x2 for x in range(16)] for y in range(16)])
    size = int(mask.sum())
    inside = top(map_ * mask, max(math.floor(0.2 * size), 1))
    outside = top(map_ * ~mask, max(math.floor(0.2 * (256 - size)), 1))
    total = map_.new_zeros(())
    for along, (begin, end) in (("x", (x1, x2)), ("y", (y1, y2))):
        for k in range(16):
            near = any(max(side - corner, 0) <= k < min(side + corner + 1, 16) for side in (begin, end))
            line = map_[:, k] if along == "x" else map_[k]
            in_box = float(begin <= k < end)
            total = total + near * (line.max() - in_box).abs() / 16
    return (1 - inside).clamp(min=0), outside.clamp(min=0), total


@pytest.mark.parametrize(
    "box", [(0, 0.2, 0.5, 0.8), (0.55, 0.25, 1, 0.95), (0.03, 0.03, 0.16, 0.16), (0, 0, 1, 1), (0.5, 0.5, 0.57, 0.57)]
)
@pytest.mark.parametrize("corner", [0, 1, 2])
def test_terms_of_boxdiff(box: tuple[float, float, float, float], corner: int) -> None:
    maps = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = box_terms(maps, [[Group((1,), box=Box(*box))]] * 2, corner=corner)
    for sample in range(2):
        expected = terms(maps[sample, 0], box, corner)
        torch.testing.assert_close(tuple(term[sample, 0] for term in found), expected, rtol=1e-12, atol=1e-12)


def boxdiff(target: float) -> Callable[..., Any]:
    def energy(maps: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        coarse = sum(maps.values()) / len(maps)
        each = [terms(smoothed(sharpened(coarse.mean(0), token)), box) for token, box in PLACED]
        inner = torch.stack([term[0] for term in each])
        return sum(a + b + c for a, b, c in each), inner.max(), inner.sum()  # type: ignore[return-value]

    return energy


def outside(maps: dict[str, Tensor]) -> Tensor:
    """Layout guidance of maps [head, h, w, key] of each layer."""
    values = []
    for heads in maps.values():
        for head in heads:
            for token, box in PLACED:
                x1, y1, x2, y2 = cells(box, head.shape[0])
                values.append((1 - head[y1:y2, x1:x2, token].sum() / head[..., token].sum()) ** 2)
    return torch.stack(values).mean()


def maps_at(z: Tensor, t: int, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    unet, text = model().unet, model().encode_text([CROWN])
    sites = [s for s in unet.sites((16, 16)) if s.kind == "cross" and s.resolution[0] in sizes]
    _, records = unet(z, t, text, record=sites)
    return {r.site.name: r.scores[0].double().softmax(-1).unflatten(1, r.site.resolution) for r in records}


def sampled(move: Callable[[Tensor, int, int], Tensor], steps: int) -> Tensor:
    text, empty, z, stride = model().encode_text([CROWN]), model().encode_text([""]), noise(5), 1000 // steps
    for i in range(steps):
        t = 1 + (steps - 1 - i) * stride
        z = move(z, t, i).detach()
        with torch.no_grad():
            plain, prompted = model().unet(z, t, empty), model().unet(z, t, text)
        z = transfer(z, plain + 7.5 * (prompted - plain), t, stride)
    return z


@pytest.mark.slow
@pytest.mark.parametrize("refine", [True, False])
def test_a_whole_run_of_boxdiff(refine: bool) -> None:
    sizes, targets = falling(2, 3, 4), {0: 0.95, 2: 0.5} if refine else {}

    def energy(z: Tensor, t: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        moving = z.clone().requires_grad_()
        return moving, boxdiff(0)(maps_at(moving, t, (16,)))

    def move(z: Tensor, t: int, i: int) -> Tensor:
        if i >= len(sizes):
            return z
        moving, (full, worst, inner) = energy(z, t)
        if i not in targets or worst.item() <= targets[i]:
            return z - sizes[i] * torch.autograd.grad(full, moving)[0]
        rounds = 0
        while worst.item() > targets[i] and rounds < 3:
            moving, (full, worst, inner) = energy(z, t)
            z = z - sizes[i] * torch.autograd.grad(worst, moving)[0]
            rounds += 1
        moving, (full, worst, inner) = energy(z, t)
        return z - sizes[i] * torch.autograd.grad(inner, moving)[0]

    method = quick("boxdiff", guided_steps=3, refine=refine)
    options: dict[str, Any] = {"seeds": [5], "steps": 4, "sampler": "ddim"}
    found, expected = run(CROWN, method, boxes=BOXES, **options).latents, sampled(move, 4)
    assert relative(found, expected) <= 1e-4
    assert relative(run(CROWN, "sd", **options).latents, expected) > 1.5e-3


@pytest.mark.slow
def test_a_whole_run_of_layout_guidance() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    cross = [s for s in model().unet.sites((16, 16)) if s.kind == "cross"]
    down = [s.name for s in cross[: next(k for k, s in enumerate(cross) if s.resolution == (8, 8))]]
    assert down

    def move(z: Tensor, t: int, i: int) -> Tensor:
        if i >= 2:
            return z
        for _ in range(2):
            moving = z.clone().requires_grad_()
            maps = {name: m for name, m in maps_at(moving, t, (8, 16)).items() if name not in down}
            loss = outside(maps)
            sigma = math.sqrt((1 - abar[t]) / abar[t])
            # Karras et al.'s latent is z / sqrt(abar); dL by it is sqrt(abar) dL/dz.
            karras = z / math.sqrt(abar[t]) - 5 * sigma**2 * math.sqrt(abar[t]) * torch.autograd.grad(loss, moving)[0]
            z = (karras * math.sqrt(abar[t])).detach()
            if loss.item() <= 0.2:
                break
        return z

    method = quick("layout-guidance", guided_steps=2)
    options: dict[str, Any] = {"seeds": [5], "steps": 4, "sampler": "ddim"}
    found, expected = run(CROWN, method, boxes=BOXES, **options).latents, sampled(move, 4)
    assert relative(found, expected) <= 1e-4
    assert relative(run(CROWN, "sd", **options).latents, expected) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_batch_is_its_samples_one_by_one(name: str) -> None:
    """A prompt of two boxes, of one, and of none, which costs nothing."""
    prompts, boxes = [CROWN, CAR, "a cat and a dog"], [BOXES, {"car": (0.1, 0.1, 0.6, 0.4)}, {}]
    together = run(prompts, quick(name), seeds=[3, 4], boxes=boxes)
    for k, (prompt, own) in enumerate(zip(prompts, boxes, strict=True)):
        for j, seed in enumerate((3, 4)):
            one = run(prompt, quick(name), seeds=[seed], boxes=[own])
            assert relative(together.latents[2 * k + j : 2 * k + j + 1], one.latents) <= 1e-4
            assert together.metadata[2 * k + j] == one.metadata[0]
    assert relative(together.latents[4:], run(prompts[2], "sd", seeds=[3, 4]).latents) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "never"),
    [("boxdiff", {"thresholds": ((0, 1.0), (2, 1.0))}), ("layout-guidance", {"target": 0.0})],
)
def test_a_run_costs_what_is_declared(name: str, never: dict[str, Any]) -> None:
    """All of it, where a target is never met; less, where it is."""
    groups = run(CROWN, "ane", seeds=[0], steps=1, boxes=BOXES).recipes[0].groups
    for options, whole in ((never, True), ({"thresholds": ((0, 0.05),)} if name == "boxdiff" else {}, False)):
        method = quick(name, guided_steps=3, **options)
        declared = method.cost(replace(reading(CROWN), groups=groups), calls=5)
        found = passes([CROWN], method, seeds=[0, 1], steps=4, boxes=BOXES)
        assert found["predictions"] == 2 * declared.predictions
        assert found["backwards"] == found["attention"]
        assert 0 < found["attention"] <= 2 * declared.attention
        assert found["attention"] == 2 * declared.attention or not whole
    assert method.cost(reading(CROWN), calls=5).attention == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_with_another_method(name: str) -> None:
    both = run(CROWN, [quick(name), "ebama"], boxes=BOXES)
    assert both.latents.isfinite().all()
    assert relative(both.latents, run(CROWN, "ebama").latents) > 1e-3


@pytest.mark.parametrize("name", QUICK)
def test_without_boxes_there_is_one_clear_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} places objects in boxes, and got none"):
        run(CROWN, quick(name))


def test_options() -> None:
    assert BoxDiff(refine=False).refinements() == {}
    assert set(LayoutGuidance(guided_steps=3).refinements()) == {0, 1, 2}
    for options in ({"share": 2}, {"corner": -1}, {"refine": 1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            methods.get("boxdiff", **options)
