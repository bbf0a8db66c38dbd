"""Time and memory of opening full-size checkpoints: `python -m ebama.bench.checkpoints [FOLDER] [--generate]`.

Writes each kind of checkpoint with random weights, 1,066 million of them, into a temporary folder (in FOLDER, 9 GB at
most at a time), opens it in fresh processes and prints a table. With --generate it also draws one picture of 512x512
in one step on the CPU, in float32 and in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ebama.models import SD_V1
from ebama.weights.layouts.compvis import ema_name
from ebama.weights.loading import build_on_meta
from ebama.weights.saving import compvis_weights, save
from ebama.weights.stable_diffusion import StableDiffusion
from ebama.weights.tokenizer import clip_tokenizer

_MIB = 1024
_LIMIT = 1800  # seconds for one picture

# Runs in a process of its own; what is imported beforehand is not counted.
_LOAD = """
import json, sys, time
import torch
from ebama.weights import clip_tokenizer, load
clip_tokenizer()
path, dtype, ema = json.loads(sys.argv[1])
print(flush=True)
sys.stdin.readline()
start = time.perf_counter()
model = load(path, dtype=getattr(torch, dtype), ema=ema)
print(time.perf_counter() - start, flush=True)
sys.stdin.readline()
"""
_GENERATE = "import sys; from ebama.cli import main; sys.exit(main(sys.argv[1:]))"


def _memory(process: int) -> tuple[float, float]:
    """Resident and private (anonymous) memory of a process in MiB; zeros once it is gone. Linux only."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    values = {key: value for key, _, value in (line.partition(":") for line in lines)}
    return tuple(int(values.get(key, "0").split()[0]) / _MIB for key in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


class _Peaks:
    """The most memory that a process has been seen to take, looked at every 5 ms until `done`."""

    def __init__(self, process: int, done: Callable[[], bool]) -> None:
        self.resident, self.private = _memory(process)
        while not done():
            resident, private = _memory(process)
            self.resident, self.private = max(self.resident, resident), max(self.private, private)
            time.sleep(0.005)


def _measure_load(path: Path, dtype: str, ema: bool) -> tuple[float, float, float]:
    """Seconds, peak resident MiB and private MiB over the imports of one `load` in a fresh process."""
    command = [sys.executable, "-c", _LOAD, json.dumps([str(path), dtype, ema])]
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, text=True) as child,
    ):
        assert child.stdin is not None

        def lines() -> list[str]:
            output.seek(0)
            return output.read().split("\n")

        def wait_for(count: int) -> bool:
            return len(lines()) > count or child.poll() is not None

        _Peaks(child.pid, lambda: wait_for(1))
        if child.poll() is not None:
            raise RuntimeError(f"The process that should load {path} ended; see above.")
        _, before = _memory(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        peaks = _Peaks(child.pid, lambda: wait_for(2))
        seconds = float(lines()[1])
        child.stdin.close()
    return seconds, peaks.resident, peaks.private - before


def _measure_picture(path: Path, folder: Path, dtype: str) -> str:
    options = ["--method", "sd", "--steps", "1", "--sampler", "ddim"]
    command = [
        sys.executable,
        "-c",
        _GENERATE,
        "generate",
        "a crown",
        *options,
        "--weights",
        str(path),
        "--dtype",
        dtype,
    ]
    start = time.perf_counter()
    with subprocess.Popen(
        [*command, "--out", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        peaks = _Peaks(child.pid, lambda: child.poll() is not None or time.perf_counter() - start > _LIMIT)
        if child.poll() is None:
            child.kill()
            return f"stopped after {_LIMIT} | {peaks.resident:,.0f} | {peaks.private:,.0f}"
    if child.returncode:
        raise RuntimeError(f"generate in {dtype} failed with exit code {child.returncode}.")
    return f"{time.perf_counter() - start:.1f} | {peaks.resident:,.0f} | {peaks.private:,.0f}"


def random_model() -> StableDiffusion:
    """A full-size model of random weights."""
    generator = torch.Generator().manual_seed(0)
    networks = build_on_meta(SD_V1)
    for network in networks.values():
        weights = {
            name: torch.randn(weight.shape, generator=generator).mul_(0.02)
            for name, weight in network.state_dict().items()
        }
        network.load_state_dict(weights, assign=True)
    return StableDiffusion(**networks, tokenizer=clip_tokenizer(), config=SD_V1)  # type: ignore[arg-type]


def _lightning(weights: dict[str, Tensor], *, ema: bool = False) -> dict[str, object]:
    """What a trainer writes; with `ema`, a second U-Net."""
    prefix = "model.diffusion_model."
    averages = {
        ema_name(key.removeprefix(prefix)): weight.clone()
        for key, weight in weights.items()
        if ema and key.startswith(prefix)
    }
    extras = {"epoch": 1, "global_step": 1, "pytorch-lightning_version": "1.4.2", "callbacks": {}}
    return {**extras, "state_dict": {**weights, **averages}}


def _half(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: weight.half() for key, weight in weights.items()}


def main() -> None:
    """Print the tables of docs/checkpoints.md."""
    parser = argparse.ArgumentParser(prog="python -m ebama.bench.checkpoints", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--generate", action="store_true", help="draw a picture, too (minutes)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    model = random_model()
    weights = compvis_weights(model)
    kinds: list[tuple[str, str, Callable[[Path], object], list[tuple[str, bool]]]] = [
        ("float32", "a.safetensors", lambda p: save_file(weights, p), [("float32", False), ("float16", False)]),
        ("float32 Lightning", "b.ckpt", lambda p: torch.save(_lightning(weights), p), [("float32", False)]),
        ("float16", "c.safetensors", lambda p: save_file(_half(weights), p), [("float16", False), ("float32", False)]),
        ("float32 full EMA", "d.ckpt", lambda p: torch.save(_lightning(weights, ema=True), p), [("float32", True)]),
        ("diffusers", "folder", lambda p: save(model, p), [("float32", False)]),
    ]
    try:
        print("| checkpoint | opened as | first s | warm s | peak resident MiB | private MiB over the imports |")
        print("| --- | --- | --- | --- | --- | --- |")
        for kind, name, write, ways in kinds:
            path = folder / name
            write(path)
            for dtype, ema in ways:
                first, *_ = _measure_load(path, dtype, ema)
                warm, resident, private = min(_measure_load(path, dtype, ema) for _ in range(3))
                opened = f"{dtype}, EMA" if ema else dtype
                print(f"| {kind} `{path.suffix or 'folder'}` | {opened} | {first:.2f} | {warm:.2f} |", end="")
                print(f" {resident:,.0f} | {private:,.0f} |", flush=True)
            if options.generate and name == "folder":
                print("\n| one step of 512x512 | s, whole process | peak resident MiB | peak private MiB |")
                print("| --- | --- | --- | --- |")
                for dtype in ("float32", "bfloat16"):
                    print(f"| {dtype} | {_measure_picture(path, folder / dtype, dtype)} |", flush=True)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
