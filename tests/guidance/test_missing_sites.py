"""Networks that list no site of a kind: a method that needs it says so, by its name and before any step."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest
import torch
from foreign_networks import LdmLike
from reference import model, noise

from ebama import Pipeline, methods
from ebama.guidance import Needs, guide_for, start_for
from ebama.models import adapt
from ebama.prompt import Box, Group, parse
from ebama.weights import clip_tokenizer

CROWN = "a purple crown and a blue suitcase"
LAYERS = {"cross": "attn2", "self": "attn1"}
OTHER = {"cross": "self", "self": "cross"}
NEEDY = [(name, kind) for name in methods.names() for kind in methods.get(name).needs.kinds]


def listing(kind: str, keys: int = 77, width: int = 16) -> Any:
    """A network that lists sites of one kind."""
    torch.manual_seed(0)
    names = [f"{block}.{LAYERS[kind]}" for block in ("outer", "inner", "up")]
    return adapt(LdmLike(context_width=width).eval().requires_grad_(False), names, context_shape=(keys, width))


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        ("none", ()),
        ("cross 16x16", ("cross",)),
        ("every cross, self up to 16x16", ("cross", "self")),
        ("self", ("self",)),
        ("the layer itself", ()),
    ],
)
def test_needs_name_kinds(words: str, kinds: tuple[str, ...]) -> None:
    assert Needs(sites=words).kinds == kinds


def test_what_the_methods_need() -> None:
    needs = {name: methods.get(name).needs.kinds for name in methods.names()}
    assert [name for name, kinds in needs.items() if not kinds] == ["sd", "cd"]
    assert [name for name, kinds in needs.items() if "self" in kinds] == [
        "initno",
        "self-cross",
        "bounded-attention",
        "p2p",
    ]
    assert methods.parse("initno,ane").needs.kinds == ("cross", "self")


@pytest.mark.parametrize(("name", "kind"), NEEDY)
def test_a_pipeline_says_what_the_network_lacks(name: str, kind: Literal["cross", "self"]) -> None:
    sd, method = dataclasses.replace(model(), unet=listing(OTHER[kind])), methods.get(name)
    options: dict[str, Any] = {"boxes": {"crown": (0, 0, 0.5, 0.7)}} if method.needs.boxes else {}
    prompts = [CROWN, CROWN] if name == "p2p" else CROWN
    with pytest.raises(ValueError, match=rf"^{name} needs sites of {kind}-attention; .*outer\.attn") as caught:
        Pipeline(sd)(prompts, method=method, steps=1, output="latent", progress=False, parser="rules", **options)
    assert "\n" not in str(caught.value)


def guided(method: Any, network: Any, **options: Any) -> Any:
    groups, context = [Group((2,), ((1,),), box=Box(0, 0, 0.5, 0.5))], torch.randn(1, 7, 10)
    return guide_for(method, network, context, groups, (1, 2, 3), calls=2, **options)(noise(0, 8), 500, 0)


@pytest.mark.parametrize(
    ("method", "named", "kind"),
    [
        ("ane", "ane", "cross"),
        ("layout-guidance", "layout-guidance", "cross"),
        ("initno", "initno", "self"),
        (["ane", "initno"], "initno", "self"),
        ("bounded-attention", "bounded-attention", "self"),
    ],
)
def test_a_guide_says_what_the_network_lacks(method: Any, named: str, kind: Literal["cross", "self"]) -> None:
    with pytest.raises(ValueError, match=rf"^{named} needs sites of {kind}-attention; those that the network lists"):
        guided(method, listing(OTHER[kind], 7, 10))


def test_a_start_says_what_the_network_lacks() -> None:
    start = start_for("initno", listing("cross", 7, 10), torch.randn(1, 7, 10), [Group((2,))], (1, 2, 3), calls=2)
    with pytest.raises(ValueError, match=r"^initno needs sites of self-attention; .*8x8: outer\.attn2"):
        start(noise(0, 8))


def test_a_guide_says_what_the_chosen_sites_lack() -> None:
    network = adapt(LdmLike().eval(), context_shape=(7, 10))
    assert guided("ebama", listing("cross", 7, 10)).losses is not None
    assert guided("initno", network, sites=["up.attn1", "up.attn2"]).losses is not None
    for name, site, kind in (("initno", "up.attn2", "self"), ("ebama", "up.attn1", "cross")):
        with pytest.raises(ValueError, match=rf"^{name} needs sites of {kind}-attention; those that are read .*{site}"):
            guided(name, network, sites=[site])


@pytest.mark.slow
def test_prompts_that_were_parsed_are_groups_and_tokens() -> None:
    network = adapt(LdmLike(context_width=16).eval(), context_shape=(77, 16))
    prompts = [parse(text, clip_tokenizer(), "rules") for text in (CROWN, "a cat and a red dog")]
    z, context = noise(3).expand(2, -1, -1, -1), model().encode_text([CROWN, "a cat and a red dog"])
    expected = guide_for("ebama", network, context, [p.groups for p in prompts], [p.tokens for p in prompts], calls=1)
    for given in (prompts, tuple(prompts)):
        found = guide_for("ebama", network, context, given, calls=1)(z, 500, 0)
        assert torch.equal(found.latents, expected(z, 500, 0).latents)
    alike = guide_for("ebama", network, context, prompts[0], calls=1)(z, 500, 0).latents
    plain = guide_for("ebama", network, context, prompts[0].groups, prompts[0].tokens, calls=1)(z, 500, 0).latents
    assert torch.equal(alike, plain)
    few = guide_for("ebama", network, context, prompts[0], (2, 3, 6, 7), calls=1)(z, 500, 0).latents
    assert not torch.equal(few, plain), "tokens that are given count"
    start = start_for("initno+max_rounds=1+iterations=1+final_iterations=0", network, context, prompts, calls=1)
    assert start(z).shape == z.shape
    with pytest.raises(ValueError, match="Got lists for 1 samples; expected one for each of 2"):
        guide_for("ebama", network, context, prompts[:1], calls=1)
    with pytest.raises(ValueError, match="Got prompts as `parse` reads them"):
        guide_for("ebama", network, context, [prompts[0], prompts[1].groups], (1, 2), calls=1)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="tokens are None; expected the content positions, or prompts"):
        guide_for("ebama", network, context, prompts[0].groups, calls=1)
