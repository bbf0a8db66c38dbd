"""The CLIP text encoder: transformers' implementation behind a class that takes ids and returns the conditioning."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from .config import TextConfig


class TextEncoder(CLIPTextModel):
    """CLIP's text transformer, ids [B, n] -> last hidden state after the final layer norm, [B, n, width].

    No padding mask is used: Stable Diffusion v1 was trained to read the padding positions too.
    """

    def __init__(self, config: TextConfig | None = None) -> None:
        config = config or TextConfig()
        super().__init__(
            CLIPTextConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                intermediate_size=config.mlp_width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.positions,
                hidden_act=config.activation,
                layer_norm_eps=1e-5,
            )
        )
        self.text_config = config
        # No file holds this buffer, so one made on the meta device would stay there and read as garbage.
        positions = torch.arange(config.positions, device="cpu")[None]
        self.embeddings.register_buffer("position_ids", positions, persistent=False)
        self.train(False)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token ids [B, n], n at most `positions`."""
        return super().forward(input_ids=ids).last_hidden_state  # type: ignore[no-any-return]
