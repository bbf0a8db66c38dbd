"""Maps of texts on a picture or a latent that nobody made with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import TINY_XL, model, noise, random_model

TEXTS = ["a purple crown", "a dog", "an axolotl in a car"]


@pytest.mark.slow
@pytest.mark.parametrize("sd", [model(), random_model(TINY_XL)], ids=["v1", "xl"])
def test_for_the_prompt_they_are_those_of_the_network(sd: Any) -> None:
    z = torch.cat([noise(1), noise(2)]).repeat(1, 1, 2, 2)
    side = sd.unet.sites(z.shape)[-1].resolution[0]
    with torch.no_grad():
        maps = sd.maps_of(z, TEXTS, t=301, prompt=TEXTS[0], resolution=side, seed=None)
        context = sd.condition(TEXTS[:1]).expand(2, -1, -1)
        expected = sd.unet.attention(z, 301, context, resolution=side).mean_probabilities()
    assert maps.shape == (2, 3, side, side)
    torch.testing.assert_close(maps[:, 0], expected[..., 1:4].mean(-1), rtol=1e-3, atol=1e-5)
    pooled = sd.maps_of(z[:1], [TEXTS[0]], t=301, prompt=TEXTS[0], seed=None)
    records = sd.unet.attention(z[:1], 301, context[:1], resolution=None)
    heads = sum(record.site.heads for record in records)
    torch.testing.assert_close(pooled[0, 0], records.pooled()[0, ..., 1:4].mean(-1) / heads, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_noise_of_a_seed_covers_a_picture() -> None:
    sd = model()
    picture = Image.effect_noise((32, 48), 90).convert("RGB")
    torch.manual_seed(0)
    maps = sd.maps_of(picture, TEXTS, t=301)
    with torch.no_grad():
        pixels = torch.tensor(np.asarray(picture), dtype=torch.float32)[None].movedim(-1, 1)
        latents = sd.vae.encode(pixels / 127.5 - 1).mean * sd.vae.scale
        drawn = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        noisy = sd.schedule.add_noise(latents, drawn, 301)
    torch.testing.assert_close(maps, sd.maps_of(noisy, TEXTS, t=301, seed=None))
    torch.testing.assert_close(maps, sd.maps_of(latents, TEXTS, t=301))
    assert (maps - sd.maps_of(latents, TEXTS, t=301, seed=4)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("image", "texts", "options", "message"),
    [
        (noise(1), ["a cat", " "], {}, "text ' ' has no word"),
        (noise(1), ["a cat"], {"resolution": 7}, "holds no attention site"),
        (Image.new("RGB", (33, 32)), ["a cat"], {}, "has 33x32 pixels; expected multiples of 4"),
        (noise(1), ["a cat"], {"t": 1000}, "1000"),
    ],
)
def test_what_has_no_maps(image: Any, texts: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().maps_of(image, texts, **({"t": 301} | options))
