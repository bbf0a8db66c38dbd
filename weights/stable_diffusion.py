"""The parts of one Stable Diffusion model, loaded and ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ebama.models import VAE, Network, StableDiffusionConfig, TextEncoder
from ebama.samplers.schedule import STABLE_DIFFUSION_V1, NoiseSchedule

from .fingerprint import fingerprint
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """The three networks, frozen and in eval mode, with their tokenizer and configuration.

    `unet` may be any `Network`, as in `dataclasses.replace(sd, unet=adapt(...))`. `vocabulary` lists the words that the
    model knows; None where nobody has listed them. `schedule` is the noise schedule that its file stores, or Stable
    Diffusion v1's: a sampler chosen by name follows it.
    """

    unet: Network
    vae: VAE
    text_encoder: TextEncoder
    tokenizer: CLIPTokenizer
    config: StableDiffusionConfig
    vocabulary: Vocabulary | None = None
    schedule: NoiseSchedule = STABLE_DIFFUSION_V1

    def fingerprint(self) -> str:
        """16 hex digits that change when the weights do; see `weights.fingerprint`."""
        networks = (self.unet, self.vae, self.text_encoder)
        return fingerprint(*(network for network in networks if isinstance(network, nn.Module)))

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Contexts [B, 77, width] of B prompts: the last hidden state after the final layer norm.

        Prompts are padded to 77 positions, which the U-Net reads too, and cut there.
        """
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
            raise TypeError(f"encode_text got {prompts!r}; expected a list of strings.")
        if not prompts:
            raise ValueError("encode_text got no prompts; expected at least one.")
        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.config.text.positions,
            return_tensors="pt",
        )["input_ids"]
        encoded: Tensor = self.text_encoder(ids.to(self.text_encoder.final_layer_norm.weight.device))
        return encoded
