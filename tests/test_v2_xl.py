"""Models of the shape of Stable Diffusion 2.x and XL in the pipeline: conditions, prediction, every method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from reference import FEW, TINY, TINY_V2, TINY_V2_V, TINY_XL, random_model, relative
from torch import Tensor

from ebama import Pipeline, Result, methods
from ebama.guidance import GradientMethod, guide_for
from ebama.maps import ContentRange
from ebama.models import (
    MINIATURE,
    SD_V1,
    SD_V2,
    SD_V2_V,
    SDXL,
    Context,
    StableDiffusionConfig,
    UNet,
    sinusoids,
)
from ebama.prompt import Group
from ebama.samplers import DDIM, PNDM, NoiseSchedule
from ebama.trace import TraceOptions
from ebama.weights import StableDiffusion

PROMPTS = ["a purple crown and a blue suitcase", "a cat and a frog"]
BOXES = [
    {"crown": (0, 0.1, 0.5, 0.9), "suitcase": (0.5, 0.1, 1, 0.9)},
    {"cat": (0, 0, 0.5, 0.5), "frog": (0.5, 0.5, 1, 1)},
]


@cache
def model(config: StableDiffusionConfig) -> StableDiffusion:
    return random_model(config)


def run(config: StableDiffusionConfig, prompts: Sequence[str] = PROMPTS, **options: Any) -> Result:
    defaults: dict[str, Any] = {"steps": 2, "output": "latent", "progress": False, "parser": "rules", "method": "sd"}
    return Pipeline(model(config))(prompts, **(defaults | options))


# --- text ---


def ids_of(text: str, pad: int) -> Tensor:
    words = model(TINY).tokenizer(text)["input_ids"]
    return torch.tensor([[*words, *[pad] * (77 - len(words))]])


@pytest.mark.slow
@torch.no_grad()
def test_short_texts_are_filled_with_the_models_own_token() -> None:
    """Stable Diffusion 2.x fills them with token 0, a "!" inside of a word; a typed "!" stays what it is."""
    sd, first = model(TINY_V2), model(TINY)
    for text in ("a cat", "", "a cat!", "wow!!! a frog !", "a " * 100):
        ids = sd.tokenizer(text, truncation=True, max_length=77)["input_ids"]
        assert 0 not in ids
        expected = sd.text_encoder(torch.tensor([[*ids, *[0] * (77 - len(ids))]]))
        assert torch.equal(sd.encode_text([text]), expected)
        expected = first.text_encoder(torch.tensor([[*ids, *[49407] * (77 - len(ids))]]))
        assert torch.equal(first.encode_text([text]), expected)


@torch.no_grad()
def test_two_text_encoders_side_by_side() -> None:
    sd = model(TINY_XL)
    assert sd.text_encoder_2 is not None
    context, pooled = sd.encode_text(["a cat", ""], pooled=True)
    assert (context.shape, pooled.shape) == ((2, 77, 40), (2, 20))
    assert torch.equal(context, sd.encode_text(["a cat", ""]))
    second = sd.text_encoder_2.encode(ids_of("a cat", 0))
    assert second.pooled is not None
    torch.testing.assert_close(context[:1, :, :16], sd.text_encoder(ids_of("a cat", 49407)))
    torch.testing.assert_close(context[:1, :, 16:], second.context)
    torch.testing.assert_close(pooled[:1], second.pooled)
    for config in (TINY, TINY_V2):
        with pytest.raises(ValueError, match=rf"{config.name} has no pooled text vector"):
            model(config).encode_text(["a cat"], pooled=True)


def test_the_second_tokenizer_serves_the_second_encoder() -> None:
    backend = model(TINY_XL).tokenizer.backend_tokenizer

    class Wordy:
        truncation = None

        def encode_batch(self, texts: list[str]) -> Any:
            return backend.encode_batch([text + " suitcase" for text in texts])

    tokenizer = SimpleNamespace(backend_tokenizer=Wordy(), pad_token_id=49407)
    other = replace(model(TINY_XL), tokenizer_2=tokenizer)  # type: ignore[arg-type]
    both = other.encode_text(["a"])
    plain, longer = (model(TINY_XL).encode_text([text]) for text in ("a", "a suitcase"))
    assert torch.equal(both[..., :16], plain[..., :16])
    assert torch.equal(both[..., 16:], longer[..., 16:])


@pytest.mark.slow
def test_the_fingerprint_covers_both_text_encoders() -> None:
    sd = model(TINY_XL)
    changed = random_model(TINY_XL)
    assert changed.fingerprint() == sd.fingerprint()
    assert changed.text_encoder_2 is not None
    changed.text_encoder_2.final_layer_norm.weight[0] += 1
    assert changed.fingerprint() != sd.fingerprint()


# --- the vector ---


@pytest.mark.parametrize(
    ("sizes", "numbers"),
    [
        ({}, (64, 64, 0, 0, 64, 64)),
        ({"size": (32, 48)}, (32, 48, 0, 0, 32, 48)),
        ({"size": (32, 48), "original_size": (512, 256)}, (512, 256, 0, 0, 32, 48)),
        ({"crop": (7, 9)}, (64, 64, 7, 9, 64, 64)),
        ({"size": (32, 32), "crop": [1, 0], "target_size": (1024, 1000)}, (32, 32, 1, 0, 1024, 1000)),
    ],
)
def test_the_vector_is_the_pooled_text_and_six_numbers(sizes: dict[str, Any], numbers: tuple[int, ...]) -> None:
    sd = model(TINY_XL)
    condition = sd.condition(PROMPTS, **sizes)
    assert isinstance(condition, Context)
    context, pooled = sd.encode_text(PROMPTS, pooled=True)
    assert torch.equal(condition.tokens, context)
    assert torch.equal(condition.vector[:, :20], pooled)
    for vector in condition.vector:
        assert torch.equal(vector[20:], sinusoids(torch.tensor(numbers), 4).flatten())


@pytest.mark.parametrize("size", [(1,), (1, 2, 3), 5, "ab", (1.5, 2), (-1, 2), (True, 2), (2**16, 2)])
def test_sizes_are_two_whole_numbers(size: Any) -> None:
    with pytest.raises(ValueError, match=r"original_size is .*; expected two whole numbers of pixels"):
        model(TINY_XL).condition(["a cat"], original_size=size)


@pytest.mark.parametrize("sizes", [{"original_size": (8, 8)}, {"crop": (1, 0)}, {"target_size": (8, 8)}])
def test_sizes_for_a_network_that_takes_none(sizes: dict[str, Any]) -> None:
    (name,) = sizes
    for config in (TINY, TINY_V2):
        with pytest.raises(ValueError, match=rf"{name} is .*, but the U-Net of {config.name} takes no sizes"):
            model(config).condition(["a cat"], **sizes)
        with pytest.raises(ValueError, match=rf"{name} is "):
            run(config, ["a cat"], **sizes)
        assert type(model(config).condition(["a cat"], size=(512, 512))) is Tensor


def test_empty_negative_prompts_are_zeros_where_the_model_was_trained_so() -> None:
    condition = model(TINY_XL).condition(["", "blurry", "  "], negative=True)
    plain = model(TINY_XL).condition(["", "blurry", "  "])
    assert isinstance(condition, Context)
    assert isinstance(plain, Context)
    for i in (0, 2):
        assert not condition.tokens[i].any()
        assert not condition.vector[i, :20].any()
        assert plain.tokens[i].any()
    assert torch.equal(condition.tokens[1], plain.tokens[1])
    assert torch.equal(condition.vector[1], plain.vector[1])
    assert torch.equal(condition.vector[:, 20:], plain.vector[:, 20:])
    encoded = model(TINY_V2).condition([""], negative=True)
    assert torch.equal(encoded, model(TINY_V2).encode_text([""]))


# --- runs ---


@torch.no_grad()
def by_hand(config: StableDiffusionConfig, sampler: DDIM | PNDM, z: Tensor, negative: str, **sizes: Any) -> Tensor:
    """Plain sampling of the first prompt with guidance 7.5, its rows one by one."""
    sd, size = model(config), (z.shape[2] * 2, z.shape[3] * 2)
    without = sd.condition([negative], size=size, negative=True, **sizes)
    prompt = sd.condition(PROMPTS[:1], size=size, **sizes)

    def denoise(z: Tensor, t: int) -> Tensor:
        unguided, guided = (sd.unet(z, t, context) for context in (without, prompt))
        return unguided + 7.5 * (guided - unguided)  # type: ignore[no-any-return]

    return sampler.sample(denoise, z)


@pytest.mark.slow
@pytest.mark.parametrize("negative", ["", "blurry"])
@pytest.mark.parametrize("kind", [PNDM, DDIM])
@pytest.mark.parametrize("config", [TINY_V2, TINY_V2_V, TINY_XL], ids=lambda config: config.name)
def test_a_run_is_the_loop_by_hand(config: StableDiffusionConfig, kind: type[PNDM | DDIM], negative: str) -> None:
    z = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(3))
    schedule = NoiseSchedule(prediction=config.prediction)
    expected = by_hand(config, kind(3, schedule=schedule), z, negative)
    for sampler in (kind.__name__.lower(), *([] if negative else [kind(3), kind(3, schedule=schedule)])):
        found = run(config, PROMPTS[:1], latents=z, steps=3, sampler=sampler, negative_prompt=negative)
        assert relative(found.latents, expected) < 1e-4
        assert found.recipes[0].sampler.schedule == schedule


@pytest.mark.slow
def test_sizes_reach_the_network_and_the_recipe() -> None:
    z = torch.randn(1, 4, 16, 8, generator=torch.Generator().manual_seed(3))
    sizes: dict[str, Any] = {"original_size": [512, 300], "crop": tuple(np.array([3, 4])), "target_size": (900, 1000)}
    expected = by_hand(TINY_XL, DDIM(2), z, "", **sizes)
    found = run(TINY_XL, PROMPTS[:1], latents=z, sampler="ddim", **sizes)
    assert relative(found.latents, expected) < 1e-4
    assert relative(run(TINY_XL, PROMPTS[:1], latents=z, sampler="ddim").latents, expected) > 1e-4
    arguments = found.recipes[0].arguments() | {"seeds": [0]}
    again = Pipeline(model(TINY_XL))(**arguments, method="sd", latents=z, output="latent", progress=False)
    assert torch.equal(again.latents, found.latents)


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, TINY_V2, TINY_XL], ids=lambda config: config.name)
def test_size_of_the_pictures(config: StableDiffusionConfig) -> None:
    for size, latent in (((16, 24), (8, 12)), ([32, 8], (16, 4)), (None, (config.sample_size,) * 2)):
        found = run(config, PROMPTS[:1], steps=1, size=size)
        assert found.latents.shape == (1, 4, *latent)
        noise = torch.randn(1, 4, *latent, generator=torch.Generator().manual_seed(0))
        assert torch.equal(run(config, PROMPTS[:1], steps=1, size=size, latents=noise).latents, found.latents)
        assert found.recipes[0].latent == (4, *latent)
    picture = run(config, PROMPTS[:1], steps=1, size=(16, 24), output="pil").images
    assert picture is not None
    assert picture[0].size == (24, 16)  # Pillow says width first
    for wrong, message in (
        ((30, 32), r"size is \(30, 32\); expected a height and a width that are multiples of 4 pixels, as \(\d+, "),
        ((0, 32), "multiples of 4 pixels"),
        ((32,), "size is .*; expected two whole numbers of pixels"),
        (32, "size is 32; expected two whole numbers"),
        ((32.5, 32), "expected two whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            run(config, PROMPTS[:1], size=wrong)
    with pytest.raises(ValueError, match=r"size \(16, 16\) asks for \[N, 4, 8, 8\]; leave one of them out"):
        run(config, PROMPTS[:1], size=(16, 16), latents=torch.zeros(1, 4, 8, 12))


def _cases() -> Iterator[Any]:
    """One method for each place where methods act is quick."""
    for name in methods.names():
        yield pytest.param(TINY_XL, name, marks=[] if name in ("cd", "ebama", "ebca", "strd") else pytest.mark.slow)
        yield pytest.param(TINY_V2_V, name, marks=pytest.mark.slow)
        if name in ("sd", "ane", "cd", "ebama", "ebca", "strd"):
            yield pytest.param(TINY_V2, name, marks=pytest.mark.slow)


@pytest.mark.parametrize(("config", "name"), list(_cases()), ids=lambda value: getattr(value, "name", value))
def test_every_method_runs_and_a_batch_is_its_samples(config: StableDiffusionConfig, name: str) -> None:
    choice = methods.get(name, **FEW.get(name, {}))
    options: dict[str, Any] = {"method": choice, "steps": 1, "sampler": "ddim", "guidance": 2.0}
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    method = choice.complete(config)
    boxes = BOXES if method.needs.boxes else [None] * len(PROMPTS)
    together = run(config, latents=z, boxes=boxes if method.needs.boxes else None, **options)
    assert together.latents.isfinite().all()
    if not method.edits_prompts:
        checked = {TINY_V2.name: (0,), TINY_V2_V.name: (1,)}.get(config.name, (0, 1))  # they have the same options
        for k in checked:
            single = run(config, PROMPTS[k : k + 1], latents=z[k : k + 1], boxes=boxes[k], **options)
            assert relative(single.latents, together.latents[k : k + 1]) < 1e-3


@pytest.mark.parametrize("config", [TINY_V2_V, TINY_XL], ids=lambda config: config.name)
def test_clean_latents_of_a_trace(config: StableDiffusionConfig) -> None:
    """At the last call the latent without noise is nearly the final one."""
    result = run(config, PROMPTS[:1], sampler=DDIM.at([900, 500, 1]), trace=TraceOptions(latents=True))
    assert result.trace is not None
    assert relative(result.trace.latents[:, -1].float(), result.latents) < 0.1


@pytest.mark.slow
def test_memory_is_measured_with_the_vector() -> None:
    pipeline = Pipeline(model(TINY_XL), memory="8GB")
    result = pipeline(PROMPTS[:1], method="ebama", steps=1, output="pil", progress=False, parser="rules")
    assert result.images is not None
    assert result.images[0].size == (64, 64)


# --- where guidance looks ---


@cache
def unread(config: StableDiffusionConfig) -> UNet:
    with torch.device("meta"):
        return UNet(config.unet)


def sites_read(name: str, config: StableDiffusionConfig, latent: tuple[int, int]) -> Counter[Any]:
    """How many sites of each kind and resolution a method reads, of latents of that size."""
    inputs = SimpleNamespace(sample_size=config.sample_size)
    task: Any = SimpleNamespace(network=unread(config), pipeline=inputs, sites=None)
    method = methods.get(name).complete(config)
    assert isinstance(method, GradientMethod)
    return Counter((site.kind, site.resolution) for site in method.sites(task, (4, *latent)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "latent", "side", "sites"),
    [
        (SD_V1, (64, 64), (16, 16), 5),
        (SD_V1, (96, 64), (24, 16), 5),
        (SD_V2, (64, 64), (16, 16), 5),
        (SD_V2_V, (96, 96), (24, 24), 5),
        (SD_V2_V, (64, 96), (16, 24), 5),
        (SDXL, (128, 128), (32, 32), 60),
        (SDXL, (96, 160), (24, 40), 60),
        (MINIATURE, (16, 16), (16, 16), 3),
        (MINIATURE, (32, 32), (32, 32), 3),
    ],
)
def test_sites_that_guide(
    config: StableDiffusionConfig, latent: tuple[int, int], side: tuple[int, int], sites: int
) -> None:
    assert sites_read("ebama", config, latent) == {("cross", side): sites}


COARSER = {("cross", 12): 1, ("cross", 24): 3}
"""On the larger 2 those of the middle and of the first level on the way up."""


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.names())
def test_sites_that_the_methods_read(name: str) -> None:
    """At the model's own size: of 24x24 on 2 for 768 pixels, of 32x32 on XL, which has no coarser ones."""
    if not isinstance(methods.get(name).complete(SD_V2_V), GradientMethod):
        return
    kinds = ("cross", "self") if name in ("initno", "self-cross", "bounded-attention") else ("cross",)
    coarser = COARSER if name in ("layout-guidance", "bounded-attention") else {("cross", 24): 5}
    of_v2 = {(kind, (side, side)): count for (_, side), count in coarser.items() for kind in kinds}
    assert sites_read(name, SD_V2_V, (96, 96)) == of_v2
    assert sites_read(name, SDXL, (128, 128)) == {(kind, (32, 32)): 60 for kind in kinds}


