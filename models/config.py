"""Frozen, validated descriptions of the networks, with the presets SD_V1, SD_V2, SD_V2_V, SDXL and MINIATURE."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace


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
    """Shape of a Stable Diffusion U-Net; the defaults are v1's.

    `widths[i]` is the number of channels at level i (each level halves the resolution of the one before),
    `attention[i]` says whether level i has attention blocks (the middle always has one) and `heads[i]` how
    many heads they have; `depth` is how many transformer blocks each of them has, at every level or as a tuple at each.
    The middle uses the last level's. `blocks` counts ResBlocks per level on the way down; there is one more on the way
    up. `linear_projections` says whether the projections around the transformer blocks keep their weights as matrices
    instead of 1x1 convolutions, `upcast_attention` whether half precision overflows in attention scores
    (see `Attention`), and `vector_width` how wide the vector is that a `Context` adds to the timestep (None: there is
    none).
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    blocks: int = 2
    depth: int | tuple[int, ...] = 1
    context_width: int = 768
    norm_groups: int = 32
    in_channels: int = 4
    out_channels: int = 4
    linear_projections: bool = False
    upcast_attention: bool = False
    vector_width: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.depth, tuple) and len(set(self.depth)) == 1 and len(self.depth) == len(self.widths):
            object.__setattr__(self, "depth", self.depth[0])
        _positive(
            "UNetConfig",
            levels=len(self.widths),
            blocks=self.blocks,
            context_width=self.context_width,
            norm_groups=self.norm_groups,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
        )
        if self.vector_width is not None:
            _positive("UNetConfig", vector_width=self.vector_width)
        for name, values in (("attention", self.attention), ("heads", self.heads), ("depth", self.depths)):
            if len(values) != len(self.widths):
                raise ValueError(
                    f"UNetConfig.{name} has {len(values)} entries; expected one for each of the "
                    f"{len(self.widths)} levels of widths {self.widths}."
                )
        for width, heads, depth in zip(self.widths, self.heads, self.depths, strict=True):
            _positive("UNetConfig", width=width, heads=heads, depth=depth)
            _divisible("UNetConfig", "width", (width,), "heads", heads)
        _divisible("UNetConfig", "width", self.widths, "norm_groups", self.norm_groups)

    @property
    def depths(self) -> tuple[int, ...]:
        """Transformer blocks of an attention block at each level."""
        return self.depth if isinstance(self.depth, tuple) else (self.depth,) * len(self.widths)

    @property
    def factor(self) -> int:
        """The side of a latent must be a multiple of this."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class VAEConfig:
    """Shape of a Stable Diffusion variational autoencoder; the defaults are v1's.

    `blocks` counts ResBlocks per level of the encoder; the decoder has one more. `scale` multiplies a sample
    of the posterior to give a latent of the diffusion model (about unit variance). `upcast` says whether it overflows
    in float16, so that it is loaded in float32 instead.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    image_channels: int = 3
    norm_groups: int = 32
    mid_attention: bool = True
    scale: float = 0.18215
    upcast: bool = False

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
        if not 0 < self.scale < math.inf:
            raise ValueError(f"VAEConfig.scale is {self.scale!r}; expected a positive number (SD v1: 0.18215).")

    @property
    def factor(self) -> int:
        """Pixels of the image per pixel of the latent, along one side."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True)
class TextConfig:
    """Shape of a CLIP text encoder; `eps` of its layer norms is 1e-5 throughout.

    `activation` is "quick_gelu" or "gelu" (the exact one). `output_layer` counts back from the last layer (-1): its
    output is what the encoder returns, after the final layer norm if `final_norm`. `projection_width` is that of the
    pooled vector, a projection of the last layer's output at the end of the text (None: there is none). `pad_token`
    fills short texts (None: the tokenizer's own choice). The defaults are Stable Diffusion v1's.
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
    projection_width: int | None = None
    pad_token: int | None = None

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
        if self.projection_width is not None:
            _positive("TextConfig", projection_width=self.projection_width)
        if self.pad_token is not None and self.pad_token not in range(self.vocabulary):
            raise ValueError(
                f"TextConfig.pad_token is {self.pad_token!r}; expected one of {self.vocabulary} tokens, or None."
            )


@dataclass(frozen=True)
class StableDiffusionConfig:
    """The networks of a Stable Diffusion model, checked against each other; the defaults are v1's.

    Attributes:
        text, text_2: the text encoders; the U-Net reads their contexts side by side. The last one's pooled vector is
            the first part of the U-Net's vector, and sinusoids of six numbers are the rest: height and width of the
            original picture, top and left of the crop, height and width of the result.
        sample_size: the side of the latent that the model was trained on; pictures are `sample_size * vae.factor`
            pixels wide.
        prediction: what the U-Net predicts, "epsilon" (the noise) or "v" (sqrt(abar) noise - sqrt(1 - abar) latent).
        zero_empty_prompt: whether an empty negative prompt is encoded as zeros.
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: TextConfig = field(default_factory=TextConfig)
    sample_size: int = 64
    name: str = "sd-v1"
    text_2: TextConfig | None = None
    prediction: str = "epsilon"
    zero_empty_prompt: bool = False

    def __post_init__(self) -> None:
        _positive("StableDiffusionConfig", sample_size=self.sample_size)
        width = sum(text.width for text in self.texts)
        if self.unet.context_width != width:
            writes, together = ("s write", " of both together") if self.text_2 else (" writes", "")
            raise ValueError(
                f"The U-Net reads contexts of width {self.unet.context_width} but the text encoder{writes} width "
                f"{width}; make UNetConfig.context_width equal to TextConfig.width{together}."
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
        if len({text.positions for text in self.texts}) != 1:
            raise ValueError("The text encoders have different numbers of positions; make TextConfig.positions equal.")
        pooled, vector = self.texts[-1].projection_width, self.unet.vector_width
        if (pooled is None) != (vector is None) or (vector and (vector - (pooled or 0)) not in range(12, vector, 12)):
            raise ValueError(
                f"The U-Net's vector has width {vector} and the pooled text {pooled}; expected neither, or a vector "
                "that is wider by six numbers of one even width (UNetConfig.vector_width, TextConfig.projection_width)."
            )
        if self.prediction not in ("epsilon", "v"):
            raise ValueError(f"prediction is {self.prediction!r}; expected 'epsilon' or 'v'.")

    @property
    def texts(self) -> tuple[TextConfig, ...]:
        """The text encoders, one or two."""
        return (self.text,) if self.text_2 is None else (self.text, self.text_2)

    @property
    def version(self) -> str:
        """The kind of Stable Diffusion whose parts these are, whatever their size: "1", "2" or "xl"."""
        return "xl" if self.text_2 else "2" if self.text.activation == "gelu" else "1"

    @property
    def size_multiple(self) -> int:
        """Height and width of a picture must be multiples of this, in pixels."""
        return self.vae.factor * self.unet.factor

    @property
    def number_width(self) -> int:
        """Width of the sinusoids of each of the vector's six numbers; 0 if there is no vector."""
        return ((self.unet.vector_width or 0) - (self.texts[-1].projection_width or 0)) // 6


SD_V1 = StableDiffusionConfig()

SD_V2 = StableDiffusionConfig(  # 2.0 base and 2.1 base
    unet=UNetConfig(heads=(5, 10, 20, 20), context_width=1024, linear_projections=True),
    # OpenCLIP ViT-H/14 without its last layer, whose output nothing reads.
    text=TextConfig(width=1024, mlp_width=4096, layers=23, heads=16, activation="gelu", pad_token=0),
    name="sd-v2",
)

SD_V2_V = replace(  # 2.0 and 2.1 at 768 pixels
    SD_V2, unet=replace(SD_V2.unet, upcast_attention=True), sample_size=96, prediction="v", name="sd-v2-v"
)

SDXL = StableDiffusionConfig(  # base 1.0
    unet=UNetConfig(
        widths=(320, 640, 1280),
        attention=(False, True, True),
        heads=(5, 10, 20),
        depth=(1, 2, 10),
        context_width=2048,
        linear_projections=True,
        vector_width=2816,
    ),
    vae=VAEConfig(scale=0.13025, upcast=True),
    text=TextConfig(output_layer=-2, final_norm=False),
    text_2=TextConfig(  # OpenCLIP ViT-bigG/14
        width=1280,
        mlp_width=5120,
        layers=32,
        heads=20,
        activation="gelu",
        output_layer=-2,
        final_norm=False,
        projection_width=1280,
        pad_token=0,
    ),
    sample_size=128,
    name="sdxl",
    zero_empty_prompt=True,
)

MINIATURE = StableDiffusionConfig(
    unet=UNetConfig(widths=(64, 128), attention=(True, True), heads=(4, 4), blocks=1, context_width=128),
    vae=VAEConfig(widths=(16, 32, 64, 128), blocks=1, norm_groups=8, mid_attention=False, scale=1.0),
    text=TextConfig(width=128, mlp_width=512, layers=1, heads=4),
    sample_size=16,
    name="miniature",
)
