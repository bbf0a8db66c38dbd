"""Train the judge on clean scenes and measure it: ``python -m ebama.training.train_judge``.

One thread and about an hour. The pictures are softened and disturbed as decoded ones are. Every step's scenes come
from the seed and the step alone, so an interrupted training goes on from its last checkpoint exactly where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ebama.weights.files.tensors import write_tensors
from ebama.weights.miniature.judge import WEIGHTS, Judge, load_judge
from ebama.weights.miniature.world import COLOURS, NOUNS, OBJECTS

from ..output.files import write_text, written_whole
from .drawing.scenes import HARDER, Composer, Scene, SceneConfig
from .loop import STATE, save

BATCH = 32
POOL = replace(HARDER, counts=(0.2, 0.5, 0.3))  # more objects a picture teach more
HELD_OUT_SCENES = 4000
HELD_OUT = 1 << 20  # the number of their first step, which no training reaches
_COLOURS = tuple(COLOURS)


def pictures(scenes: list[Scene]) -> Tensor:
    """The scenes' pictures as [B, 3, 64, 64] in [0, 1]."""
    return torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).float() / 255


def truth(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """What is drawn: presence [B, 24], 0 or 1; colour index [B, 12], -100 (ignored) where no colour is named."""
    presence = torch.zeros(len(scenes), len(NOUNS))
    colour = torch.full((len(scenes), len(OBJECTS)), -100)
    for row, scene in enumerate(scenes):
        for drawn in scene.drawn:
            presence[row, NOUNS.index(drawn.noun)] = 1
            if drawn.colour is not None:
                colour[row, OBJECTS.index(drawn.noun)] = _COLOURS.index(drawn.colour)
    return presence, colour


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


def draw(composer: Composer, seed: int, step: int, count: int) -> tuple[list[Scene], torch.Generator]:
    """The scenes of a step and a generator for their disturbances; both depend on the seed and the step alone."""
    rng = np.random.default_rng([seed, step])
    return [composer.compose(rng) for _ in range(count)], torch.Generator().manual_seed(seed * 2**32 + step)


def train(steps: int, seed: int, checkpoint: Path, peak: float = 3e-3) -> tuple[Judge, float]:
    """Train for ``steps`` batches, going on from ``checkpoint`` if it exists: the judge and the seconds it took."""
    torch.manual_seed(seed)
    judge = Judge().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(judge.parameters(), lr=peak, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.1)
    start, seconds = 0, 0.0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        start, seconds = state["step"], state["seconds"]
        judge.load_state_dict(state["judge"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    composer, began = Composer(POOL), time.perf_counter()
    progress = tqdm(range(start, steps), initial=start, total=steps, desc="judge", mininterval=5)
    for step in progress:
        scenes, generator = draw(composer, seed, step, BATCH)
        presence, colour = truth(scenes)
        seen, painted = judge(soften(pictures(scenes), generator))
        loss = F.binary_cross_entropy_with_logits(seen, presence) * len(NOUNS)  # summed over nouns
        loss = loss + F.cross_entropy(painted.flatten(0, 1), colour.flatten())
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            state = {"step": step + 1, "seconds": seconds + time.perf_counter() - began, "judge": judge.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            save(state, checkpoint)
    return judge.eval(), seconds + time.perf_counter() - began


def measure(judge: Judge, config: SceneConfig, seed: int, *, softened: bool = False) -> dict[str, float]:
    """Measure on ``HELD_OUT_SCENES`` scenes that no training saw.

    ``recall`` and ``precision`` of nouns, ``colour`` = share of right colours among the coloured objects seen,
    ``all_right`` = share of pictures read without any mistake.
    """
    composer = Composer(config)
    counts = []
    for step in range(HELD_OUT, HELD_OUT + HELD_OUT_SCENES // 100):
        scenes, generator = draw(composer, seed, step, 100)
        images = pictures(scenes)
        for scene, reading in zip(scenes, judge.read(soften(images, generator) if softened else images), strict=True):
            nouns = {d.noun for d in scene.drawn}
            colours = {d.noun: d.colour for d in scene.drawn if d.colour and d.noun in reading.present}
            matches = sum(reading.colours[noun] == colour for noun, colour in colours.items())
            perfect = nouns == reading.present and matches == len(colours)
            hits = len(nouns & reading.present)
            counts.append((hits, len(nouns), len(reading.present), matches, len(colours), perfect))
    hits, drawn, read, right, coloured, perfect = np.sum(counts, axis=0).tolist()
    shares = {"recall": hits / drawn, "precision": hits / read, "colour": right / coloured}
    return {name: round(share, 4) for name, share in (shares | {"all_right": perfect / len(counts)}).items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, store judge.safetensors (float16) and judge.json with what the stored weights reach on held-out scenes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=STATE / "judge.pt", help="resumed from if it exists")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    judge, seconds = train(options.steps, options.seed, options.checkpoint)
    with written_whole(WEIGHTS) as partial:
        write_tensors(partial, {key: v.half() if v.is_floating_point() else v for key, v in judge.state_dict().items()})
    stored = load_judge()
    report = {
        "training": {"steps": options.steps, "batch": BATCH, "seed": options.seed, "seconds": round(seconds)},
        "parameters": sum(p.numel() for p in stored.parameters()),
        "held_out_scenes": HELD_OUT_SCENES,
        "held_out": measure(stored, HARDER, options.seed),
        "held_out_softened": measure(stored, HARDER, options.seed, softened=True),
    }
    text = json.dumps(report, indent=2)
    write_text(WEIGHTS.with_suffix(".json"), text + "\n")
    print(text)


if __name__ == "__main__":
    main()
