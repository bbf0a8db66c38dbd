"""Bounded Attention: masks on scores, clusters and a whole run, derived again in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from reference import model, noise, out_of, passes, plain_unet, reading, relative, run, transfer
from torch import Tensor

from ebama import methods
from ebama.methods import BoundedAttention
from ebama.methods.boxed.bounds import Subjects, hidden_pixels, hidden_words
from ebama.methods.boxed.clusters import first_clusters, k_means, subject_masks

CROWN, CAR = "a purple crown and a blue suitcase", "a car"
BOXES = {"crown": (0, 0.2, 0.5, 0.8), "suitcase": (0.55, 0.25, 1, 0.95)}
SIDES = list(BOXES.values())
WORDS, LEADING, CLOSED, END = [[3, 2], [7, 6]], [3, 7], [1, 4, 5], 8


def in_box(box: Sequence[float], y: int, x: int, side: int) -> bool:
    left, top, right, bottom = (round(share * side) for share in box)
    return left <= x < right and top <= y < bottom


def box_masks(side: int) -> list[list[bool]]:
    """Of each subject, every pixel row by row."""
    return [[in_box(box, y, x, side) for y in range(side) for x in range(side)] for box in SIDES]


def words_hidden(masks: list[list[bool]], guided: bool) -> Tensor:
    """[pixel, 77], one pair at a time."""
    count = len(masks[0])
    hidden = torch.zeros(count, 77, dtype=torch.bool)
    for pixel in range(count):
        background = not any(mask[pixel] for mask in masks)
        for token in [*CLOSED, *WORDS[0], *WORDS[1]]:
            hidden[pixel, token] = True
        for mask, word in zip(masks, WORDS, strict=True):
            if mask[pixel] or (guided and background):
                for token in word:
                    hidden[pixel, token] = False
        if background and not guided:
            hidden[pixel, END] = True
    return hidden


def pixels_hidden(masks: list[list[bool]]) -> Tensor:
    """From every pixel of a subject those of the others."""
    owners = [{subject for subject, mask in enumerate(masks) if mask[p]} for p in range(len(masks[0]))]
    return torch.tensor([[bool(one and other) and one.isdisjoint(other) for other in owners] for one in owners])


@pytest.mark.parametrize("guided", [True, False])
def test_hidden(guided: bool) -> None:
    prompt = run(CROWN, "ane", steps=1, boxes=BOXES).recipes[0]
    subjects = Subjects(prompt.groups, CLOSED, END)
    masks = box_masks(8)
    as_tensor = torch.tensor(masks).view(2, 8, 8)
    assert torch.equal(hidden_words(subjects, as_tensor, 77, guided), words_hidden(masks, guided))
    assert torch.equal(hidden_pixels(as_tensor), pixels_hidden(masks))
    overlapping = torch.tensor([[True] * 6 + [False] * 3, [False] * 3 + [True] * 5 + [False]]).view(2, 3, 3)
    assert torch.equal(hidden_pixels(overlapping), pixels_hidden(overlapping.flatten(1).tolist()))


# --- clusters ---


def plain_k_means(points: Tensor, centres: Tensor) -> tuple[list[int], Tensor]:
    for _ in range(100):
        labels = [min(range(len(centres)), key=lambda c: float((p - centres[c]).norm())) for p in points]
        moved = centres.clone()
        for c in range(len(centres)):
            if members := [p for p, label in zip(points, labels, strict=True) if label == c]:
                moved[c] = torch.stack(members).mean(dim=0)
        shift, centres = float((moved - centres).norm(dim=1).max()), moved
        if shift <= 1e-4:
            break
    return [min(range(len(centres)), key=lambda c: float((p - centres[c]).norm())) for p in points], centres


def test_k_means() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.cat([torch.randn(10, 3, generator=generator) / 4 + offset for offset in (-1.0, 0.5, 2.0)])
    labels, centres = k_means(points, points[:4])
    expected, moved = plain_k_means(points, points[:4])
    assert labels.tolist() == expected
    torch.testing.assert_close(centres, moved)
    labels, centres = first_clusters(points, 3, seed=123)
    assert len({tuple(labels[k : k + 10].tolist()) for k in (0, 10, 20)}) == 3
    assert torch.equal(labels, first_clusters(points, 3, seed=123)[0])


def test_a_subject_without_a_cluster_takes_its_box_from_the_others() -> None:
    labels, maps = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([[1.0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
    boxes = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]])
    found = subject_masks(labels, 3, maps, boxes)
    assert found.tolist() == [[True, True, True, False, False, False], [False, False, False, True, True, False]]


# --- a whole run ---


class Seen:
    """What the maps of the last four sites of 16x16 were, and the masks that follow."""

    def __init__(self) -> None:
        self.self_maps: list[Tensor] = []
        self.cross_maps: list[Tensor] = []
        self.centres: Tensor | None = None
        self.masks: list[list[bool]] | None = None

    def at(self, side: int) -> list[list[bool]]:
        if self.masks is None:
            return box_masks(side)
        step = 16 / side
        return [
            [m[int((y + 0.5) * step) * 16 + int((x + 0.5) * step)] for y in range(side) for x in range(side)]
            for m in self.masks
        ]

    def refine(self) -> None:
        mean = (sum(self.self_maps) / len(self.self_maps)).float()  # type: ignore[union-attr]
        points = torch.stack([mean[:, key] / (mean[:, key].max() + 1e-5) for key in range(256)], dim=1)
        if self.centres is None:
            generator, tried = torch.Generator().manual_seed(123), []
            for start in torch.multinomial(torch.ones(100, 256), 6, generator=generator)[:]:
                tried.append(k_means(points, points[start]))
            inertias = [float(((points - c[labels]) ** 2).sum()) for labels, c in tried]
            labels, self.centres = tried[inertias.index(min(inertias))]
        else:
            labels, self.centres = k_means(points, self.centres)
        before, boxes, maps = self.at(16), box_masks(16), []
        for subject in range(2):
            map_ = sum(m[:, LEADING[subject]] for m in self.cross_maps) / len(self.cross_maps)
            map_ = torch.sigmoid(10 * (map_ / (map_.max() + 1e-5) - 0.2))
            map_ = (map_ - map_.min()) / (map_.max() - map_.min() + 1e-5)
            maps.append(map_ * torch.tensor(before[subject]))
        self.masks = [[False] * 256 for _ in range(2)]
        for c in range(6):
            members = [p for p in range(256) if labels[p] == c]
            if not members:
                continue
            scores = [float(m[members].sum()) / max(min(float(m.sum()), len(members)), 1e-5) for m in maps]
            if max(scores) >= 0.2:
                for p in members:
                    self.masks[scores.index(max(scores))][p] = True
        for subject in range(2):
            if not any(self.masks[subject]):
                self.masks[1 - subject] = [
                    m and not b for m, b in zip(self.masks[1 - subject], boxes[subject], strict=True)
                ]
                self.masks[subject] = boxes[subject]


def maps_of(layer: Any, x: Tensor, context: Tensor, hidden: Tensor) -> list[Tensor]:
    q, k = x @ layer.to_q.weight.T, context @ layer.to_k.weight.T
    width = q.shape[1] // layer.heads
    parts = [slice(h * width, (h + 1) * width) for h in range(layer.heads)]
    low = torch.finfo(torch.float32).min
    return [torch.softmax(q[:, p] @ k[:, p].T / math.sqrt(width) + low * hidden, dim=1) for p in parts]


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 2])
def test_a_whole_run(interval: int) -> None:
    texts, seen, steps, guided_calls = model().encode_text(["", CROWN]).double(), Seen(), 3, 1
    mode, layer_index, losses = "plain", 0, []
    inside: dict[str, list[list[Tensor]]] = {}

    def attend(kind: str, layer: Any, x: Tensor, context: Tensor) -> Tensor:
        nonlocal layer_index
        layer_index += 1  # 1 to 14: down 16, down 8, middle 8, up 8 twice, up 16 twice; self and cross
        side = math.isqrt(len(x))
        masks = box_masks(side) if mode == "guided" else seen.at(side)
        hidden = torch.zeros(len(x), len(context), dtype=torch.bool)
        if kind == "self":
            hidden = pixels_hidden(masks)
        elif mode != "plain":
            hidden = words_hidden(masks, mode == "guided")
        maps = maps_of(layer, x, context, hidden)
        if mode == "guided" and layer_index > 2:
            total = sum(maps)
            background = torch.tensor([not any(m[p] for m in masks) for p in range(len(x))])
            for subject in range(2):
                own = torch.tensor(masks[subject])
                columns = own.nonzero().flatten().tolist() if kind == "self" else [*WORDS[subject], END]
                attended = total[:, columns].sum(dim=1)  # type: ignore[index]
                inside[kind][subject].append(torch.stack([attended[own].sum(), attended[background].sum()]))
        if mode == "prompt" and layer_index > 10:
            into = seen.self_maps if kind == "self" else seen.cross_maps
            into.append((sum(maps) / len(maps)).detach())  # type: ignore[union-attr]
        return out_of(layer, maps, context)

    def called(kind: str) -> Callable[..., tuple[Tensor, Tensor]]:
        return lambda layer, name, x, context: (attend(kind, layer, x, context), context)

    unet = plain_unet(called("cross"), called("self"))

    def predict(z: Tensor, t: int, row: int, how: str) -> Tensor:
        nonlocal mode, layer_index
        mode, layer_index = how, 0
        return unet(z, t, texts[row : row + 1])  # type: ignore[no-any-return]

    z = noise(5).double()
    for i in range(steps):
        t, stride = 1 + (steps - 1 - i) * (1000 // steps), 1000 // steps
        if i < guided_calls:
            for _ in range(2):
                moving = z.clone().requires_grad_()
                inside = {"cross": [[], []], "self": [[], []]}
                predict(moving, t, 1, "guided")
                loss = moving.new_zeros(())
                for kind, weight in (("cross", 1.5), ("self", 0.5)):
                    for subject in range(2):
                        f, g = torch.stack(inside[kind][subject]).mean(dim=0)
                        loss = loss + weight * (1 - f / (f + 2 * g)) ** 2
                losses.append(loss.item())
                z = (z - 8 * torch.autograd.grad(loss, moving)[0]).detach()
        elif (i - guided_calls) % interval == 0:
            seen.refine()
        with torch.no_grad():
            plain, prompted = predict(z, t, 0, "plain"), predict(z, t, 1, "prompt")
        z = transfer(z, plain + 7.5 * (prompted - plain), t, stride)

    method = BoundedAttention(guided_steps=1, max_rounds=2, mask_interval=interval, target=0.0)
    found = run(CROWN, method, boxes=BOXES, seeds=[5], steps=steps, sampler="ddim")
    assert found.losses[0, 0].item() == pytest.approx(losses[-1], rel=1e-4)
    assert relative(found.latents, z) <= 1e-4
    assert relative(run(CROWN, "sd", seeds=[5], steps=steps, sampler="ddim").latents, z) > 1e-2


QUICK = BoundedAttention(guided_steps=1, max_rounds=2, mask_interval=1)


@pytest.mark.slow
def test_a_batch_is_its_samples_one_by_one() -> None:
    prompts, boxes = [CROWN, CAR, "a cat and a dog"], [BOXES, {"car": (0.1, 0.1, 0.6, 0.4)}, {}]
    small: dict[str, Any] = {"steps": 3, "size": (16, 16)}  # latents of 8x8
    together = run(prompts, QUICK, seeds=[3, 4], boxes=boxes, **small)
    for k, (prompt, own) in enumerate(zip(prompts, boxes, strict=True)):
        for j, seed in enumerate((3, 4)):
            one = run(prompt, QUICK, seeds=[seed], boxes=[own], **small)
            assert relative(together.latents[2 * k + j : 2 * k + j + 1], one.latents) <= 1e-4
    assert relative(together.latents[4:], run(prompts[2], "sd", seeds=[3, 4], **small).latents) <= 1e-5


@pytest.mark.slow
def test_cost() -> None:
    found = passes([CROWN], replace(QUICK, target=0.0), steps=3, size=(16, 16), boxes=BOXES)
    groups = run(CROWN, "ane", steps=1, boxes=BOXES).recipes[0].groups
    declared = QUICK.cost(replace(reading(CROWN), groups=groups), 4)
    assert found == {"predictions": declared.predictions, "attention": 2, "backwards": 2}
    assert (declared.attention, declared.backwards) == (2, 2)
    met = passes([CROWN], replace(QUICK, target=1e9), steps=3, size=(16, 16), boxes=BOXES)
    assert met == {"predictions": 8, "attention": 1, "backwards": 1}


def test_steps_fall_evenly() -> None:
    assert BoundedAttention().step_sizes(51) == pytest.approx([8 - 6 * i / 15 for i in range(15)])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="cannot run with one that splits them"):
        run(CROWN, "bounded-attention,cd", boxes=BOXES)
    with pytest.raises(ValueError, match="bounded-attention places objects in boxes"):
        run(CROWN, "bounded-attention")
    with pytest.raises(ValueError, match="clusters is 0"):
        methods.get("bounded-attention", clusters=0)
