"""What a trace costs in memory: `python -m ebama.bench.traces [--full]`.

Each choice of `TraceOptions` runs one step of plain Stable Diffusion, of the miniature or of a full-size model of
random weights. Bytes are counted: what a call leaves, and the most that tensors hold during a run above one without a
trace.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ebama.weights import StableDiffusion, load

from ..pipeline import Pipeline
from ..runtime.usage import peak
from ..trace import Trace, TraceOptions
from .checkpoints import random_model

PROMPT = "a purple crown and a blue suitcase"
CHOICES: dict[str, dict[str, Any]] = {
    "the defaults: maps that guide, every word": {},
    "(a) every cross-attention layer, every word": {"resolution": "all", "by_site": True},
    "(b) one word, its probabilities at every resolution": {"resolution": "all", "words": ["crown"], "scores": False},
    "(b) and the queries of every cross-attention layer": {
        "resolution": "all", "words": ["crown"], "scores": False, "queries": True
    },
    "(c) as (a), each call in a file": {"resolution": "all", "by_site": True, "folder": "files"},
}  # fmt: skip


def measure(sd: StableDiffusion) -> dict[str, tuple[int, int, int]]:
    """Bytes of each choice: of a call's tensors, of those that stay in memory, and at most in a run of one call."""
    known = [
        weight for part in (sd.unet, sd.text_encoder) if isinstance(part, nn.Module) for weight in part.parameters()
    ]
    pipeline, kept = Pipeline(sd), list[Trace | None]()

    def run(trace: TraceOptions | None) -> None:
        result = pipeline(
            PROMPT,
            method="sd",
            steps=1,
            sampler="ddim",
            output="latent",
            parser="rules",
            trace=trace or False,
            progress=False,
        )
        kept.append(result.trace)

    plain = peak(lambda: run(None), known)
    costs = {}
    for name, choice in CHOICES.items():
        with tempfile.TemporaryDirectory() as folder:
            options = {**choice, "folder": Path(folder) / "files"} if "folder" in choice else choice
            most = peak(partial(run, TraceOptions(**options)), known) - plain
            trace = kept.pop()
            assert trace is not None
            size = sum(values.nbytes for values in trace.kept.values())
            costs[name] = size, 0 if "folder" in choice else size, most
    costs["`unet(..., record=)` of every cross-attention layer"] = 0, 0, peak(lambda: _records(sd), known) - plain
    return costs


@torch.no_grad()
def _records(sd: StableDiffusion) -> None:
    """One call with both rows of guidance, whose records are held to its end."""
    side, context = sd.config.sample_size, sd.condition(["", PROMPT])
    z = context.new_zeros(2, sd.config.unet.in_channels, side, side)
    sd.unet(z, 500, context, record=[site for site in sd.unet.sites(z.shape) if site.kind == "cross"])


def main() -> None:
    """Print the table of docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a full-size model of random weights: minutes, 8 GB")
    sd = random_model() if parser.parse_args().full else load()
    print("| trace | KiB a call | MiB in memory after 51 calls | MiB at most in a call |\n| --- | ---: | ---: | ---: |")
    for name, (size, stays, most) in measure(sd).items():
        left = f"{size / 2**10:,.1f} | {51 * stays / 2**20:,.1f}" if size else " | "
        print(f"| {name} | {left} | {most / 2**20:,.1f} |")


if __name__ == "__main__":
    main()
