"""`Pipeline(dataclasses.replace(sd, unet=network))`: every method, traces and budgets on an adapted network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_networks import DIT, FUSED, LDM, DitLike, FusedLike, LdmLike
from reference import FEW, model, noise, relative
from torch import Tensor

from ebama import Pipeline, Result, methods
from ebama.guidance import guide_for
from ebama.models import AttentionRecords, Control, Network, Site, adapt
from ebama.models.network import Kind
from ebama.prompt import parse
from ebama.runtime import memory
from ebama.samplers import DDIM
from ebama.trace import TraceOptions
from ebama.weights import StableDiffusion, save

CROWN, CATS = "a purple crown and a blue suitcase", "a furry cat and a red dog"
STYLES: dict[str, Any] = {"ldm": (LdmLike, LDM), "fused": (FusedLike, FUSED), "dit": (DitLike, DIT)}


@cache
def foreign(style: str) -> StableDiffusion:
    make, layers = STYLES[style]
    torch.manual_seed(0)
    net = make(context_width=16).eval().requires_grad_(False)
    network = adapt(net, layers, lambda net, z, t, context: net(z, t, context), context_shape=(77, 16))
    return dataclasses.replace(model(), unet=network)


def run(sd: StableDiffusion, prompt: str | Sequence[str], method: Any, **options: Any) -> Result:
    defaults: dict[str, Any] = {"steps": 2, "output": "latent", "progress": False, "parser": "rules", "sampler": "ddim"}
    return Pipeline(sd, memory=options.pop("memory", None))(prompt, method=method, **(defaults | options))


@cache
def plain(style: str) -> Tensor:
    """What both prompts make without guidance."""
    return run(foreign(style), [CROWN, CATS], "sd", seeds=[3], steps=1).latents


PLACES = ("p2p", "cd", "ebca", "ebama", "attention-regulation", "bounded-attention")
"""One method for each place where methods act, and for each kind of layer."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "name"),
    [("ldm", name) for name in methods.names()] + [(style, name) for style in ("fused", "dit") for name in PLACES],
)
def test_a_batch_of_every_method_is_what_its_samples_are_one_by_one(style: str, name: str) -> None:
    sd, method = foreign(style), methods.get(name, **FEW.get(name, {}))
    if method.method.edits_prompts:
        together = run(sd, [CROWN, CATS], method, seeds=[3, 4], steps=1)
        for k, seed in enumerate((3, 4)):
            alone = run(sd, [CROWN, CATS], method, seeds=[seed], steps=1)
            assert relative(together.latents[k::2], alone.latents) <= 1e-5
        return
    boxes = [{"crown": (0, 0, 0.5, 0.7)}, {"cat": (0.3, 0.3, 1, 1)}] if method.needs.boxes else [{}, {}]
    together = run(sd, [CROWN, CATS], method, seeds=[3], steps=1, boxes=boxes)
    for k, prompt in enumerate((CROWN, CATS)):
        alone = run(sd, prompt, method, seeds=[3], steps=1, boxes=boxes[k])
        assert relative(together.latents[k : k + 1], alone.latents) <= 1e-5
    assert name == "sd" or relative(together.latents, plain(style)) > 1e-6


@pytest.mark.parametrize("style", STYLES)
def test_traces_of_a_foreign_network(style: str) -> None:
    sd = foreign(style)
    found = run(sd, CROWN, "ebama", trace=True)
    side = 8 if style == "dit" else 16
    assert found.trace is not None
    assert found.trace.scores.shape == (1, 2, side, side, 77)
    assert found.trace.maps("crown").isfinite().all()
    assert {site.kind for site in found.trace.sites} == {"cross"}
    own = run(sd, CROWN, "sd", trace=TraceOptions(kind="self", head=1)).trace
    assert own is not None
    assert own.probabilities.shape[-1] == side**2


@pytest.mark.slow
@pytest.mark.parametrize("style", [pytest.param("ldm", marks=pytest.mark.slow), "dit"])
def test_a_memory_budget_on_a_foreign_network(style: str) -> None:
    sd = foreign(style)
    found, plain = (run(sd, [CROWN, CATS], "ane+max_refinements=2", **more) for more in ({"memory": "64GB"}, {}))
    assert relative(found.latents, plain.latents) <= 1e-5
    needs = memory.footprint(sd, 16)
    assert 0 < needs.checkpointed <= needs.guided
    with pytest.raises(ValueError, match="is too little"):
        run(sd, CROWN, "ane", memory="1MB")


def test_a_budget_where_no_site_has_the_maps_that_usually_guide() -> None:
    sd = foreign("ldm")  # maps of 16x16 and 8x8 for the latent that is measured, where 4x4 would guide
    small = dataclasses.replace(sd, config=dataclasses.replace(sd.config, sample_size=64))
    assert memory.footprint(small, 16).guided > memory.footprint(small, 16).prediction


