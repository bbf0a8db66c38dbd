"""Pictures as noise and back: how near, under which guidance, on which networks; null-text optimisation once more."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from foreign_networks import LDM, LdmLike
from PIL import Image
from reference import TINY, TINY_V2_V, TINY_XL, model, random_model, relative, transfer
from second_device import second_device
from test_images import CATS, CROWN, picture
from torch import Tensor

from ebama import Pipeline, Result, methods
from ebama.models import StableDiffusionConfig, adapt
from ebama.output.recipe import Recipe
from ebama.samplers import DDIM, PNDM
from ebama.starts import Inversion, NullText, described, digest
from ebama.weights import StableDiffusion

GENTLE = DDIM.at((60, 30))
"""Steps that a random network does not tear apart."""
NULL = NullText(guidance=3.0, iterations=2, tolerance=0.0)


@cache
def tiny(config: StableDiffusionConfig) -> StableDiffusion:
    return model() if config is TINY else random_model(config)


@cache
def adapted() -> StableDiffusion:
    """The tiny model on a network in somebody else's style."""
    torch.manual_seed(0)
    net = LdmLike(context_width=16).eval().requires_grad_(False)
    network = adapt(net, LDM, lambda net, z, t, context: net(z, t, context), context_shape=(77, 16))
    return replace(model(), unet=network)


def invert(
    image: Image.Image | Sequence[Image.Image] | None = None,
    prompt: str | Sequence[str] = CATS,
    sd: StableDiffusion | None = None,
    **options: Any,
) -> Inversion:
    sd = sd or model()
    side = sd.config.sample_size * sd.config.vae.factor
    defaults: dict[str, Any] = {"sampler": GENTLE, "progress": False}
    return Pipeline(sd).invert(image or picture(0, side, side), prompt, **(defaults | options))


def back(
    inversion: Inversion, prompt: str | Sequence[str] = CATS, sd: StableDiffusion | None = None, **options: Any
) -> Result:
    defaults: dict[str, Any] = {"method": "sd", "guidance": 1, "output": "latent", "parser": "rules", "progress": False}
    return Pipeline(sd or model())(prompt, image=inversion, **(defaults | options))


def error(inversion: Inversion, sd: StableDiffusion | None = None, **options: Any) -> float:
    """Of the round trip."""
    side = inversion.images[0].size[::-1]
    expected = Pipeline(sd or model()).encode(list(inversion.images), size=side)
    return relative(back(inversion, sd=sd, **options).latents, expected)


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


# --- there and back ---


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: tiny(TINY), lambda: tiny(TINY_V2_V), lambda: tiny(TINY_XL), adapted])
def test_more_rounds_come_back_nearer_on_every_network(make: Any) -> None:
    sd = make()
    errors = [error(invert(sd=sd, rounds=rounds, sampler=DDIM.at((20, 10))), sd) for rounds in (1, 10)]
    assert errors[1] < errors[0] / 10
    assert errors[1] < 0.01


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1, 3.0])
def test_an_inversion_written_out(guidance: float) -> None:
    sd = model()
    z, contexts = Pipeline(sd).encode(picture()), sd.encode_text(["", CATS])
    for t in (1, 501):  # from where the step before ended, told where it goes
        e_u, e_c = sd.unet(z.repeat(2, 1, 1, 1), t, contexts).chunk(2)
        z = transfer(z, e_u + guidance * (e_c - e_u), max(t - 500, 0), max(t - 500, 0) - t)
    found = invert(sampler="ddim", steps=2, guidance=guidance)
    assert relative(found.latents, z) <= 1e-5
    assert found.sampler == DDIM(2)


@pytest.mark.slow
def test_a_batch_is_what_its_pictures_are_one_by_one() -> None:
    pictures, prompts = [picture(1), picture(2)], [CATS, CROWN]
    options: dict[str, Any] = {"null_text": replace(NULL, iterations=1), "sampler": GENTLE}
    together = invert(pictures, prompts, **options)
    assert together.null_texts is not None
    for k in range(2):
        one = invert(pictures[k], prompts[k], **options)
        assert one.null_texts is not None
        assert relative(together.latents[k : k + 1], one.latents) <= 1e-5
        assert relative(together.null_texts[k : k + 1], one.null_texts) <= 1e-3
        assert together.recipes[k] == one.recipes[0]
        found = back(together, prompts, guidance=3.0).latents[k : k + 1]
        assert relative(found, back(one, prompts[k], guidance=3.0).latents) <= 1e-3
    assert torch.equal(invert(pictures[0], [CATS, CATS]).latents, invert([pictures[0]] * 2, CATS).latents)


