"""Time and memory of opening full-size checkpoints: `python -m ebama.bench.checkpoints [FOLDER] [--generate]`.

Writes each kind of checkpoint with random weights, 1,066 million of them, into a temporary folder (in FOLDER, 9 GB at
most at a time), opens it in fresh processes and prints the tables of docs/checkpoints.md. With --generate it also draws
one picture of 512x512 in one step on the CPU, in float32 and in bfloat16.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ebama.models import SD_V1
from ebama.weights import load
from ebama.weights.layouts.compvis import ema_name
from ebama.weights.networks import build_on_meta
from ebama.weights.saving import compvis_weights, save
from ebama.weights.stable_diffusion import StableDiffusion
from ebama.weights.tokenizer import clip_tokenizer

from ..pipeline import Pipeline
from ..runtime.allocator import keep_freed_memory
from ..runtime.stops import raised_stops
from .processes import Child

_LIMIT = 1800  # seconds for one picture


def _load(pipe: Connection, path: Path, dtype: str, ema: bool) -> None:
    clip_tokenizer()  # what it imports is not counted
    pipe.send("ready")
    pipe.recv()
    start = time.perf_counter()
    model = load(path, dtype=getattr(torch, dtype), ema=ema)
    pipe.send(time.perf_counter() - start)
    del model  # held until the answer is sent


def _generate(pipe: Connection, path: Path, dtype: str) -> None:
    keep_freed_memory()  # as the command line does
    pipeline = Pipeline(load(path, dtype=getattr(torch, dtype)))
    pipeline("a crown", method="sd", steps=1, sampler="ddim", progress=False)
    pipe.send("done")


def _measure_load(path: Path, dtype: str, ema: bool) -> tuple[float, float, float]:
    """Seconds, peak resident MiB and private MiB over the imports of one `load` in a fresh process."""
    with Child(f"loading {path.name}", _load, path, dtype, ema) as child:
        child.answer()
        _, before = child.memory()
        child.send("go")
        resident, private = child.peak_until_answer()
        return child.answer(), resident, private - before


def _measure_picture(path: Path, dtype: str) -> str:
    start = time.perf_counter()
    with Child(f"generate in {dtype}", _generate, path, dtype) as child:
        resident, private = child.peak_until_answer(_LIMIT)
        seconds = time.perf_counter() - start
        if seconds < _LIMIT:
            child.answer()
    taken = f"{seconds:.1f}" if seconds < _LIMIT else f"stopped after {_LIMIT}"
    return f"{taken} | {resident:,.0f} | {private:,.0f}"


def random_model() -> StableDiffusion:
    """A full-size model of random weights."""
    generator = torch.Generator().manual_seed(0)
    networks = build_on_meta(SD_V1)
    for network in networks.values():
        shapes = {name: weight.shape for name, weight in network.state_dict().items()}
        weights = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        network.load_state_dict(weights, assign=True)
    return StableDiffusion(**networks, tokenizer=clip_tokenizer(), config=SD_V1)  # type: ignore[arg-type]


def _lightning(weights: dict[str, Tensor], *, ema: bool = False) -> dict[str, Any]:
    """The dictionary that a trainer writes; with `ema`, a second U-Net."""
    prefix = "model.diffusion_model."
    unet = {key.removeprefix(prefix): weight for key, weight in weights.items() if ema and key.startswith(prefix)}
    averages = {ema_name(key): weight.clone() for key, weight in unet.items()}
    extras = {"epoch": 1, "global_step": 1, "pytorch-lightning_version": "1.4.2", "callbacks": {}}
    return {**extras, "state_dict": {**weights, **averages}}


def _half(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: weight.half() for key, weight in weights.items()}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m ebama.bench.checkpoints", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--generate", action="store_true", help="draw a picture, too (minutes)")
    options = parser.parse_args()
    model = random_model()
    weights = compvis_weights(model)
    kinds: list[tuple[str, str, Callable[[Path], object], list[tuple[str, bool]]]] = [
        ("float32", "a.safetensors", lambda p: save_file(weights, p), [("float32", False), ("float16", False)]),
        ("float32 Lightning", "b.ckpt", lambda p: torch.save(_lightning(weights), p), [("float32", False)]),
        ("float16", "c.safetensors", lambda p: save_file(_half(weights), p), [("float16", False), ("float32", False)]),
        ("float32 full EMA", "d.ckpt", lambda p: torch.save(_lightning(weights, ema=True), p), [("float32", True)]),
        ("diffusers", "folder", lambda p: save(model, p), [("float32", False)]),
    ]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print("| checkpoint | opened as | first s | warm s | peak resident MiB | private MiB over the imports |")
        print("| --- | --- | --- | --- | --- | --- |")
        for kind, name, write, ways in kinds:
            path = Path(folder, name)
            write(path)
            for dtype, ema in ways:
                first, *_ = _measure_load(path, dtype, ema)
                warm, resident, private = min(_measure_load(path, dtype, ema) for _ in range(3))
                opened = f"{dtype}, EMA" if ema else dtype
                print(f"| {kind} `{path.suffix or 'folder'}` | {opened} | {first:.2f} | {warm:.2f} |", end="")
                print(f" {resident:,.0f} | {private:,.0f} |", flush=True)
            if path.is_file():
                path.unlink()
        if options.generate:
            print("\n| one step of 512x512 | s, whole process | peak resident MiB | peak private MiB |")
            print("| --- | --- | --- | --- |")
            for dtype in ("float32", "bfloat16"):
                print(f"| {dtype} | {_measure_picture(path, dtype)} |", flush=True)


if __name__ == "__main__":
    with raised_stops():
        main()
