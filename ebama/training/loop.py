"""The training loop that the VAE and the U-Net of the miniature share: data parallel, averaged, resumable.

Started under `torchrun` it runs one process for each worker (gloo on the CPU) and averages their gradients; alone it is
one worker.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

STATE = Path.home() / ".cache" / "ebama" / "miniature"
"""Where trainings keep their state unless told otherwise."""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimiser (AdamW) and schedule: linear warm-up, flat to `flat` of all steps, cosine down to `final_lr`.

    `batch` counts samples per worker and step; `ema` is the decay of the averaged weights, applied every 4 steps.
    """

    steps: int
    batch: int
    lr: float = 1e-3
    final_lr: float = 1e-5
    warmup: int = 300
    flat: float = 0.6
    ema: float = 0.996
    seed: int = 0
    save_every: float = 120.0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ValueError(f"steps = {self.steps} and batch = {self.batch} must be positive.")
        if not (0 <= self.flat < 1 and 0 <= self.ema < 1):
            raise ValueError(f"flat = {self.flat} and ema = {self.ema} must lie in [0, 1).")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step."""
        done = step / self.steps
        cosine = 0.5 + 0.5 * math.cos(math.pi * max(0.0, (done - self.flat) / (1 - self.flat)))
        return min(1.0, (step + 1) / self.warmup) * (self.final_lr + (self.lr - self.final_lr) * cosine)


Loss = Callable[[nn.Module, int, int], "tuple[Tensor, dict[str, float]]"]
"""(network, step, worker) -> (loss, figures for the log). All randomness comes from seed, step and worker."""


@dataclass(frozen=True)
class Trained:
    """The averaged network, the samples it saw, and the seconds of training over all resumptions."""

    network: nn.Module
    samples: int
    seconds: float


def train(name: str, network: nn.Module, loss: Loss, config: TrainingConfig, folder: Path) -> Trained | None:
    """Train `network` in place, resuming from `folder/NAME.pt`; the log goes to `folder/NAME.jsonl`.

    Returns the averaged network on worker 0 and None on the others. An interrupted run loses at most `save_every`
    seconds and goes on as if nothing had happened: data depend on seed, step and worker only.
    """
    worker, workers = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if workers > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / f"{name}.pt", folder / f"{name}.jsonl"
    if log.is_file() and not worker:
        os.truncate(log, log.read_bytes().rfind(b"\n") + 1)  # a line that an interruption cut
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01)
    averaged = copy.deepcopy(network).requires_grad_(False)
    start, seconds = 0, 0.0
    if path.is_file():
        state = checkpoint(folder, name)
        start, seconds = state["step"], state["seconds"]
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
    wrapped = DistributedDataParallel(network) if workers > 1 else network
    network.train()
    figures: dict[str, list[float]] = {}
    saved = began = time.monotonic()
    progress = tqdm(range(start, config.steps), name, config.steps, initial=start, disable=worker > 0, mininterval=5)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        value, parts = loss(wrapped, step, worker)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if worker:
            continue
        if step % 4 == 3:
            _average(averaged, network, min(config.ema, (1 + step / 4) / (10 + step / 4)))
        for key, part in {"loss": value.item(), **parts}.items():
            figures.setdefault(key, []).append(part)
        now, last = time.monotonic(), step + 1 == config.steps
        if step % 100 == 99 or last:
            means = {key: sum(values) / len(values) for key, values in figures.items()}
            figures = {}
            row = {"step": step + 1, "samples": (step + 1) * config.batch * workers, "seconds": seconds + now - began}
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({**row, **means}) + "\n")
            progress.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)
        if now - saved > config.save_every or last:
            saved = now
            state = {"step": step + 1, "seconds": seconds + now - began, "network": network.state_dict()}
            state |= {"averaged": averaged.state_dict(), "optimizer": optimizer.state_dict()}
            partial = path.with_suffix(".tmp")
            torch.save(state, partial)
            os.replace(partial, path)
    if workers > 1:
        dist.barrier()  # whoever goes on finds the last checkpoint written
    if worker:
        return None
    return Trained(averaged.eval(), config.steps * config.batch * workers, seconds + time.monotonic() - began)


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    """What a training left: "step", "seconds", and the weights as trained ("network") and as averaged ("averaged")."""
    return dict(torch.load(folder / f"{name}.pt", weights_only=True))


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