def test_an_inversion_of_another_size_comes_back_at_it() -> None:
    found = invert(size=(32, 48))
    assert back(found).latents.shape == found.latents.shape == (1, 4, 16, 24)
    assert found.images[0].size == (48, 32)


# --- null texts ---


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, TINY_XL], ids=["v1", "xl"])
def test_null_texts_keep_guided_sampling_near(config: StableDiffusionConfig) -> None:
    sd = tiny(config)
    plain = error(invert(sd=sd), sd, guidance=3.0)
    options = replace(NULL, iterations=8, learning_rate=0.05)
    assert error(invert(sd=sd, null_text=options), sd, guidance=3.0) < 0.9 * plain


def written_out(path: Sequence[Tensor], prompt: str, options: NullText, tolerance: float) -> list[Tensor]:
    """Null-text optimisation of one picture as its authors write it, in plain steps of Adam."""
    sd, made = model(), []
    empty, context = sd.encode_text(["", prompt]).split(1)
    z = path[0]
    for i, (t, s) in enumerate(((60, 30), (30, 0))):
        rate, limit = options.learning_rate * (1 - i / 4), tolerance + i * 1e-3 / 2
        with torch.no_grad():
            e_c = sd.unet(z, t, context)

        def after(tokens: Tensor) -> Tensor:
            e_u = sd.unet(z, t, tokens)  # noqa: B023
            return transfer(z, e_u + options.guidance * (e_c - e_u), t, t - s)  # noqa: B023

        first = second = torch.zeros_like(empty)
        for k in range(1, options.iterations + 1):
            tokens = empty.detach().requires_grad_(True)
            loss = (after(tokens) - path[i + 1]).square().mean()
            (gradient,) = torch.autograd.grad(loss, tokens)
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            step = first / (1 - 0.9**k) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
            empty = tokens.detach() - rate * step
            if loss.item() <= limit:
                break
        made.append(empty)
        with torch.no_grad():
            z = after(empty)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.0, 1e3])
def test_null_texts_written_out(tolerance: float) -> None:
    sd, options = model(), replace(NULL, tolerance=tolerance)
    z, context = Pipeline(sd).encode(picture()), sd.encode_text([CATS])
    with torch.no_grad():
        path = GENTLE.invert(lambda z, t: sd.unet(z, t, context), z)
    expected = written_out(path, CATS, options, tolerance)
    found = invert(null_text=options).null_texts
    assert found is not None
    assert found.shape == (1, 2, 77, 16)
    start = sd.encode_text([""])
    for i in range(2):
        assert relative(found[:, i] - start, expected[i] - start) <= 2e-2  # Adam divides by what is nearly nothing
        assert relative(found[:, i], expected[i]) <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sd", "strd", "strd+mode=keys", "ebca", "cd", pytest.param("ebama", marks=pytest.mark.slow)]
)
def test_null_texts_stand_for_the_negative_prompt_in_every_method(name: str) -> None:
    """Those of the negative prompt itself change nothing, and others change the outcome."""
    method, found = methods.parse(name), invert()
    tokens = model().encode_text([""])[:, None].expand(1, 2, 77, 16)
    expected = back(found, method=method, guidance=3.0).latents
    same = back(replace(found, null_texts=tokens), method=method, guidance=3.0).latents
    assert torch.equal(same, expected)
    other = replace(found, null_texts=tokens.flip(-1))
    assert relative(back(other, method=method, guidance=3.0).latents, expected) > 1e-3
    if name != "cd":  # which runs the negative prompt at any scale
        assert torch.equal(
            back(other, method=method, guidance=1).latents, back(found, method=method, guidance=1).latents
        )


# --- methods, traces, recipes ---


@pytest.mark.parametrize("name", ["p2p", slow("ebama"), slow("bounded-attention")])
def test_a_method_starts_from_an_inversion(name: str) -> None:
    prompts, found = ["a red cat", "a blue cat"], invert(prompt="a red cat")
    method = methods.get(name, **{"max_rounds": 1} if name == "bounded-attention" else {})
    boxes = [{"cat": (0, 0, 0.5, 0.7)}] * 2 if method.needs.boxes else None
    made = back(found, prompts, method=method, guidance=2.0, trace=True, boxes=boxes)
    plain = back(found, prompts, guidance=2.0).latents
    if name == "p2p":
        assert relative(made.latents[:1], plain[:1]) <= 1e-5
    assert not torch.equal(made.latents[1:], plain[1:])
    assert made.trace is not None
    assert made.trace.timesteps == (60, 30)
    assert made.trace.maps("cat", sample=1).isfinite().all()


