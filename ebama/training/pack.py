"""Pack what the trainings left into the weights that ship: `python -m ebama.training.pack`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ebama.models import MINIATURE, VAE, TextEncoder
from ebama.weights.loading import MINIATURE_FOLDER
from ebama.weights.saving import save
from ebama.weights.stable_diffusion import StableDiffusion
from ebama.weights.tokenizer import clip_tokenizer

from ..output.files import write_text
from .loop import checkpoint, options_parser
from .stages import STAGES
from .train_unet import Denoiser, trained_tokens

TABLE = "embeddings.token_embedding.weight"


def assemble(state: Path) -> tuple[StableDiffusion, dict[str, float]]:
    """The averaged networks of a state folder, and for how many seconds and steps they were trained.

    Of the U-Net's stages the last is needed; earlier ones count where the folder has them.
    """
    stored = torch.load(state / "vae_final.pt", weights_only=True)
    last = checkpoint(state, STAGES[-1].name)
    stages = {stage.name: checkpoint(state, stage.name) for stage in STAGES if (state / f"{stage.name}.pt").is_file()}
    vae, denoiser, text_encoder = VAE(MINIATURE.vae), Denoiser(), TextEncoder(MINIATURE.text)
    vae.load_state_dict(stored["vae"])
    denoiser.load_state_dict(last["averaged"])
    weights = denoiser.text_encoder.state_dict()
    *rows, unknown = weights[TABLE]
    weights[TABLE] = unknown.expand(MINIATURE.text.vocabulary, -1).clone()
    weights[TABLE][list(trained_tokens())] = torch.stack(rows)
    text_encoder.load_state_dict(weights)
    figures = {"vae": stored["seconds"]}
    for name, stage in stages.items():
        figures |= {name: stage["seconds"], f"{name}_steps": stage["step"]}
    return StableDiffusion(denoiser.unet.eval(), vae.eval(), text_encoder.eval(), clip_tokenizer(), MINIATURE), figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Write unet/, vae/ and text_encoder/ (float16, trimmed token table) and training.json."""
    parser = options_parser(main.__doc__)
    parser.add_argument("--out", type=Path, default=MINIATURE_FOLDER)
    options = parser.parse_args(arguments)
    sd, figures = assemble(options.state)
    save(sd, options.out, dtype=torch.float16, trim_ids=torch.tensor(trained_tokens()))
    write_text(options.out / "training.json", json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
