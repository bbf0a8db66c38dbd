"""Frozen, validated descriptions of the three networks, with the presets SD_V1 and MINIATURE."""

from __future__ import annotations

from dataclasses import dataclass, field


def _positive(owner: str, **values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{owner}.{name} is {value!r}; expected a positive integer.")


def _divisible(owner: str, what: str, widths: tuple[int, ...], by: str, divisor: int) -> None:
    for width in widths:
        if width % divisor:
            raise ValueError(
                f"{owner}: {what} {width} is not divisible by {by} = {divisor}; choose widths that are multiples of it."
            )


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a Stable Diffusion v1 U-Net.

    `widths[i]` is the number of channels at level i (each level halves the resolution of the one before),
    `attention[i]` says whether level i has attention blocks (the middle always has one) and `heads[i]` how
    many heads they have; the middle uses the last level's. `blocks` counts ResBlocks per level on the way
    down; there is one more on the way up.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    blocks: int = 2
    depth: int = 1
    context_width: int = 768
    norm_groups: int = 32
    in_channels: int = 4
    out_channels: int = 4

    def __post_init__(self) -> None:
        _positive(
            "UNetConfig",
            levels=len(self.widths),
            blocks=self.blocks,
            depth=self.depth,
            context_width=self.context_width,
            norm_groups=self.norm_groups,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
        )
        for name in ("attention", "heads"):
            if len(getattr(self, name)) != len(self.widths):
                raise ValueError(
                    f"UNetConfig.{name} has {len(getattr(self, name))} entries; expected one for each of the "
                    f"{len(self.widths)} levels of widths {self.widths}."
                )
        for width, heads in zip(self.widths, self.heads, strict=True):
            _positive("UNetConfig", width=width, heads=heads)
            _divisible("UNetConfig", "width", (width,), "heads", heads)
        _divisible("UNetConfig", "width", self.widths, "norm_groups", self.norm_groups)

    @property
    def factor(self) -> int:
        """The side of a latent must be a multiple of this."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class VAEConfig:
    """Shape of a Stable Diffusion v1 variational autoencoder.

    `blocks` counts ResBlocks per level of the encoder; the decoder has one more. `scale` multiplies a sample
    of the posterior to give a latent of the diffusion model (about unit variance).
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    image_channels: int = 3
    norm_groups: int = 32
    mid_attention: bool = True
    scale: float = 0.18215

    def __post_init__(self) -> None:
        _positive(
            "VAEConfig",
            levels=len(self.widths),
            blocks=self.blocks,
            latent_channels=self.latent_channels,
            image_channels=self.image_channels,
            norm_groups=self.norm_groups,
            **{f"widths[{i}]": w for i, w in enumerate(self.widths)},
        )
        _divisible("VAEConfig", "width", self.widths, "norm_groups", self.norm_groups)
        if not self.scale > 0:
            raise ValueError(f"VAEConfig.scale is {self.scale!r}; expected a positive number (SD v1: 0.18215).")

    @property
    def factor(self) -> int:
        """Pixels of the image per pixel of the latent, along one side."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class TextConfig:
    """Shape of a CLIP text encoder; `eps` of its layer norms is 1e-5 throughout.

    `activation` is "quick_gelu" or "gelu" (the exact one). `output_layer` counts back from the last layer (-1): its
    output is what the encoder returns, after the final layer norm if `final_norm`. The defaults are Stable Diffusion
    v1's.
    """

    vocabulary: int = 49408
    width: int = 768
    mlp_width: int = 3072
    layers: int = 12
    heads: int = 12
    positions: int = 77
    activation: str = "quick_gelu"
    output_layer: int = -1
    final_norm: bool = True

    def __post_init__(self) -> None:
        _positive(
            "TextConfig",
            vocabulary=self.vocabulary,
            width=self.width,
            mlp_width=self.mlp_width,
            layers=self.layers,
            heads=self.heads,
            positions=self.positions,
        )
        _divisible("TextConfig", "width", (self.width,), "heads", self.heads)
        if self.activation not in ("quick_gelu", "gelu"):
            raise ValueError(f"TextConfig.activation is {self.activation!r}; expected 'quick_gelu' or 'gelu'.")
        if self.output_layer not in range(-self.layers, 0):
            raise ValueError(
                f"TextConfig.output_layer is {self.output_layer!r}; expected -1 for the last layer down to "
                f"{-self.layers} for the first."
            )


@dataclass(frozen=True)
class StableDiffusionConfig:
    """The three networks of a Stable Diffusion v1 model, checked against each other.

    `sample_size` is the side of the latent that the model was trained on; pictures are
    `sample_size * vae.factor` pixels wide.
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: TextConfig = field(default_factory=TextConfig)
    sample_size: int = 64
    name: str = "sd-v1"

    def __post_init__(self) -> None:
        _positive("StableDiffusionConfig", sample_size=self.sample_size)
        if self.unet.context_width != self.text.width:
            raise ValueError(
                f"The U-Net reads contexts of width {self.unet.context_width} but the text encoder writes width "
                f"{self.text.width}; make UNetConfig.context_width equal to TextConfig.width."
            )
        if self.unet.in_channels != self.vae.latent_channels:
            raise ValueError(
                f"The U-Net takes {self.unet.in_channels} channels but the VAE's latents have "
                f"{self.vae.latent_channels}; make UNetConfig.in_channels equal to VAEConfig.latent_channels."
            )
        if self.sample_size % self.unet.factor:
            raise ValueError(
                f"sample_size {self.sample_size} is not a multiple of {self.unet.factor}, which the U-Net's "
                f"{len(self.unet.widths)} levels need."
            )


SD_V1 = StableDiffusionConfig()

MINIATURE = StableDiffusionConfig(
    unet=UNetConfig(widths=(64, 128), attention=(True, True), heads=(4, 4), blocks=1, context_width=128),
    vae=VAEConfig(widths=(16, 32, 64), blocks=1, norm_groups=8, mid_attention=False, scale=1.0),
    text=TextConfig(width=128, mlp_width=512, layers=1, heads=4),
    sample_size=16,
    name="miniature",
)