@pytest.mark.slow
def test_a_recipe_says_how_its_picture_was_inverted() -> None:
    found = invert(null_text=NULL, rounds=2)
    metadata = back(found).metadata[0]
    assert metadata["image"]["sha256"] == digest(picture())
    assert metadata["image"]["inversion"] == {
        "prompt": CATS,
        "guidance": 1.0,
        "rounds": 2,
        "null_text": {"guidance": 3.0, "iterations": 2, "learning_rate": 0.01, "tolerance": 0.0},
    }
    assert (metadata["seed"], metadata["sampler"]["custom_timesteps"]) == (None, [60, 30])
    assert Recipe.from_metadata(metadata).image == metadata["image"]
    again = described(Recipe.from_metadata(json.loads(json.dumps(metadata))).inversion)
    assert again == {"prompt": CATS, "guidance": 1.0, "rounds": 2, "null_text": NULL}


def test_an_inversion_is_told_and_made_again_by_its_recipe() -> None:
    calls: list[tuple[int, int]] = []
    pictures, options = [picture(1), picture(2)], {"guidance": 2.0, "negative_prompt": "a dog"}
    found = invert(pictures, batch_size=1, on_call=lambda *call: calls.append(call), **options)
    assert calls == [(done, 4) for done in range(1, 5)]
    with pytest.raises(ZeroDivisionError):  # as a listener ends a run
        invert(on_call=lambda done, total: done // 0)
    again = invert(pictures[1], **described(found.recipes[1]["inversion"]))
    assert torch.equal(again.latents[0], found.latents[1])


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (3, r"image\.inversion is 3; expected a prompt"),
        ({}, "expected a prompt"),
        ({"prompt": CATS, "image": "/etc/passwd"}, "expected a prompt"),
        ({"prompt": CATS, "null_text": True}, r"null_text is True; expected values for guidance, iterations"),
        ({"prompt": CATS, "null_text": {"steps": 1}}, "expected values for"),
        ({"prompt": CATS, "null_text": {"iterations": -1}}, "iterations is -1"),
    ],
    ids=str,
)
def test_a_recipe_that_no_inversion_had_is_one_line(stored: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        described(stored)


@pytest.mark.slow
def test_on_another_device() -> None:
    null_text = replace(NULL, iterations=1)
    expected = invert(null_text=null_text)
    with second_device() as device:
        parts = {name: copy.deepcopy(getattr(model(), name)) for name in ("unet", "vae", "text_encoder")}
        there = replace(model(), **{name: part.to(device) for name, part in parts.items()})
        found = invert(sd=there, null_text=null_text)
        made = back(found, sd=there, guidance=3.0).latents
        noised = Pipeline(there)(CATS, image=picture(), method="sd", steps=2, output="latent", progress=False)
    assert relative(found.latents, expected.latents) <= 1e-4
    assert relative(made, back(expected, guidance=3.0).latents) <= 1e-3
    here = Pipeline(model())(CATS, image=picture(), method="sd", steps=2, output="latent", progress=False)
    assert relative(noised.latents, here.latents) <= 1e-4


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sampler": "pndm"}, "only DDIM can be inverted"),
        ({"sampler": PNDM(2)}, "only DDIM can be inverted"),
        ({"sampler": DDIM(2, eta=1.0)}, "only eta = 0 can be inverted"),
        ({"rounds": 0}, "rounds is 0"),
        ({"null_text": 10}, "null_text is 10; expected True, False or NullText"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"prompt": [CATS] * 3, "image": [picture()] * 2}, "2 pictures for 3 prompts"),
        ({"prompt": []}, "There is no prompt"),
        ({"prompt": 3}, "A prompt is 3"),
        ({"image": "nothing"}, "No such file"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, OSError), match=says):
        invert(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strength": 0.5}, r"strength is 0\.5; expected none beside an Inversion"),
        ({"latents": torch.zeros(1, 4, 16, 16)}, "latents is .*; expected none beside an Inversion"),
        ({"size": (64, 64)}, "asks for"),
        ({"method": "initno", "prompt": CATS}, "chooses the initial noise"),
        ({"prompt": [CATS] * 3}, "2 pictures for 3 prompts"),
    ],
)
def test_what_an_inversion_decides_is_not_said_twice(options: dict[str, Any], says: str) -> None:
    inversion = invert([picture(1), picture(2)]) if len(options.get("prompt", "")) == 3 else invert()
    with pytest.raises(ValueError, match=says):
        back(inversion, **options)


@pytest.mark.parametrize("options", [{"iterations": 0}, {"learning_rate": 0}, {"tolerance": -1}, {"guidance": "7"}])
def test_null_text_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        NullText(**options)
