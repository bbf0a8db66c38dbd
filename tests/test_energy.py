"""EBAMA's energies against the paper's equations and the published code's formulas, in plain loops and float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from ebama.energy import EbamaEnergy, binding_loss, ebama_loss, intensity_loss
from ebama.methods.ebama_official import official_loss

HEIGHT, WIDTH = 4, 5


@dataclass(frozen=True)
class Words:
    """Any object with these two attributes is a group."""

    object: tuple[int, ...]
    modifiers: tuple[tuple[int, ...], ...] = ()


RED_CAR = Words((3,), ((2,),))
BARE = Words((5,))
MANY = Words((4,), ((1,), (2,), (3,)))
PIECES = Words((4, 5), ((1,), (2, 3)))

CASES = {
    "one group": ([RED_CAR], [1, 2, 3, 4, 5]),
    "two groups": ([RED_CAR, Words((7,), ((6,),))], range(1, 8)),
    "no modifiers": ([BARE], [1, 2, 3, 4, 5]),
    "several modifiers": ([MANY], range(1, 8)),
    "words of several pieces": ([PIECES, Words((7,))], range(1, 8)),
    "nothing outside": ([MANY], [1, 2, 3, 4]),
    "alone": ([Words((1,))], [1]),
    "no group": ([], [1, 2, 3]),
}
cases = pytest.mark.parametrize(("groups", "tokens"), CASES.values(), ids=CASES)


def maps(batch: int = 2, keys: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, HEIGHT, WIDTH, keys, generator=generator, dtype=torch.float64)


# --- the equations again, on lists of floats ---


def columns(sample: Tensor, keys: int) -> list[list[float]]:
    """Map of every key, pixels in row-major order."""
    return [[float(sample[y, x, k]) for y in range(HEIGHT) for x in range(WIDTH)] for k in range(keys)]


def mean(vectors: Sequence[list[float]]) -> list[float]:
    return [sum(values) / len(vectors) for values in zip(*vectors, strict=True)]


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def smoothed_peak(values: list[float]) -> float:
    """Maximum of the 3x3 smoothing with 1-D weights proportional to exp(-(x / (2 * 0.5))^2), one pixel reflected."""
    line = [math.exp(-1.0), 1.0, math.exp(-1.0)]
    line = [weight / sum(line) for weight in line]

    def reflect(i: int, side: int) -> int:
        return 1 if i < 0 else side - 2 if i == side else i

    best = -math.inf
    for y in range(HEIGHT):
        for x in range(WIDTH):
            total = 0.0
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    pixel = reflect(y + dy, HEIGHT) * WIDTH + reflect(x + dx, WIDTH)
                    total += line[dy + 1] * line[dx + 1] * values[pixel]
            best = max(best, total)
    return best


def paper_binding(sample: Tensor, groups: Sequence[Words], tokens: Sequence[int], center: bool = False) -> float:
    keys = sample.shape[-1]
    features = columns(sample, keys)
    if center:
        offset = mean([features[token] for token in tokens])
        features = [[value - o for value, o in zip(feature, offset, strict=True)] for feature in features]
        features = [[value - sum(feature) / len(feature) for value in feature] for feature in features]
    total = 0.0
    for group in groups:
        anchor = mean([features[p] for p in group.object])
        if group.modifiers:
            pulls = [cosine(anchor, mean([features[p] for p in m])) for m in group.modifiers]
            total -= sum(pulls) / len(pulls)
        own = set(group.object).union(*group.modifiers)
        pushes = [cosine(anchor, features[token]) for token in tokens if token not in own]
        if pushes:
            total += sum(pushes) / len(pushes)
    return total


def paper_intensity(sample: Tensor, groups: Sequence[Words], log: bool = False) -> float:
    features = columns(sample, sample.shape[-1])
    peaks = [smoothed_peak(mean([features[p] for p in group.object])) for group in groups]
    return -sum(map(math.log, peaks) if log else peaks)


def official(sample: Tensor, groups: Sequence[Words], tokens: Sequence[int], weight: float) -> float:
    features = columns(sample, 77)
    sharpened: list[list[float]] = [[] for _ in range(77)]
    for pixel in range(HEIGHT * WIDTH):
        powers = {k: math.exp(100 * features[k][pixel]) for k in range(1, 76)}
        for k in powers:
            sharpened[k].append(powers[k] / sum(powers.values()))
    total = 0.0
    for group in groups:

        def farthest(piece: int, noun: tuple[int, ...] = group.object) -> float:
            return max(1 - cosine(features[piece], features[b]) for b in noun)

        total += sum(farthest(piece) for modifier in group.modifiers for piece in modifier)
        own = set(group.object).union(*group.modifiers)
        outside = [token for token in tokens if token not in own]
        if outside:
            total -= max(len(group.modifiers), 1) * sum(map(farthest, outside)) / len(outside)
        total -= weight * smoothed_peak(sharpened[group.object[0]])
    return total


def close(found: Tensor, expected: Sequence[float]) -> None:
    assert found.shape == (len(expected),)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


# --- the paper's variant ---


@cases
@pytest.mark.parametrize("center", [False, True])
def test_binding_is_the_papers(groups: list[Words], tokens: Sequence[int], center: bool) -> None:
    scores = maps()
    close(
        binding_loss(scores, groups, tokens, center=center), [paper_binding(s, groups, tokens, center) for s in scores]
    )


@cases
@pytest.mark.parametrize("log", [False, True])
def test_intensity_is_the_papers_or_its_logarithm(groups: list[Words], tokens: Sequence[int], log: bool) -> None:
    probabilities = maps(keys=9).softmax(-1)
    close(intensity_loss(probabilities, groups, log=log), [paper_intensity(p, groups, log) for p in probabilities])


@pytest.mark.parametrize("log", [False, True])
def test_the_logarithm_reaches_an_object_that_is_seen_nowhere(log: bool) -> None:
    scores = maps(1)
    scores[..., 1] -= 25
    scores.requires_grad_()
    loss = intensity_loss(scores.softmax(-1), [Words((1,))], log=log)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert gradient.norm() > 0.3 if log else gradient.norm() < 1e-9


def test_the_logarithm_of_a_peak_of_zero_is_finite() -> None:
    probabilities = torch.zeros(1, HEIGHT, WIDTH, 3, requires_grad=True)
    loss = intensity_loss(probabilities, [Words((1,))], log=True)
    (gradient,) = torch.autograd.grad(loss.sum(), probabilities)
    assert loss.isfinite().all()
    assert not gradient.any()


@cases
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_loss_is_their_weighted_sum(groups: list[Words], tokens: Sequence[int], weight: float, log: bool) -> None:
    scores, probabilities = maps(seed=1), maps(seed=2).softmax(-1)
    expected = [
        paper_binding(s, groups, tokens) + weight * paper_intensity(p, groups, log)
        for s, p in zip(scores, probabilities, strict=True)
    ]
    close(ebama_loss(scores, probabilities, groups, tokens, intensity_weight=weight, log_intensity=log), expected)


def test_the_default_weight_is_one_half() -> None:
    scores, probabilities = maps(), maps().softmax(-1)
    expected = [
        paper_binding(s, [RED_CAR], [1, 2, 3, 4]) + 0.5 * paper_intensity(p, [RED_CAR])
        for s, p in zip(scores, probabilities, strict=True)
    ]
    close(ebama_loss(scores, probabilities, [RED_CAR], [1, 2, 3, 4]), expected)


def test_borders_are_reflected() -> None:
    centre = 1 / (1 + 2 * math.exp(-1))
    corner, edge = torch.zeros(2, 1, HEIGHT, WIDTH, 3, dtype=torch.float64)
    corner[0, 0, 0, 1] = 1.0  # seen once by itself: repeating the border would count it four times
    edge[0, :2, :, 1] = 1.0  # the second row counts double in the first: zeros beyond the border would lose it
    close(intensity_loss(corner, [Words((1,))]), [-(centre**2)])
    close(intensity_loss(edge, [Words((1,))]), [-1.0])


@pytest.mark.parametrize("shape", [(1, HEIGHT, WIDTH, 1), (1, 1, 1, 9)], ids=["map of all words", "level of a word"])
def test_centering_takes_away_what_words_share_and_each_words_level(shape: tuple[int, ...]) -> None:
    scores = maps()
    offset = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    plain, moved = (binding_loss(s, [RED_CAR], [1, 2, 3, 4]) for s in (scores, scores + offset))
    assert (plain - moved).abs().min() > 1e-2
    centered = [binding_loss(s, [RED_CAR], [1, 2, 3, 4], center=True) for s in (scores, scores + offset)]
    torch.testing.assert_close(*centered, rtol=1e-12, atol=1e-12)


# --- the published code's variant ---


@cases
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_official_loss(groups: list[Words], tokens: Sequence[int], weight: float) -> None:
    probabilities = maps(keys=77, seed=3).softmax(-1)
    found = official_loss(probabilities, groups, tokens, intensity_weight=weight)
    close(found, [official(p, groups, tokens, weight) for p in probabilities])


def test_official_intensity_is_that_of_the_first_piece() -> None:
    probabilities = maps(keys=77).softmax(-1)

    def intensity(word: Words) -> Tensor:
        with_it, without = (official_loss(probabilities, [word], [4, 5], intensity_weight=w) for w in (1.0, 0.0))
        return with_it - without

    torch.testing.assert_close(intensity(Words((4, 5))), intensity(Words((4,))), rtol=1e-12, atol=1e-12)
    assert (intensity(Words((4, 5))) - intensity(Words((5, 4)))).abs().min() > 1e-6


# --- gradients, batches, precision, errors: all variants ---


def paper_loss(scores: Tensor, groups: object, tokens: object) -> Tensor:
    return ebama_loss(scores, scores.softmax(-1), groups, tokens)  # type: ignore[arg-type]


def centered_loss(scores: Tensor, groups: object, tokens: object) -> Tensor:
    return ebama_loss(scores, scores.softmax(-1), groups, tokens, center=True)  # type: ignore[arg-type]


def log_loss(scores: Tensor, groups: object, tokens: object) -> Tensor:
    return ebama_loss(scores, scores.softmax(-1), groups, tokens, log_intensity=True)  # type: ignore[arg-type]


def official_of_scores(scores: Tensor, groups: object, tokens: object) -> Tensor:
    return official_loss(scores.softmax(-1), groups, tokens)  # type: ignore[arg-type]


Loss = Callable[[Tensor, object, object], Tensor]
losses = pytest.mark.parametrize("loss", [paper_loss, centered_loss, log_loss, official_of_scores])


@pytest.mark.slow
@losses
def test_gradients(loss: Loss) -> None:
    groups = [[RED_CAR, Words((5, 6), ((4,),))], [BARE]]
    tokens = [range(1, 8), [1, 3, 5]]
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(2, 2, 3, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: loss(s, groups, tokens), scores)


@losses
def test_a_batch_is_its_samples_one_by_one(loss: Loss) -> None:
    groups = [[RED_CAR, Words((6,))], [PIECES], [], [MANY]]
    tokens = [range(1, 7), [1, 2, 3, 4, 5, 7], [1, 2], [1, 2, 3, 4]]
    scores = maps(4).requires_grad_()
    together = loss(scores, groups, tokens)
    (gradient,) = torch.autograd.grad(together.sum(), scores)
    for i in range(4):
        single = scores[i : i + 1].detach().requires_grad_()
        alone = loss(single, groups[i], tokens[i])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-13, atol=1e-15)
        if groups[i]:
            torch.testing.assert_close(
                torch.autograd.grad(alone.sum(), single)[0][0], gradient[i], rtol=1e-13, atol=1e-15
            )
        else:
            assert not gradient[i].any()


@losses
def test_one_list_serves_all_samples(loss: Loss) -> None:
    scores, groups, tokens = maps(3), [RED_CAR, BARE], [1, 2, 3, 4, 5, 6]
    assert torch.equal(loss(scores, groups, tokens), loss(scores, [groups] * 3, [tokens] * 3))
    assert torch.equal(loss(scores, groups, tokens), loss(scores, tuple(groups), range(1, 7)))


class Pair(NamedTuple):
    """A group that is a tuple too."""

    object: tuple[int, ...]
    modifiers: tuple[tuple[int, ...], ...] = ()


@losses
def test_groups_may_be_named_tuples_and_tokens_tensors(loss: Loss) -> None:
    scores, groups, tokens = maps(2), [RED_CAR, BARE], [1, 2, 3, 4, 5, 6]
    pairs = [Pair(group.object, group.modifiers) for group in groups]
    expected = loss(scores, groups, tokens)
    assert torch.equal(loss(scores, pairs, tokens), expected)
    assert torch.equal(loss(scores, [pairs, pairs], tokens), expected)
    assert torch.equal(loss(scores, groups, torch.tensor(tokens)), expected)
    assert torch.equal(loss(scores, groups, [torch.tensor(tokens)] * 2), expected)


@losses
@pytest.mark.parametrize("as_positions", [torch.tensor, np.array, lambda word: tuple(torch.tensor(word)), list])
def test_positions_in_groups_are_numbers_of_any_library(loss: Loss, as_positions: Callable[[Any], Any]) -> None:
    scores, groups, tokens = maps(2), [RED_CAR, BARE], [1, 2, 3, 4, 5, 6]
    given = [
        SimpleNamespace(object=as_positions(group.object), modifiers=[as_positions(word) for word in group.modifiers])
        for group in groups
    ]
    expected = loss(scores, groups, tokens)
    assert torch.equal(loss(scores, given, tokens), expected)
    assert torch.equal(loss(scores, [tuple(given)] * 2, [list(torch.tensor(tokens))] * 2), expected)


@losses
@pytest.mark.parametrize(
    "group",
    [
        SimpleNamespace(object=3, modifiers=()),
        SimpleNamespace(object=(3,), modifiers=(2,)),
        SimpleNamespace(object=(3,), modifiers=None),
        SimpleNamespace(object=np.arange(9) == 3, modifiers=()),
        SimpleNamespace(object=(3.0,), modifiers=()),
    ],
    ids=["number", "flat", "None", "mask", "point"],
)
def test_groups_of_anything_else_are_named(loss: Loss, group: Any) -> None:
    with pytest.raises(ValueError, match="expected "):
        loss(maps(2), [group], [1, 2, 3])


@losses
def test_words_that_recur_in_groups_count_each_time(loss: Loss) -> None:
    scores, tokens = maps(keys=77), [1, 2, 3, 4, 5, 6]
    once, twice = (loss(scores, [RED_CAR, *again], tokens) for again in ([], [RED_CAR]))
    torch.testing.assert_close(twice, 2 * once, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("center", [False, True])
def test_keys_that_are_no_content_are_not_looked_at(center: bool) -> None:
    scores = maps()
    masked = scores.clone()
    masked[..., [0, 8]] = -math.inf  # as an attention mask leaves them
    groups, tokens = [[PIECES], [RED_CAR, Words((6,))]], [1, 2, 3, 4, 5, 6, 7]
    found, expected = (binding_loss(s, groups, tokens, center=center) for s in (masked, scores))
    assert torch.equal(found, expected)


def test_binding_under_autocast_is_computed_in_float32() -> None:
    scores = maps().float()
    expected = binding_loss(scores, [RED_CAR], [1, 2, 3, 4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(binding_loss(scores, [RED_CAR], [1, 2, 3, 4]), expected)


def test_the_energy_of_a_run_is_built_once_for_all_its_samples() -> None:
    groups, tokens = [[RED_CAR], [PIECES], [MANY]], [[1, 2, 3], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5]]
    scores, probabilities = maps(3), maps(3).softmax(-1)
    expected = ebama_loss(scores, probabilities, groups, tokens, center=True)
    some = EbamaEnergy.of(groups, tokens, 3)[[2, 0]]
    found = some.loss(scores[[2, 0]], probabilities[[2, 0]], intensity_weight=0.5, center=True, log_intensity=False)
    torch.testing.assert_close(found, expected[[2, 0]], rtol=1e-12, atol=1e-12)


@losses
def test_a_batch_of_nothing(loss: Loss) -> None:
    assert loss(maps(0), [RED_CAR], [1, 2, 3]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_computed_in_float32(dtype: torch.dtype) -> None:
    scores = maps().to(dtype)
    probabilities = scores.float().softmax(-1).to(dtype)
    found = ebama_loss(scores, probabilities, [RED_CAR], [1, 2, 3, 4])
    expected = ebama_loss(scores.double(), probabilities.double(), [RED_CAR], [1, 2, 3, 4])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_maps_must_be_4d() -> None:
    with pytest.raises(ValueError, match="scores have type ndarray; expected"):
        binding_loss(maps().numpy(), [BARE], [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scores have shape \[4, 5, 9\]; expected \[batch, h, w, key\]"):
        binding_loss(maps()[0], [RED_CAR], [1, 2, 3])
    with pytest.raises(ValueError, match="probabilities have shape"):
        intensity_loss(maps()[0], [RED_CAR])


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_maps_of_no_floating_point_are_named(dtype: torch.dtype) -> None:
    good, bad = maps(), maps().to(dtype)
    calls: list[Callable[[], object]] = [
        lambda: binding_loss(bad, [RED_CAR], [1, 2, 3]),
        lambda: intensity_loss(bad, [RED_CAR]),
        lambda: ebama_loss(bad, good, [RED_CAR], [1, 2, 3]),
        lambda: ebama_loss(good, bad, [RED_CAR], [1, 2, 3]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"have dtype {dtype}; expected \[batch, h, w, key\] in floating point"):
            call()


@pytest.mark.parametrize("counts", [(1, 2), (2, 1), (1, 0), (3, 2)])
def test_scores_and_probabilities_are_of_the_same_samples(counts: tuple[int, int]) -> None:
    scores, probabilities = map(maps, counts)
    with pytest.raises(ValueError, match=f"There are {counts[0]} samples of scores and {counts[1]} of probabilities"):
        ebama_loss(scores, probabilities, [RED_CAR], [1, 2, 3])


@losses
@pytest.mark.parametrize(
    ("groups", "tokens"),
    [([[RED_CAR]], [1, 2, 3]), ([RED_CAR], [[1, 2, 3]] * 3), ([[RED_CAR], RED_CAR], [1, 2, 3])],
)
def test_lists_that_do_not_match_the_batch(loss: Loss, groups: object, tokens: object) -> None:
    with pytest.raises(ValueError, match="one for each of 2"):
        loss(maps(2, keys=77), groups, tokens)


@losses
@pytest.mark.parametrize(
    ("groups", "tokens"),
    [([Words((77,))], [1, 2]), ([Words((-1,))], [1, 2]), ([Words((1,), ((77,),))], [1]), ([Words((1,))], [1, 77])],
)
def test_positions_outside_the_key_axis(loss: Loss, groups: object, tokens: object) -> None:
    with pytest.raises(ValueError, match="key axis of length 77"):
        loss(maps(keys=77), groups, tokens)