def test_options_of_the_kinds() -> None:
    for name in methods.names():
        usual = methods.get(name).complete(SD_V1)
        assert methods.get(name).complete(SDXL) == usual
        second = methods.get(name).complete(SD_V2_V)
        assert second == methods.get(name).complete(TINY_V2)
        changed = {key for key, value in second.describe().items() if value != usual.describe()[key]}
        of_self_cross = {"max_rounds", "guided_steps"} if name == "self-cross" else set()
        assert changed == ({"normalize_eot"} if hasattr(usual, "normalize_eot") else of_self_cross)
        if "normalize_eot" in changed:
            assert methods.get(name, normalize_eot=False).complete(SD_V2_V) == usual
    assert [config.version for config in (SD_V1, MINIATURE, SD_V2, SD_V2_V, SDXL)] == ["1", "1", "2", "2", "xl"]


@pytest.mark.slow
def test_the_second_softmax_over_the_prompts_tokens() -> None:
    """Attend-and-Excite's `normalize_eot`: attention[:, :, 1:last_idx], where last_idx is the end of the text."""
    maps = torch.rand(2, 4, 4, 77, generator=torch.Generator().manual_seed(0)) / 20
    tokens = [list(range(1, 8)), list(range(1, 5))]
    usual, real = (ContentRange.of(tokens, only).softmax(maps) for only in (False, True))
    chosen = ContentRange.of(tokens, content_only=True)[[1]].softmax(maps[[1]])
    assert torch.equal(chosen, real[[1]])
    for sample, ends in enumerate((8, 5)):
        expected = (100 * maps[sample, :, :, 1:ends]).softmax(dim=-1)
        torch.testing.assert_close(real[sample, :, :, 1:ends], expected)
        assert not real[sample, :, :, ends:].any()
        assert not real[sample, :, :, 0].any()
        torch.testing.assert_close(usual[sample, :, :, 1:-1], (100 * maps[sample, :, :, 1:-1]).softmax(dim=-1))
    for name, options in (("ane", {"thresholds": ()}), ("divide-and-bind", {"thresholds": ()}), ("ebama-official", {})):
        chosen_methods = (methods.get(name, normalize_eot=value, **options) for value in (True, False))
        runs = [run(TINY_V2, PROMPTS[:1], method=method, steps=1) for method in chosen_methods]
        assert not torch.equal(runs[0].losses, runs[1].losses)
        assert runs[0].recipes[0].method["normalize_eot"] is True


def test_guides_without_a_pipeline_take_the_vector() -> None:
    sd = model(TINY_XL)
    context = sd.condition(PROMPTS)
    groups = [[Group((3,), ((2,),)), Group((7,), ((6,),))], [Group((2,)), Group((5,))]]
    guide = guide_for("ebama", sd.unet, context, groups, [range(1, 8), range(1, 6)], calls=2)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    moved = guide(z, 981, 0)
    assert moved.gradient_norms is not None
    assert (moved.gradient_norms > 0).all()
    alone = guide_for("ebama", sd.unet, context[[1]], groups[1:], [range(1, 6)], calls=2)(z[[1]], 981, 0)
    assert relative(alone.latents, moved.latents[[1]]) < 1e-5
