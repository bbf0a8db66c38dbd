"""The training loop that the miniature's networks share: data parallel, averaged, resumable.

Started under `torchrun` it runs one process for each worker (gloo on the CPU) and averages their gradients; alone it is
one worker.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..evaluation import jsonl
from ..output.files import written_whole

STATE = Path.home() / ".cache" / "ebama" / "miniature"
"""Where trainings keep their state unless told otherwise."""


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a program that works on a training's state."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--state", type=Path, default=STATE, help="where trainings keep their state (default: %(default)s)"
    )
    return parser


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
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    averaged = copy.deepcopy(network).requires_grad_(False)
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / f"{name}.pt", folder / f"{name}.jsonl"
    if not worker:
        jsonl.drop_half_line(log)
    resumable: dict[str, Any] = {"network": network, "averaged": averaged, "optimizer": optimizer}
    start, began = 0, time.monotonic()
    if path.is_file():
        state = checkpoint(folder, name)
        start, began = state["step"], began - state["seconds"]
        for key, part in resumable.items():
            part.load_state_dict(state[key])
        for group in optimizer.param_groups:
            group["fused"] = True  # as the faster step, whatever the state was made with
    wrapped = DistributedDataParallel(network) if workers > 1 else network
    network.train()
    figures: dict[str, list[float]] = defaultdict(list)
    saved = time.monotonic() - began
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
        done, seconds, last = step + 1, time.monotonic() - began, step + 1 == config.steps
        if done % 4 == 0:
            _average(averaged, network, min(config.ema, (1 + step / 4) / (10 + step / 4)))
        for key, part in {"loss": value.item(), **parts}.items():
            figures[key].append(part)
        if done % 100 == 0 or last:
            means = {key: sum(values) / len(values) for key, values in figures.items()}
            figures.clear()
            samples = done * config.batch * workers
            jsonl.append(log, [{"step": done, "samples": samples, "seconds": seconds, **means}])
            progress.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)
        if seconds - saved > config.save_every or last:
            saved = seconds
            states = {key: part.state_dict() for key, part in resumable.items()}
            save({"step": done, "seconds": seconds, **states}, path)
    if workers > 1:
        dist.barrier()  # whoever goes on finds the last checkpoint written
    return None if worker else Trained(averaged.eval(), config.steps * config.batch * workers, time.monotonic() - began)


def save(values: dict[str, Any], path: Path) -> None:
    """Write a file for `torch.load`, whole or not at all."""
    with written_whole(path) as partial:
        torch.save(values, partial)


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    """What a training left: "step", "seconds", and the weights as trained ("network") and as averaged ("averaged").
    ValueError for a file that is damaged."""
    path = folder / f"{name}.pt"
    try:
        return dict(torch.load(path, weights_only=True))
    except OSError:
        raise
    except Exception as error:  # whatever torch's readers raise: RuntimeError, UnpicklingError, EOFError, ...
        raise ValueError(f"{path} is damaged; copy it again, or delete it to begin anew.") from error


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
