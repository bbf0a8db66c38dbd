"""Pack what the trainings left into the weights that ship: `python -m ebama.training.pack`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ebama.models import MINIATURE, VAE, TextEncoder, UNet
from ebama.weights.loading import MINIATURE_FOLDER
from ebama.weights.saving import save
from ebama.weights.stable_diffusion import StableDiffusion
from ebama.weights.tokenizer import clip_tokenizer

from .loop import STATE, checkpoint
from .train_unet import STAGES, trained_tokens

TABLE = "embeddings.token_embedding.weight"


def assemble(state: Path) -> tuple[StableDiffusion, dict[str, float]]:
    """The averaged networks of a state folder, and for how many seconds and steps they were trained."""
    stored = torch.load(state / "vae_final.pt", weights_only=True)
    stages = {stage.name: checkpoint(state, stage.name) for stage in STAGES}
    vae, unet, text_encoder = VAE(MINIATURE.vae), UNet(MINIATURE.unet), TextEncoder(MINIATURE.text)
    vae.load_state_dict(stored["vae"])
    parts: dict[str, dict[str, torch.Tensor]] = {"unet": {}, "text_encoder": {}}
    for name, weight in stages[STAGES[-1].name]["averaged"].items():
        part, _, rest = name.partition(".")
        parts[part][rest] = weight
    rows = parts["text_encoder"][TABLE]
    table = rows[-1].expand(MINIATURE.text.vocabulary, -1).clone()
    table[torch.tensor(trained_tokens())] = rows[:-1]
    parts["text_encoder"][TABLE] = table
    unet.load_state_dict(parts["unet"])
    text_encoder.load_state_dict(parts["text_encoder"])
    figures = {"vae": stored["seconds"]}
    for name, stage in stages.items():
        figures |= {name: stage["seconds"], f"{name}_steps": stage["step"]}
    return StableDiffusion(unet.eval(), vae.eval(), text_encoder.eval(), clip_tokenizer(), MINIATURE), figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Write unet/, vae/ and text_encoder/ (float16, trimmed token table) and training.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--out", type=Path, default=MINIATURE_FOLDER)
    options = parser.parse_args(arguments)
    sd, figures = assemble(options.state)
    save(sd, options.out, dtype=torch.float16, trim_ids=torch.tensor(trained_tokens()))
    (options.out / "training.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
