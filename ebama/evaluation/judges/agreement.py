"""How far the miniature's judges agree with a person: `python -m ebama.evaluation.judges.agreement FOLDER`.

labels.jsonl beside the miniature's weights lists 300 pictures by what makes them, and says of each object that the
prompt asks for whether it is "whole", "broken" (half of it, a ghost, two in one) or "absent", whether its colour is
right (null where the prompt names none), and how many things nobody asked for. A person said so from enlarged pictures
in random order, without the methods' names and before a judge had read them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ebama.weights import load
from ebama.weights.loading import MINIATURE_FOLDER
from ebama.weights.miniature.judge import Reading, load_judge, satisfied

from ...output.png import is_whole, save_png
from ...pipeline import Pipeline
from ...runtime.progress import Bar
from .. import jsonl
from ..report.statistics import Estimate, estimate
from .scorer import as_pixels, asked_for
from .second import stated
from .vision_language import EMBEDDED, Captioner

Label = Mapping[str, Any]
LABELS = MINIATURE_FOLDER / "labels.jsonl"
_RECIPE = ("method", "sampler", "steps", "prompt", "seed")
_OTHER = 4  # bits of 64 by which the outlines of one picture may differ from one machine to another


def read_labels() -> Sequence[Label]:
    """The lines of labels.jsonl."""
    return jsonl.read(LABELS, lambda line: None)


def held_out(labels: Sequence[Label]) -> list[bool]:
    """Which pictures are of the half of the prompts that the judge has not seen: every second one by the alphabet."""
    prompts = sorted({label["prompt"] for label in labels})
    return [label["prompt"] in prompts[1::2] for label in labels]


def make(labels: Sequence[Label], folder: Path) -> list[Image.Image]:
    """The labelled pictures; those that the folder lacks are made first, in about ten minutes on two cores."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03}.png" for i in range(len(labels))]
    pipeline = Pipeline(load())
    for label, path in Bar(zip(labels, paths, strict=True), total=len(labels), unit="picture"):
        if not is_whole(path):
            method, sampler, steps, prompt, seed = (label[key] for key in _RECIPE)
            result = pipeline(prompt, seeds=[seed], method=method, sampler=sampler, steps=steps, progress=False)
            assert result.images is not None
            save_png(result.images[0], path, result.recipes[0].to_metadata())
    return [Image.open(path).convert("RGB") for path in paths]


def outline(image: Image.Image) -> str:
    """Which of 8 x 8 parts of a picture are no background: 64 bits in hex, nearly the same for nearly the same."""
    parts = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=int)
    return np.packbits(np.abs(parts - np.median(parts, axis=(0, 1))).max(axis=-1) > 12).tobytes().hex()


def is_same(label: Label, image: Image.Image) -> bool:
    """Whether this is still the picture that was labelled: rounding can grow into another one."""
    return (int(label["outline"], 16) ^ int(outline(image), 16)).bit_count() <= _OTHER


def said(label: Label) -> tuple[bool, bool]:
    """Whether a person saw all objects whole, and all of them in their colours besides."""
    present = all(state == "whole" for state in label["objects"])
    return present, present and False not in label["colours"]


def verdicts(readings: Sequence[Reading], labels: Sequence[Label]) -> list[tuple[bool, bool]]:
    """The same by a judge."""
    return [satisfied(reading, asked_for(label["prompt"])) for reading, label in zip(readings, labels, strict=True)]


def agreement(labels: Sequence[Label], ours: Sequence[tuple[bool, bool]]) -> dict[str, Estimate]:
    """Shares of pictures with the person's verdict, of presence and of binding; of the pictures that the person refuses
    the share that is accepted (`deceived`), of those that the person accepts the share that is refused (`too strict`).
    """

    def share(hit: Callable[[bool, bool], bool], column: int, among: Sequence[bool] = (False, True)) -> Estimate:
        values: dict[tuple[str, object], float] = {
            (str(label["prompt"]), at): float(hit(said(label)[column], verdict[column]))
            for at, (label, verdict) in enumerate(zip(labels, ours, strict=True))
            if said(label)[column] in among
        }
        return estimate(values)

    return {
        "presence": share(lambda person, judge: person == judge, 0),
        "binding": share(lambda person, judge: person == judge, 1),
        "deceived": share(lambda person, judge: judge, 1, [False]),
        "too strict": share(lambda person, judge: not judge, 1, [True]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the labelled pictures and print, as JSON, how often both judges agree with the labels of those held out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures are, or are to be made")
    labels = read_labels()
    images = make(labels, parser.parse_args(arguments).folder)
    same = [is_same(label, image) for label, image in zip(labels, images, strict=True)]
    chosen = [i for i, is_new in enumerate(held_out(labels)) if is_new and same[i]]
    images, labels = [images[i] for i in chosen], [labels[i] for i in chosen]
    readings = {
        "judge": load_judge().read(as_pixels(images)),
        "captioner": [stated(caption) for caption in Captioner.open(EMBEDDED).captions(images)],
    }
    shown = {
        name: {key: value.shown(share=True) for key, value in agreement(labels, verdicts(read, labels)).items()}
        for name, read in readings.items()
    }
    print(json.dumps({"pictures": len(labels), "of another picture": same.count(False), **shown}, indent=1))


if __name__ == "__main__":
    main()
