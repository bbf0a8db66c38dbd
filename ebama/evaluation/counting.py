"""Count how often a method draws what a prompt asks for, on the miniature, as its judge sees it.

`python -m ebama.evaluation.counting --out counts.jsonl` runs the Attend-and-Excite prompts at two seeds for sd and
ebama and prints a table. Every picture's verdict is a line of the file; started again, it goes on where it stopped.
With `--shard 0/2` and `--shard 1/2` two processes share the work, each with its own file; `--table FILES` puts them
together.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ebama.weights import load
from ebama.weights.miniature.judge import load_judge, satisfied
from ebama.weights.miniature.world import ANIMALS, COLOURS, OBJECTS, WORN, Named, caption

from .. import methods
from ..pipeline import Pipeline
from .benchmarks import ane_objects, load_ane

SETS = ("animals", "animals_objects", "objects")


def tuning_prompts(count: int, seed: int = 0) -> dict[str, list[str]]:
    """`count` prompts for each set of the benchmark, of its shapes but not among its prompts: for choosing options."""
    taken = {prompt for prompts in load_ane().values() for prompt in prompts}
    rng = random.Random(seed)
    found: dict[str, list[str]] = {name: [] for name in SETS}

    def coloured() -> Named:
        return rng.choice(OBJECTS), rng.choice(tuple(COLOURS))

    def animal() -> Named:
        return rng.choice(ANIMALS), None

    for name, prompts in found.items():
        while len(prompts) < count:
            first = coloured() if name == "objects" else animal()
            second = animal() if name == "animals" else coloured()
            if name == "animals_objects" and rng.random() < 0.25:
                second = rng.choice(WORN), None
            prompt = caption([first, second])
            if first[0] != second[0] and prompt not in taken:
                taken.add(prompt)
                prompts.append(prompt)
    return found


def count(
    prompts: dict[str, list[str]],
    systems: dict[str, methods.Method],
    seeds: Sequence[int],
    out: Path,
    *,
    batch_prompts: int = 4,
) -> None:
    """Append one JSON line for each (system, prompt, seed) that `out` does not hold yet: present and bound, or not."""
    done = {(row["system"], row["prompt"], row["seed"]) for row in _rows([out])} if out.is_file() else set()
    jobs = [
        (system, name, prompt)
        for system in systems
        for name, group in prompts.items()
        for prompt in group
        if any((system, prompt, seed) not in done for seed in seeds)
    ]
    pipeline, judge = Pipeline(load()), load_judge()
    with out.open("a", encoding="utf-8") as file, tqdm(total=len(jobs), desc="prompts", mininterval=5) as bar:
        while jobs:
            system = jobs[0][0]
            batch = [job for job in jobs[:batch_prompts] if job[0] == system]
            del jobs[: len(batch)]
            result = pipeline(
                [prompt for _, _, prompt in batch],
                seeds=seeds,
                method=systems[system],
                progress=False,
                batch_size=len(batch) * len(seeds),
                parser="rules",
            )
            assert result.images is not None
            images = torch.from_numpy(np.stack([np.asarray(image) for image in result.images]))
            readings = judge.read(images.permute(0, 3, 1, 2).float() / 255)
            names = [(name, prompt, seed) for _, name, prompt in batch for seed in seeds]
            for (name, prompt, seed), reading in zip(names, readings, strict=True):
                present, bound = satisfied(reading, ane_objects(prompt))
                row = {
                    "system": system,
                    "set": name,
                    "prompt": prompt,
                    "seed": seed,
                    "present": present,
                    "bound": bound,
                }
                file.write(json.dumps(row) + "\n")
            file.flush()
            bar.update(len(batch))


def table(files: Sequence[Path]) -> str:
    """Markdown: per system, share of pictures (%) with all objects present / each in its colour, by set."""
    rows = _rows(files)
    systems = list(dict.fromkeys(row["system"] for row in rows))
    lines = ["| method | all | " + " | ".join(SETS) + " | pictures |", "|---|---|---|---|---|---|"]
    for system in systems:
        mine = [row for row in rows if row["system"] == system]
        cells = [_cell(mine), *(_cell([row for row in mine if row["set"] == name]) for name in SETS)]
        lines.append(f"| {system} | {' | '.join(cells)} | {len(mine)} |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    return " / ".join(f"{100 * sum(row[key] for row in rows) / max(len(rows), 1):.1f}" for key in ("present", "bound"))


def _rows(files: Sequence[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", nargs="+", default=["sd", "ebama"], metavar="NAME[:OPTION=VALUE,...]")
    parser.add_argument("--seeds", type=int, default=2, help="seeds 0, 1, ... for each prompt")
    parser.add_argument("--tuning", type=int, metavar="N", help="N prompts a set outside the benchmark, instead of it")
    parser.add_argument("--shard", default="0/1", metavar="I/N")
    parser.add_argument("--out", type=Path, default=Path("counts.jsonl"))
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="only print the table of these files")
    options = parser.parse_args()
    if options.table:
        print(table(options.table))
        return
    shard, shards = (int(number) for number in options.shard.split("/"))
    prompts = load_ane() if options.tuning is None else tuning_prompts(options.tuning)
    prompts = {name: group[shard::shards] for name, group in prompts.items()}
    systems = {}
    for system in options.systems:
        name, _, settings = system.partition(":")
        pairs = [setting.split("=") for setting in settings.split(",") if setting]
        systems[system] = methods.get(name, **{key: json.loads(value) for key, value in pairs})
    torch.set_num_threads(1)
    count(prompts, systems, list(range(options.seeds)), options.out)
    print(table([options.out]))


if __name__ == "__main__":
    main()
