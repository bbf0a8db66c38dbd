"""Store what pictures are compared with to say how natural they look: `python -m ebama.training.reference`.

True scenes of the U-Net's world, as the VAE that ships gives them back: what guidance and sampling spoil is then told
apart from what the decoder does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from ebama.weights import load
from ebama.weights.files.tensors import write_tensors
from ebama.weights.miniature.judge import REFERENCE, load_judge

from ..evaluation.judges.naturalness import mean_distance
from ..evaluation.judges.scorer import as_pixels
from ..output.files import written_whole
from ..pipeline import Pipeline
from .drawing.scenes import TRAINING, scenes
from .loop import options_parser

SCENES, HELD_OUT = 600, 200


def main(arguments: Sequence[str] | None = None) -> None:
    """Write what the judge sees of true things, and the distance to these that other true things have."""
    options_parser(main.__doc__).parse_args(arguments)
    torch.set_num_threads(1)
    true = scenes(replace(TRAINING, neglect=0.0, miscolour=0.0, counts=(0.0, 1.0, 0.0)), seed=31)
    pipeline, judge = Pipeline(load()), load_judge()

    def things(count: int) -> Tensor:
        images = [Image.fromarray(next(true).image) for _ in range(count)]
        return torch.cat(judge.describe(as_pixels(pipeline.decode(pipeline.encode(images))))).half()

    reference = things(SCENES)
    unit = mean_distance(things(HELD_OUT).float(), reference.float())
    with written_whole(REFERENCE) as partial:
        write_tensors(partial, {"things": reference, "unit": torch.tensor(unit)})


if __name__ == "__main__":
    main()