def test_checkpointing_on_a_foreign_network() -> None:
    sd, options = foreign("ldm"), {"steps": 1, "output": "latent", "progress": False, "parser": "rules"}
    plain, checkpointed = (Pipeline(sd, checkpoint=on)(CROWN, method="ebca,ebama", **options) for on in (False, True))  # type: ignore[arg-type]
    assert relative(checkpointed.latents, plain.latents) <= 1e-5


def test_a_foreign_network_cannot_be_saved_as_a_checkpoint(tmp_path: Path) -> None:
    for sd in (foreign("ldm"), dataclasses.replace(model(), unet=OwnClass(model().unet))):
        for path, layout in ((tmp_path / "folder", "diffusers"), (tmp_path / "file.safetensors", "compvis")):
            with pytest.raises(ValueError, match="which no layout has; only a UNet can be saved"):
                save(sd, path, layout)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_pictures_and_recipes_of_a_foreign_network() -> None:
    sd = foreign("ldm")
    found = run(sd, CROWN, "syngen", output="pil", seeds=[0])
    assert found.images is not None
    assert found.images[0].size == (32, 32)
    assert found.metadata[0]["fingerprint"] == sd.fingerprint() != model().fingerprint()


class OwnClass:
    """A network by its three methods alone, no module; `hands_on` says whether moved contexts travel."""

    def __init__(self, network: Network, asks: bool = True) -> None:
        self.network, self.asks = network, asks

    def sites(self, latent_shape: Sequence[int], /) -> list[Site]:
        return self.network.sites(latent_shape)

    def attention(
        self,
        z: Tensor,
        t: int | Tensor,
        context: Tensor,
        resolution: int | tuple[int, int] | None = 16,
        kind: Kind | None = "cross",
        *,
        sites: Iterable[Site | str] | None = None,
        control: Control | None = None,
        checkpoint: bool = False,
    ) -> AttentionRecords:
        return self.network.attention(z, t, context, resolution, kind, sites=sites, control=control)

    def __call__(
        self,
        z: Tensor,
        t: int | Tensor,
        context: Tensor,
        *,
        record: Iterable[Site | str] | None = None,
        control: Control | None = None,
        checkpoint: bool = False,
    ) -> Any:
        return self.network(z, t, context, record=record, control=control if self.asks else None)


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.names())
def test_a_class_of_your_own_runs_every_method(name: str) -> None:
    sd, prompts = model(), [CROWN, CATS] if name == "p2p" else CROWN
    own = dataclasses.replace(sd, unet=OwnClass(sd.unet))
    options: dict[str, Any] = {"seeds": [1], "steps": 1}
    method = methods.get(name, **FEW.get(name, {}))
    if method.needs.boxes:
        options["boxes"] = {"crown": (0, 0, 0.5, 0.7)}
    assert torch.equal(run(own, prompts, method, **options).latents, run(sd, prompts, method, **options).latents)
    if name == "ebama":
        run(own, prompts, name, memory="64GB", trace=True, **options)


def forgetful(sd: StableDiffusion) -> StableDiffusion:
    """The same U-Net, whose cross-attention layers give on the context that they got."""
    unet: Any = copy.deepcopy(sd.unet)
    for module in unet.modules():
        if hasattr(module, "attn2"):
            own = module.attn2.forward
            module.attn2.forward = lambda x, context, own=own, **options: own(x, context, **options)._replace(
                context=context
            )
    return dataclasses.replace(sd, unet=unet)


@pytest.mark.slow
def test_ebca_on_a_network_that_drops_the_moved_context_is_refused() -> None:
    sd = model()
    lost = forgetful(sd)
    assert torch.equal(run(lost, CROWN, "sd").latents, run(sd, CROWN, "sd").latents)
    for method in ("ebca", "ebca,ane", "ane,ebca"):
        with pytest.raises(ValueError, match=r"attn2 did not get the context that .*attn2 made") as caught:
            run(lost, CROWN, method)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no cross-attention site asked for the context"):
        run(dataclasses.replace(sd, unet=OwnClass(sd.unet, asks=False)), CROWN, "ebca")


def test_a_guide_and_a_run_of_the_pipeline_are_the_same() -> None:
    sd = foreign("ldm")
    parsed, context = parse(CROWN, sd.tokenizer, "rules"), sd.encode_text([CROWN])
    z, empty = noise(5), sd.encode_text([""])
    guide = guide_for("ebama", sd.unet, context, parsed.groups, parsed.tokens, calls=1)
    moved = guide(z, 1, 0).latents
    with torch.no_grad():
        plain, prompted = (sd.unet(moved, 1, rows) for rows in (empty, context))
    expected = DDIM(1).sample(lambda z, t: plain + 7.5 * (prompted - plain), moved)
    assert relative(run(sd, CROWN, "ebama", steps=1, latents=z).latents, expected) <= 1e-5
