"""Prompts on which published implementations crash, lose words or silently do something else; see docs/methods.md."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import FEW, relative, run
from weights_samples import TINY, random_model

from ebama import Pipeline, methods
from ebama.methods import Choice
from ebama.prompt import PromptError, parse
from ebama.starts import NullText
from ebama.weights import clip_tokenizer, load, save

BOXED = [name for name in methods.names() if methods.get(name).needs.boxes]
SINGLE = [name for name in methods.names() if name not in ("p2p", *BOXED)]
MOVERS = [name for name in SINGLE if methods.get(name).method.needs.groups]
REST = [name for name in SINGLE if name not in MOVERS]
LONG = "a red car and " + "very " * 80 + "old dog"


def quick(name: str) -> Choice:
    return methods.get(name, **FEW.get(name, {}))


def calls(name: str) -> int:
    """As many as it takes for all that a method does."""
    return 2 if name == "conform" else 1  # which looks back at the call before


def test_every_method_but_p2p_is_covered() -> None:
    assert len(MOVERS) == 9
    assert len(REST) == 4
    assert BOXED == ["boxdiff", "layout-guidance", "bounded-attention"]


PROMPTS = [
    "a cat and a dog",  # no modifier
    "a spiky surfboard and a skewered tomato",  # words of several pieces
    "a red dog and a red dog",  # everything twice
    "red dog",  # one group and nothing else
    "dog",  # one word
    "a dog that is red and a cat",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE)
def test_every_method_draws_every_prompt(name: str) -> None:
    found = run(PROMPTS, quick(name), steps=calls(name))
    for latent, losses, prompt in zip(found.latents, found.losses, PROMPTS, strict=True):
        assert torch.isfinite(latent).all(), prompt
        assert not losses.isinf().any(), prompt


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE)
def test_capitals_change_nothing(name: str) -> None:
    lower, upper = (run(prompt, quick(name), steps=1) for prompt in ("a red car and a cat", "A Red Car and a CAT"))
    assert relative(upper.latents, lower.latents) <= 1e-6
    assert [group["object"] for group in upper.metadata[0]["groups"]] == ([(3,), (6,)] if name in MOVERS else [])


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVERS)
def test_without_a_noun_a_method_that_needs_one_says_what_to_do(name: str) -> None:
    with pytest.raises(PromptError, match="name the objects and their modifiers yourself"):
        run("quickly and quietly", quick(name))
    by_hand = run("quickly and quietly", quick(name), steps=calls(name), groups=[("quietly", [])])
    assert torch.isfinite(by_hand.latents).all()


@pytest.mark.parametrize("name", REST)
def test_without_a_noun_the_others_draw(name: str) -> None:
    found = run("quickly and quietly", quick(name), steps=2)
    if name in ("cd", "strd"):  # no noun phrase: plain Stable Diffusion
        assert torch.equal(found.latents, run("quickly and quietly", "sd", steps=2).latents)
    assert torch.isfinite(found.latents).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE)
def test_of_a_prompt_that_is_too_long_nothing_is_lost_silently(name: str) -> None:
    if name in MOVERS:
        with pytest.warns(UserWarning, match="it does not see"), pytest.raises(PromptError, match="dog"):
            run(LONG, quick(name))
        with pytest.warns(UserWarning, match="it does not see"):
            found = run(LONG, quick(name), steps=calls(name), groups=[("car", ["red"])])
    else:
        with pytest.warns(UserWarning, match="it does not see"):
            found = run(LONG, quick(name), steps=1)
    assert torch.isfinite(found.latents).all()


def test_a_word_that_recurs_is_two_objects_in_sentence_order() -> None:
    parsed = parse("a big red dog and a blue dog", clip_tokenizer(), "rules")
    assert [(group.object, group.modifiers) for group in parsed.groups] == [((4,), ((2,), (3,))), ((8,), ((7,),))]


@pytest.mark.slow
def test_nothing_here_warns_unasked() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in SINGLE:
            run("a spiky surfboard and a red dog", quick(name), steps=1)


@contextmanager
def other_defaults() -> Iterator[None]:
    """Tensors are made in float64 on a device that holds no values, unless their maker says otherwise."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.names())
def test_another_default_dtype_and_device_change_nothing(name: str) -> None:
    prompt: Any = ["a red car and a cat", "a blue car and a cat"] if name == "p2p" else "a red car and a cat"
    method = methods.get("p2p") if name == "p2p" else quick(name)
    boxes = {"car": (0, 0, 0.5, 0.7)} if name in BOXED else None
    options: dict[str, Any] = {"steps": calls(name), "trace": True, "boxes": boxes}
    expected = run(prompt, method, **options).latents
    with other_defaults():
        assert torch.equal(run(prompt, method, **options).latents, expected)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_networks_of_several_dtypes_are_named(part: str, dtype: torch.dtype) -> None:
    sd = load()
    getattr(sd, part).to(dtype)
    for call in (
        lambda: Pipeline(sd)("a cat", steps=1),
        lambda: Pipeline(sd).invert(Image.new("RGB", (128, 128)), "a cat", steps=1),
    ):
        with pytest.raises(ValueError, match=rf"{dtype} on cpu.*sd\.unet\.to\("):
            call()


