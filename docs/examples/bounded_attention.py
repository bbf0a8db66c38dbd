"""Bounded attention: scores edited before softmax, so that the words of an object are only heard inside its box."""

import sys
from dataclasses import dataclass

import torch

from ebama import Pipeline
from ebama.guidance import Conditioning, Controls, Method, Needs, Task
from ebama.models import AttentionCall, Control
from ebama.trace.contact_sheet import contact_sheet
from ebama.weights import load


@dataclass(frozen=True)
class Bounded(Method):
    name, needs = "bounded", Needs(groups=True)
    boxes: tuple = ((0, 0.2, 0.5, 0.8), (0.5, 0.2, 1, 0.8))  # left, top, right, bottom for each object

    def control(self, task: Task, conditioning: Conditioning) -> Controls:
        class Bounds(Control):
            def scores(_, call: AttentionCall, scores: torch.Tensor) -> torch.Tensor:  # [row, head, query, key]
                (h, w), scores = call.site.resolution, scores.clone()
                y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
                for row, groups in zip(conditioning.prompt_rows, task.groups, strict=True):
                    for (left, top, right, bottom), group in zip(self.boxes, groups, strict=True):
                        outside = ((x < left) | (x > right) | (y < top) | (y > bottom)) & (call.site.kind == "cross")
                        scores[row, :, outside.flatten().nonzero(), sum(group.modifiers, group.object)] = -torch.inf
                return scores

        return lambda i: Bounds()


pipeline, steps = Pipeline(load()), int(sys.argv[1]) if len(sys.argv) > 1 else 50
systems = {"sd": "sd", "a box for each object": Bounded()}
made = {name: pipeline("a cat and a red car", seeds=range(4), method=m, steps=steps) for name, m in systems.items()}
contact_sheet([(name, result.images) for name, result in made.items()]).save("bounded_attention.png")
