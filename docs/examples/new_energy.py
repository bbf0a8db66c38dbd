"""A new energy and the guide that it becomes: the prompt's first object to the left, its second to the right."""

import sys
from dataclasses import dataclass
from typing import ClassVar

import torch

from ebama import Pipeline
from ebama.guidance import Energy, GradientMethod, Needs, Task
from ebama.models import AttentionRecords
from ebama.trace.contact_sheet import contact_sheet
from ebama.weights import load


@dataclass(frozen=True)
class SideBySide(GradientMethod):  # it finds the sites, takes the gradient and steps; only the energy is ours
    name: ClassVar[str] = "side-by-side"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16", gradient=True)
    step_size: float = 10.0
    guided_steps: int | None = 25

    def energy(self, task: Task) -> Energy:
        def energy(records: AttentionRecords, samples: list[int], i: int) -> torch.Tensor:
            maps, losses = records.mean_probabilities(), []  # [sample, h, w, key]
            x = torch.linspace(-1, 1, maps.shape[2])
            for sample, columns in zip(samples, maps, strict=True):
                left, right = (columns[..., g.object].mean(-1) for g in task.groups[sample])
                losses.append((left / left.sum() * x).sum() - (right / right.sum() * x).sum())
            return torch.stack(losses)

        return energy


pipeline, steps = Pipeline(load()), int(sys.argv[1]) if len(sys.argv) > 1 else 50
systems = {"sd": "sd", "side by side": SideBySide()}
made = {name: pipeline("a cat and a red car", seeds=range(4), method=m, steps=steps) for name, m in systems.items()}
contact_sheet([(name, result.images) for name, result in made.items()]).save("new_energy.png")