def test_a_network_that_casts_for_itself_runs() -> None:
    class Cancelled(RuntimeError):
        pass

    def cancel(*done: int) -> None:
        raise Cancelled

    sd = load()
    sd.text_encoder.to(torch.bfloat16)
    sd.unet.forward = torch.autocast("cpu", torch.bfloat16)(sd.unet.forward)  # type: ignore[method-assign]
    assert Pipeline(sd)("a cat", steps=1, method="sd", output="latent").latents.isfinite().all()
    with pytest.raises(Cancelled):
        Pipeline(sd)("a cat", steps=1, method="sd", on_call=cancel)


@pytest.mark.slow
def test_nor_do_they_change_pictures_that_exist(tmp_path: Path) -> None:
    def seen(folder: Path) -> tuple[Any, ...]:
        sd = load()
        pipeline, picture = Pipeline(sd), Image.new("RGB", (128, 128), "pink")
        inverted = pipeline.invert(picture, "a red car", steps=2, null_text=NullText(iterations=2))
        made = pipeline("a red car", image=inverted, method="sd", trace=True)
        save(sd, folder, dtype=torch.float16)
        words = sd.maps_of(picture, ["a car"], t=100)
        return (
            made.latents,
            made.trace.maps("car"),
            words,
            load(folder).encode_text(["a red car"]),
            made.trace.mask("car", call=0),
        )

    with other_defaults():
        found = seen(tmp_path / "one")
    for one, other in zip(found, seen(tmp_path / "two"), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_numbers_of_other_libraries_are_taken_as_pythons() -> None:
    plain = run("a red car", "sd", seeds=[0, 1], steps=3, guidance=7.5, batch_size=2)
    others: dict[str, Any] = {
        "seeds": np.arange(2),
        "steps": np.int64(3),
        "guidance": np.float32(7.5),
        "batch_size": np.int32(2),
        "negative_prompt": None,
    }
    result = run("a red car", "sd", **others)
    assert torch.equal(result.latents, plain.latents)
    assert json.dumps(result.metadata) == json.dumps(plain.metadata)
    assert torch.equal(run("a red car", "sd", seeds=(seed for seed in (0, 1)), steps=3).latents, plain.latents)
    noise = np.random.default_rng(0).standard_normal((1, 4, 16, 16), np.float32)
    given = run("a red car", "sd", latents=torch.tensor(noise), steps=2).latents
    turned = np.flip(np.ascontiguousarray(np.flip(noise, 2)), 2)
    for latents in (noise, turned, noise.astype(">f4"), noise.astype(">f8"), np.asfortranarray(noise), noise.tolist()):
        assert torch.equal(run("a red car", "sd", latents=latents, steps=2).latents, given)
    eighth = torch.tensor(noise).to(torch.float8_e4m3fn)
    coarse = [run("a red car", "sd", latents=latents, steps=2).latents for latents in (eighth, eighth.float())]
    assert torch.equal(*coarse)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seeds": [True]}, r"seeds are \[True\]"),
        ({"seeds": "01"}, "seeds are '01'"),
        ({"seeds": [1.0]}, r"seeds are \[1\.0\]"),
        ({"seeds": 3}, "seeds are 3"),
        ({"seeds": np.array(3)}, r"seeds are array\(3\)"),
        ({"guidance": True}, "guidance is True"),
        ({"guidance": "7"}, "guidance is '7'"),
        ({"guidance": np.float32("nan")}, "guidance is"),
        ({"steps": 2.5}, r"steps is 2\.5"),
        ({"steps": True}, "steps is True"),
        ({"negative_prompt": 0}, "negative_prompt is 0"),
        ({"latents": "noise"}, "latents are str"),
        ({"latents": torch.zeros(1, 4, 16, 16).to_sparse()}, "latents are .*sparse.*; expected dense, real values"),
        ({"latents": torch.zeros(1, 4, 16, 16, device="meta")}, "on meta; expected dense, real values"),
        ({"latents": torch.zeros(1, 4, 16, 16, dtype=torch.complex64)}, "complex64.*; expected dense, real values"),
        ({"latents": torch.full((1, 4, 16, 16), 1e300, dtype=torch.float64)}, "latents hold infinite"),
        ({"on_call": 3}, "on_call is 3"),
        ({"batch_size": True}, "batch_size is True"),
    ],
)
def test_values_without_a_plain_meaning_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        run("a red car", "sd", **{"steps": 2, **options})


def test_words_of_a_negative_prompt_that_are_not_seen_are_said() -> None:
    with pytest.warns(UserWarning, match="negative prompt; it does not see: .*old dog"):
        run("a red car", "sd", steps=1, negative_prompt=LONG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("a red car", "sd", steps=1, negative_prompt="blurred")


def test_a_vae_of_other_pictures_gives_latents_alone() -> None:
    """Of depth beside colours, as LDM3D's: refused before there is any work to lose."""
    pipeline = Pipeline(random_model(replace(TINY, vae=replace(TINY.vae, image_channels=4))))
    arguments: dict[str, Any] = {"method": "sd", "steps": 1, "progress": False, "parser": "rules"}
    with pytest.raises(ValueError, match=r"output is 'pil'; expected 'latent' of a VAE of 4 channels"):
        pipeline("a cat", **arguments)
    assert pipeline("a cat", output="latent", **arguments).images is None
