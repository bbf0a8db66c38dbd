"""Make the miniature again, from its drawings to the files that ship: `python -m ebama.training`.

VAEs, U-Net with token table, and judges are trained one after the other, the small VAE and the U-Net by as many workers
as there are cores; every stage shows its progress, resumes where it was interrupted, and is left out once it is done.
So are judges whose files are there, as they are in a checkout: delete judge.safetensors, clip/ or captioner/ to train
one again.
"""

from __future__ import annotations

import os

from torch.distributed.run import main as torchrun

from ebama.weights.loading import MINIATURE_FOLDER
from ebama.weights.miniature.judge import WEIGHTS

from . import pack, reference, train_captioner, train_clip, train_judge, train_unet
from .vae import train_whole


def main() -> None:
    """Train everything and pack it."""
    parser = train_unet.steps_parser(main.__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    package = __name__.rpartition(".")[0]
    common = ["--standalone", f"--nproc-per-node={options.workers}", "-m"]
    state = ["--state", str(options.state)]
    stages = ["--steps", *map(str, options.steps)]
    if not (options.state / "vae_half_final.pt").is_file():
        torchrun([*common, f"{package}.vae.train_small", *state])
    if not (options.state / "vae_final.pt").is_file():
        train_whole.main(state)
    torchrun([*common, f"{package}.train_unet", *state, *stages])
    for part, training in (("clip", train_clip), ("captioner", train_captioner)):
        if not (MINIATURE_FOLDER / part).is_dir():
            training.main(state)
    if not WEIGHTS.is_file():
        train_judge.main(state)
    pack.main(state)
    reference.main(state)


if __name__ == "__main__":
    main()
