"""Store what pictures are compared with to say how natural they look: `python -m ebama.training.reference`.

True scenes of the U-Net's world, as the VAE that ships gives them back: what guidance and sampling spoil is then told
apart from what the decoder does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ebama.weights import load
from ebama.weights.files.tensors import write_tensors
from ebama.weights.miniature.judge import REFERENCE, load_judge

from ..evaluation.judges.naturalness import mean_distance
from ..output.files import written_whole
from .drawing.scenes import TRAINING, scenes
from .loop import options_parser
from .train_judge import pictures

SCENES, HELD_OUT = 600, 200


def main(arguments: Sequence[str] | None = None) -> None:
    """Write what the judge sees of true things, and the distance to these that other true things have."""
    options_parser(main.__doc__).parse_args(arguments)
    torch.set_num_threads(1)
    true = scenes(replace(TRAINING, neglect=0.0, miscolour=0.0, counts=(0.0, 1.0, 0.0)), seed=31)
    vae, judge = load().vae, load_judge()

    @torch.no_grad()
    def things(count: int) -> Tensor:
        images = pictures([next(true) for _ in range(count)])
        decoded = torch.cat([vae.decode(vae.encode(part * 2 - 1).mean) for part in images.split(50)])
        return torch.cat(judge.describe((decoded / 2 + 0.5).clamp(0, 1))).half()

    reference = things(SCENES)
    unit = mean_distance(things(HELD_OUT).float(), reference.float())
    with written_whole(REFERENCE) as partial:
        write_tensors(partial, {"things": reference, "unit": torch.tensor(unit)})


if __name__ == "__main__":
    main()
