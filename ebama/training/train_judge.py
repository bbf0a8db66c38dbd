"""Train a judge and measure it: `python -m ebama.training.train_judge`.

One thread. The pictures hold whole objects and things that are none (`drawing.galleries`), softened and disturbed as
decoded ones are. Every step's pictures come from the seed and the step alone, so an interrupted training goes on from
its last checkpoint exactly where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebama.weights.files.tensors import write_tensors
from ebama.weights.miniature.judge import NOTHING, WEIGHTS, Judge, load_judge
from ebama.weights.miniature.reading import Reading, distance

from ..evaluation.judges.agreement import Label, held_out, is_same, read_labels
from ..evaluation.judges.agreement import make as make_pictures
from ..evaluation.judges.scorer import as_pixels
from ..output.files import write_text, written_whole
from .drawing.galleries import GALLERIES, Gallery, GalleryConfig, Painter, Thing
from .drawing.scenes import Scene
from .drawing.truth import labelled_truth, middle, truth
from .loop import TrainingConfig, options_parser, train

CONFIG = TrainingConfig(4200, 32, lr=2e-3, warmup=100, flat=0.3, ema=0.99, seed=21)
LABELLED = 8
"""Labelled pictures among those of a step of the last stage."""
LABELLED_CONFIG = TrainingConfig(400, 32, lr=3e-4, warmup=20, flat=0.3, ema=0.98, seed=23)
HELD_OUT_PICTURES = 2000
HELD_OUT = 1 << 20  # the number of their first step, which no training reaches


def pictures(scenes: Iterable[Scene | Gallery]) -> Tensor:
    """Their pictures as [B, 3, 64, 64] in [0, 1]."""
    return torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).float() / 255


def soften(images: Tensor, generator: torch.Generator) -> Tensor:
    """Disturb pictures as a small decoder does: blur, drifting colours and fine noise, each of a random strength."""
    batch = len(images)

    def strength(maximum: float) -> Tensor:
        """0 for half of the pictures, up to ``maximum`` for the others."""
        draw = torch.rand(batch, 1, 1, 1, generator=generator) * 2 - 1
        return draw.clamp_min(0) * maximum

    tap = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(tap, tap).expand(3, 1, 5, 5)
    blurred = F.conv2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    images = torch.lerp(images, blurred, strength(1.2))
    drift = F.interpolate(torch.randn(batch, 3, 8, 8, generator=generator), size=64, mode="bilinear")
    images = images + strength(0.04) * drift + strength(0.04) * torch.randn(batch, 3, 1, 1, generator=generator)
    images = images + strength(0.06) * torch.randn(images.shape, generator=generator)
    return images.clamp(0, 1)


def draw(painter: Painter, seed: int, step: int, count: int) -> tuple[list[Gallery], torch.Generator]:
    """The pictures of a step and a generator for their disturbances; both depend on the seed and the step alone."""
    rng = np.random.default_rng([seed, step])
    return [painter.paint(rng) for _ in range(count)], torch.Generator().manual_seed(seed * 2**32 + step)


def measure(judge: Judge, config: GalleryConfig, seed: int, *, softened: bool = False) -> dict[str, float]:
    """Measure on `HELD_OUT_PICTURES` pictures that no training saw.

    `recall` and `precision` of whole objects, `colour` = share of right colours among those seen, `broken` = share of
    the things that are no object where no noun is seen, `all_right` = share of pictures whose nouns and colours are
    read without a mistake.
    """
    painter, counts = Painter(config), []
    for step in range(HELD_OUT, HELD_OUT + HELD_OUT_PICTURES // 50):
        galleries, generator = draw(painter, seed, step, 50)
        images = pictures(galleries)
        readings = judge.read(soften(images, generator) if softened else images)
        counts += [count(gallery.things, reading) for gallery, reading in zip(galleries, readings, strict=True)]
    whole, seen, hits, coloured, right, broken, refused, perfect = np.sum(counts, axis=0).tolist()
    shares = {"recall": hits / whole, "precision": hits / seen, "colour": right / coloured}
    shares |= {"broken": refused / broken} if broken else {}
    return {name: round(share, 4) for name, share in (shares | {"all_right": perfect / len(counts)}).items()}


def count(things: Sequence[Thing], reading: Reading) -> tuple[int, ...]:
    """What `measure` sums: of objects those whole, those seen, those both; ... of pictures those read perfectly."""
    nouns = [thing.noun for thing in things]
    colours = {t.noun: t.colour for t in things if t.colour and t.noun in reading.present and nouns.count(t.noun) == 1}
    right = sum(reading.colours[noun] == colour for noun, colour in colours.items() if noun)
    whole, broken = set(nouns) - {None}, [middle(thing) for thing in things if thing.noun is None]
    refused = sum(not any(t.noun and distance(t.place, place) < 2 for t in reading.things) for place in broken)
    perfect = whole == reading.present and right == len(colours)
    hits = len(whole & reading.present)
    return len(whole), len(reading.present), hits, len(colours), right, len(broken), refused, perfect


def labelled_pictures(state: Path) -> tuple[Tensor, list[Label]]:
    """The pictures that a person labelled and their labels, those left out that are held out."""
    labels = read_labels()
    images = make_pictures(labels, state / "labelled")
    kept = [i for i, is_new in enumerate(held_out(labels)) if not is_new and is_same(labels[i], images[i])]
    return as_pixels([images[i] for i in kept]), [labels[i] for i in kept]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, store the judge (float16) and, beside it as JSON, what the stored weights reach on held-out pictures."""
    parser = options_parser(main.__doc__)
    parser.add_argument("--steps", type=int, default=CONFIG.steps)
    options = parser.parse_args(arguments)
    config = replace(CONFIG, steps=options.steps)
    painter = Painter(GALLERIES)

    def loss(network: nn.Module, step: int, worker: int) -> tuple[Tensor, dict[str, float]]:
        galleries, generator = draw(painter, config.seed, step * 64 + worker, config.batch)
        batch = [pictures(galleries), *truth(galleries)]
        if labelled is not None:
            rows = torch.randint(len(labelled[0]), (LABELLED,), generator=generator)
            batch = [torch.cat([drawn, more[rows]]) for drawn, more in zip(batch, labelled, strict=True)]
        images, things, paints = batch
        seen, painted = network(soften(images, generator))
        there = (things >= 0) & (things != NOTHING)
        classes = F.cross_entropy(seen, things, reduction="sum") / there.sum().clamp(min=1)
        colour = F.cross_entropy(painted, paints, reduction="sum") / (paints >= 0).sum().clamp(min=1)
        right = (seen.argmax(dim=1) == things)[there].float().mean()
        return classes + colour, {"colour": colour.item(), "right": right.item()}

    labelled: tuple[Tensor, Tensor, Tensor] | None = None
    torch.manual_seed(config.seed)
    judge = Judge()
    trained = train("judge", judge, loss, config, options.state)
    if trained is not None:  # the first worker
        judge = trained.network  # type: ignore[assignment]
        images, labels = labelled_pictures(options.state)
        labelled = images, *labelled_truth(judge, images, labels)
        config = LABELLED_CONFIG
        trained = train("judge_labelled", judge.requires_grad_(True), loss, config, options.state)
    if trained is None:
        return
    with written_whole(WEIGHTS) as partial:
        weights = trained.network.state_dict()
        write_tensors(partial, {key: v.half() if v.is_floating_point() else v for key, v in weights.items()})
    stored = load_judge()
    whole = replace(GALLERIES, counts=(0.0, *GALLERIES.world.counts), longest=GALLERIES.world.longest)
    whole = replace(whole, broken=0.0, covered=0.0, mixed=0.0)  # as `scenes` draws
    report = {
        "training": {"samples": trained.samples, "seed": config.seed, "seconds": round(trained.seconds)},
        "parameters": sum(p.numel() for p in stored.parameters()),
        "held_out_pictures": HELD_OUT_PICTURES,
        "held_out": measure(stored, whole, config.seed),
        "held_out_softened": measure(stored, whole, config.seed, softened=True),
        "held_out_with_broken": measure(stored, GALLERIES, config.seed),
    }
    text = json.dumps(report, indent=2)
    write_text(WEIGHTS.with_suffix(".json"), text + "\n")
    print(text)


if __name__ == "__main__":
    main()
