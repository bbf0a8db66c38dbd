"""The parts of one Stable Diffusion model, loaded and ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from ebama.models import (
    MINIATURE,
    VAE,
    Context,
    Network,
    StableDiffusionConfig,
    TextEncoder,
    sinusoids,
    text_maps,
)
from ebama.models.text import TextEncoding
from ebama.samplers import Sampler, get
from ebama.samplers.schedule import STABLE_DIFFUSION_V1, NoiseSchedule, is_integer

from .errors import is_text
from .fingerprint import fingerprint
from .tokenizer import token_rows
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

Size = tuple[int, int]
"""(height, width) or (top, left) in pixels."""

_MINIATURE_SAMPLERS: dict[str, dict[str, Any]] = {
    "pndm": {"order": 2, "spacing": "trailing"},
    "ddim": {"spacing": "trailing"},
}
"""The miniature's begin at the noisiest timestep, and its PNDM mixes two estimates: few steps need both."""


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """The networks, frozen and in eval mode, with their tokenizers and configuration.

    `unet` may be any `Network`, as in `dataclasses.replace(sd, unet=adapt(...))`. `vocabulary` lists the words that the
    model knows; None where nobody has listed them. `schedule` is the noise schedule that its file stores, or Stable
    Diffusion v1's: a sampler chosen by name follows it. `text_encoder_2` and `tokenizer_2` are None where the model has
    one text encoder, and `tokenizer_2` too where both read the same tokens.
    """

    unet: Network
    vae: VAE
    text_encoder: TextEncoder
    tokenizer: CLIPTokenizer
    config: StableDiffusionConfig
    vocabulary: Vocabulary | None = None
    schedule: NoiseSchedule = STABLE_DIFFUSION_V1
    text_encoder_2: TextEncoder | None = None
    tokenizer_2: CLIPTokenizer | None = None

    def sampler(self, name: str, steps: int = 50) -> Sampler:
        """The sampler called `name` along this model's schedule, for what its network predicts.

        Raises ValueError for an unknown name or a wrong number of steps.
        """
        options = _MINIATURE_SAMPLERS.get(name, {}) if self.config.unet == MINIATURE.unet else {}
        return get(name, steps, schedule=self.schedule, **options).predicting(self.config.prediction)

    @property
    def text_encoders(self) -> tuple[tuple[TextEncoder, CLIPTokenizer], ...]:
        """The text encoders with their tokenizers, one or two."""
        first, second = (self.text_encoder, self.tokenizer), self.tokenizer_2
        if self.text_encoder_2 is None:
            return (first,)
        return first, (self.text_encoder_2, self.tokenizer if second is None else second)

    def fingerprint(self) -> str:
        """16 hex digits that change when the weights do; see `weights.fingerprint`."""
        networks = (self.unet, self.vae, *(encoder for encoder, _ in self.text_encoders))
        return fingerprint(*(network for network in networks if isinstance(network, nn.Module)))

    @overload
    def encode_text(self, prompts: Sequence[str], *, pooled: Literal[False] = False) -> Tensor: ...
    @overload
    def encode_text(self, prompts: Sequence[str], *, pooled: Literal[True]) -> tuple[Tensor, Tensor]: ...
    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str], *, pooled: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Contexts [B, 77, width] of B prompts, side by side where two text encoders make them; with `pooled`
        (contexts, pooled vectors [B, P]).

        Prompts are padded to 77 positions, which the U-Net reads too, and cut there.
        """
        if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not all(map(is_text, prompts)):
            raise TypeError(f"encode_text got {prompts!r}; expected a list of strings.")
        if not prompts:
            raise ValueError("encode_text got no prompts; expected at least one.")
        encodings = [_encoded(prompts, encoder, tokenizer) for encoder, tokenizer in self.text_encoders]
        contexts = torch.cat([encoding.context for encoding in encodings], dim=-1)
        if not pooled:
            return contexts
        vectors = encodings[-1].pooled
        if vectors is None:
            raise ValueError(f"{self.config.name} has no pooled text vector; leave pooled=True out.")
        return contexts, vectors

    @torch.no_grad()
    def condition(
        self,
        prompts: Sequence[str],
        *,
        size: Size | None = None,
        original_size: Size | None = None,
        crop: Size = (0, 0),
        target_size: Size | None = None,
        negative: bool = False,
    ) -> Tensor:
        """What the U-Net reads of B prompts: contexts [B, 77, width], as a `Context` where it takes a vector too.

        Args:
            size: of the pictures to make; None for the size that the model was trained on.
            original_size, crop, target_size: of the training pictures that the result should look like: their size
                before they were cut, where the cut began, and the size that they had then. None stands for `size`.
            negative: these are negative prompts, of which empty ones are zeros where the model was trained so.

        Raises:
            ValueError: sizes that are no pair of numbers, or for a U-Net that takes none.
        """
        config = self.config
        sizes = {"original_size": original_size, "crop": crop, "target_size": target_size}
        if not config.number_width:
            if given := [name for name, value in sizes.items() if value not in (None, (0, 0))]:
                raise ValueError(f"{given[0]} is {sizes[given[0]]!r}, but the U-Net of {config.name} takes no sizes.")
            contexts, pooled = self.encode_text(prompts), None
        else:
            contexts, pooled = self.encode_text(prompts, pooled=True)
        if negative and config.zero_empty_prompt:
            empty = torch.tensor([not prompt.strip() for prompt in prompts], device=contexts.device)
            contexts = contexts.masked_fill(empty[:, None, None], 0)
            pooled = None if pooled is None else pooled.masked_fill(empty[:, None], 0)
        if pooled is None:
            return contexts
        size = size or (config.sample_size * config.vae.factor,) * 2
        numbers = [number for name, value in sizes.items() for number in pixels(name, size if value is None else value)]
        embedded = sinusoids(torch.tensor(numbers, device=pooled.device), config.number_width).flatten().to(pooled)
        return Context.of(contexts, torch.cat([pooled, embedded.expand(len(pooled), -1)], dim=1))

    @torch.no_grad()
    def maps_of(
        self,
        image: Any,
        texts: Sequence[str],
        *,
        t: int,
        prompt: str = "",
        resolution: int | Size | None = None,
        seed: int | None = 0,
    ) -> Tensor:
        """Where pictures show what texts say, [B, T, h, w]: probabilities, averaged over the tokens of each text,
        layers and heads; those of several sizes are brought to the largest bilinearly.

        The U-Net runs under `prompt`; its queries meet the keys of each text, exactly as in its layers.

        Args:
            image: latents [B, C, h, w], or a picture of PIL whose sides are multiples of the VAE's factor;
                `Pipeline.encode` makes latents of any picture.
            texts: to look for, as "a wheel".
            t: the timestep, from 0, of a picture without noise, up.
            prompt: what the picture shows, as far as it is known. resolution: of the maps; None for all.
            seed: of the noise that covers the picture as it does at t; None for latents that it covers already.

        Raises:
            ValueError: a picture of another size, a text without words, a resolution that no site has.
        """
        contexts, last = self.condition([prompt, *texts]), self.tokenizer.eos_token_id
        ends = [row.index(last, 1) for row in token_rows(self.tokenizer, texts, contexts.shape[1])]
        if empty := [text for text, after in zip(texts, ends, strict=True) if after == 1]:
            raise ValueError(f"The text {empty[0]!r} has no word to look for.")
        latents = (image if isinstance(image, Tensor) else self._latents_of(image)).to(contexts)
        if seed is not None:
            generator = torch.Generator("cpu").manual_seed(seed)
            noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32, device="cpu").to(latents)
            latents = self.schedule.add_noise(latents, noise, t)
        under = contexts[:1].expand(len(latents), -1, -1)
        words = [range(1, end) for end in ends]
        return text_maps(self.unet, latents, t, under, contexts[1:], words, resolution)

    def _latents_of(self, image: Any) -> Tensor:
        """Latents [1, C, h, w] of a picture of PIL."""
        (width, height), factor = image.size, self.config.vae.factor * self.config.unet.factor
        if width % factor or height % factor:
            raise ValueError(
                f"The picture has {width}x{height} pixels; expected multiples of {factor}. `Pipeline.encode` makes "
                "latents of any picture, which `maps_of` takes too."
            )
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
        x = pixels.view(1, height, width, 3).movedim(-1, 1) / 127.5 - 1
        return self.vae.encode(x.to(next(self.vae.parameters()))).mean * self.vae.scale


def _encoded(prompts: Sequence[str], encoder: TextEncoder, tokenizer: CLIPTokenizer) -> TextEncoding:
    ids = torch.tensor(token_rows(tokenizer, prompts, encoder.config.positions, encoder.config.pad_token), device="cpu")
    return encoder.encode(ids.to(encoder.final_layer_norm.weight.device))


def pixels(name: str, value: object) -> Size:
    """A size as Python's numbers; ValueError, which names it, unless it is two whole numbers."""
    given = value if isinstance(value, tuple | list) else ()
    whole = [int(n) for n in given if is_integer(n) and 0 <= n < 2**16]
    if len(whole) != 2 or len(given) != 2:
        raise ValueError(f"{name} is {value!r}; expected two whole numbers of pixels.")
    return whole[0], whole[1]
