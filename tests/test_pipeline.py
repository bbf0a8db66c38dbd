"""The pipeline on a tiny random model: batches, calls that are made and not made, and EBAMA's loop derived again."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from reference import CountingUNet, noise, pndm, random_model, relative
from torch import Tensor
from torch.nn import functional as F

from ebama import Pipeline, Result, methods
from ebama.energy import EbamaEnergy
from ebama.guidance.conditioning import combine
from ebama.models import StableDiffusionConfig, TextConfig, UNetConfig, VAEConfig
from ebama.prompt import Group
from ebama.samplers import DDIM, PNDM, NoiseSchedule
from ebama.starts import InitialNoise
from ebama.weights import StableDiffusion
from ebama.weights.miniature.world import VOCABULARY

TINY = StableDiffusionConfig(
    unet=UNetConfig(
        widths=(8, 16, 16), attention=(False, True, True), heads=(2, 2, 2), blocks=1, context_width=16, norm_groups=4
    ),
    vae=VAEConfig(widths=(8, 8), blocks=1, norm_groups=4),
    text=TextConfig(width=16, mlp_width=16, layers=1, heads=2),
    sample_size=16,
    name="tiny",
)
SITES = [
    f"{name}.transformer_blocks.0.attn2"
    for name in ("down_blocks.1.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1")
]
CROWN = "a purple crown and a blue suitcase"  # positions: purple 2, crown 3, blue 6, suitcase 7
CAT = "a cat"
ALL_METHODS = ("sd", "ebama", "ebama-official")


@cache
def model() -> StableDiffusion:
    return random_model(TINY)


QUIET: dict[str, Any] = {"steps": 3, "output": "latent", "progress": False, "parser": "rules"}


def run(prompt: str | Sequence[str] = CROWN, *, sd: StableDiffusion | None = None, **options: Any) -> Result:
    return Pipeline(sd or model())(prompt, **(QUIET | options))


def calls_of(**options: Any) -> list[tuple[str, int]]:
    """What `run` asks of the U-Net."""
    unet = model().unet
    assert isinstance(unet, CountingUNet)
    unet.calls.clear()
    run(**options)
    return list(unet.calls)


# --- batches ---


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [PNDM(3), DDIM(3, eta=1.0)], ids=["pndm", "ddim eta=1"])
@pytest.mark.parametrize("method", ALL_METHODS)
def test_a_batch_is_its_samples_one_by_one(method: str, sampler: PNDM | DDIM) -> None:
    prompts, seeds = [CROWN, CAT], [3, 4]  # two groups and one
    together = run(prompts, seeds=seeds, method=method, sampler=sampler)
    single = [run(p, seeds=[s], method=method, sampler=sampler) for p in prompts for s in seeds]
    assert together.latents.shape == (4, 4, 16, 16)
    worst = max(relative(together.latents[i : i + 1], one.latents) for i, one in enumerate(single))
    assert worst <= 1e-3
    torch.testing.assert_close(
        together.losses, torch.cat([one.losses for one in single]), rtol=1e-3, atol=1e-3, equal_nan=True
    )
    assert [(m["prompt"], m["seed"]) for m in together.metadata] == [(p, s) for p in prompts for s in seeds]
    assert together.metadata == [one.metadata[0] for one in single]


@pytest.mark.slow
@pytest.mark.parametrize("method", ALL_METHODS)
def test_the_size_of_batches_changes_nothing(method: str) -> None:
    options: dict[str, Any] = {"seeds": [0, 1], "method": method, "steps": 2, "trace": True}
    whole, *parts = (run([CROWN, CAT], batch_size=n, **options) for n in (4, 3, 1))
    for part in parts:
        assert relative(part.latents, whole.latents) <= 1e-3
        assert part.metadata == whole.metadata
        assert part.trace is not None
        assert whole.trace is not None
        torch.testing.assert_close(part.trace.probabilities, whole.trace.probabilities, rtol=0, atol=2e-3)


def test_as_many_samples_go_together_as_are_asked_for() -> None:
    options: dict[str, Any] = {"method": "sd", "steps": 1, "sampler": "ddim"}
    calls = calls_of(prompt=[CROWN, CAT], seeds=[0, 1, 2], batch_size=4, **options)
    assert calls == [("predict", 8), ("predict", 4)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ALL_METHODS)
def test_the_same_seed_is_the_same_picture_bit_for_bit(method: str) -> None:
    first, second = (run([CROWN, CAT], seeds=[0, 1], method=method) for _ in range(2))
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.losses.nan_to_num(), second.losses.nan_to_num())
    assert not torch.equal(first.latents[0], first.latents[1])
    batch = run(seeds=[7, 9, 7]).latents
    assert relative(batch[0], batch[2]) <= 1e-5  # threads may share out the places of a batch unevenly


# --- what is run, and what is not ---


@pytest.mark.slow
def test_plain_sampling_runs_no_attention_pass() -> None:
    assert calls_of(seeds=[0, 1], method="sd", steps=5) == [("predict", 4)] * 6
    assert calls_of(seeds=[0, 1], method="sd", steps=5, sampler="ddim") == [("predict", 4)] * 5


@pytest.mark.slow
def test_every_guided_call_costs_one_pass_over_the_prompts_branch() -> None:
    assert calls_of(seeds=[0, 1], method="ebama", steps=2) == [("attention", 2), ("predict", 4)] * 3


@pytest.mark.slow
def test_unguided_calls_cost_nothing_extra() -> None:
    made = calls_of(method="ebama-official", steps=50)
    assert made == [("attention", 1), ("predict", 2)] * 26 + [("predict", 2)] * 25


@pytest.mark.slow
def test_a_guidance_scale_of_1_runs_the_prompt_alone() -> None:
    assert calls_of(seeds=[0, 1], method="sd", guidance=1) == [("predict", 2)] * 4
    almost = run(method="sd", guidance=1 + 1e-6).latents
    assert relative(run(method="sd", guidance=1).latents, almost) <= 1e-4
    assert relative(run(method="sd", guidance=7.5).latents, almost) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ebama", "ebama-official"])
def test_no_guided_steps_and_no_step_size_are_plain_sampling(method: str) -> None:
    plain = run([CROWN, CAT], seeds=[0, 1], method="sd")
    none = run([CROWN, CAT], seeds=[0, 1], method=methods.get(method, guided_steps=0))
    assert torch.equal(none.latents, plain.latents)
    assert none.losses.isnan().all()
    still = run([CROWN, CAT], seeds=[0, 1], method=methods.get(method, step_size=0))
    assert torch.equal(still.latents, plain.latents)
    assert still.losses.isfinite().all()
    assert relative(run([CROWN, CAT], seeds=[0, 1], method=method).latents, plain.latents) > 1e-4


@pytest.mark.slow
def test_losses_are_nan_where_a_call_was_not_guided() -> None:
    losses = run([CROWN, CAT], seeds=[0, 1], method=methods.get("ebama", guided_steps=2)).losses
    assert losses.shape == (4, 4)
    assert losses[:, :2].isfinite().all()
    assert losses[:, 2:].isnan().all()
    assert run(method="sd", steps=5).losses.shape == (1, 6)
    assert run(method="sd").losses.isnan().all()


def test_checkpointing_leaves_the_guided_latent_alone() -> None:
    sd, z = model(), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    moved = []
    for checkpoint in (False, True):
        moving = z.clone().requires_grad_()
        records = sd.unet.attention(moving, 481, sd.encode_text([CROWN]), 8, checkpoint=checkpoint)
        loss = paper(records.mean_scores()[0], records.mean_probabilities()[0], CROWN_WORDS, range(1, 8), 0.5)
        moved.append(z - 20 * torch.autograd.grad(loss, moving)[0])
    assert relative(moved[0], z) > 1e-4
    assert relative(moved[1], moved[0]) <= 1e-5


# --- the whole loop once more, sharing nothing but the networks ---

Words = Sequence[tuple[tuple[int, ...], Sequence[tuple[int, ...]]]]
CROWN_WORDS: Words = [((3,), [(2,)]), ((7,), [(6,)])]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def peak(map_: Tensor) -> Tensor:
    line = torch.tensor([math.exp(-1), 1, math.exp(-1)], dtype=map_.dtype)
    window = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(F.pad(map_[None, None], (1, 1, 1, 1), mode="reflect"), window[None, None]).max()


def paper(scores: Tensor, probabilities: Tensor, groups: Words, tokens: Sequence[int], weight: float) -> Tensor:
    """Eqns 1-6 on maps [h, w, key]; every word is one piece."""
    loss = scores.new_zeros(())
    for (noun,), modifiers in groups:
        own = [noun, *(m for (m,) in modifiers)]
        related = [cosine(scores[..., noun], scores[..., m]) for (m,) in modifiers]
        unrelated = [cosine(scores[..., noun], scores[..., token]) for token in tokens if token not in own]
        if related:
            loss = loss - sum(related) / len(related)
        if unrelated:
            loss = loss + sum(unrelated) / len(unrelated)
        loss = loss - weight * peak(probabilities[..., noun])
    return loss


def official(scores: Tensor, probabilities: Tensor, groups: Words, tokens: Sequence[int], weight: float) -> Tensor:
    """The published code's loss on maps [h, w, key]; every word is one piece."""
    sharpened = (100 * probabilities[..., 1:76]).softmax(-1)
    loss = scores.new_zeros(())
    for (noun,), modifiers in groups:
        own = [noun, *(m for (m,) in modifiers)]
        outside = [token for token in tokens if token not in own]
        for (m,) in modifiers:
            loss = loss + 1 - cosine(probabilities[..., noun], probabilities[..., m])
        for token in outside:
            distance = 1 - cosine(probabilities[..., noun], probabilities[..., token])
            loss = loss - max(len(modifiers), 1) * distance / len(outside)
        loss = loss - weight * peak(sharpened[..., noun - 1])
    return loss


def derived_run(
    seed: int, steps: int, energy: Callable[..., Tensor], step_size: float, weight: float, guided: int
) -> tuple[Tensor, list[float]]:
    """PNDM, classifier-free guidance and gradient steps for CROWN, one sample, from full forwards of the U-Net."""
    unet = model().unet
    text, empty = model().encode_text([CROWN]), model().encode_text([""])
    losses = []

    def move(z: Tensor, t: int, i: int) -> Tensor:
        if i >= guided:
            return z
        moving = z.clone().requires_grad_()
        _, records = unet(moving, t, text, record=SITES)
        scores = torch.cat([r.scores[0] for r in records]).double()  # sites x heads, [6, 64, 77]
        means = [maps.mean(0).reshape(8, 8, 77) for maps in (scores, scores.softmax(-1))]
        loss = energy(*means, CROWN_WORDS, range(1, 8), weight)
        losses.append(loss.item())
        return z - step_size * torch.autograd.grad(loss, moving)[0]

    @torch.no_grad()
    def denoise(z: Tensor, t: int, i: int) -> Tensor:
        plain, prompted = unet(z, t, empty), unet(z, t, text)
        return plain + 7.5 * (prompted - plain)

    return pndm(denoise, noise(seed), steps, move), losses


@pytest.mark.slow
@pytest.mark.parametrize(("name", "energy"), [("ebama", paper), ("ebama-official", official)])
@pytest.mark.parametrize("guided", [3, pytest.param(7, marks=pytest.mark.slow)])
def test_guided_sampling_equals_its_derivation(name: str, energy: Callable[..., Tensor], guided: int) -> None:
    method = methods.get(name, step_size=3.0, intensity_weight=2.0, guided_steps=guided)
    found = run(method=method, seeds=[11], steps=6)
    expected, losses = derived_run(11, 6, energy, 3.0, 2.0, guided)
    assert relative(found.latents, expected) <= 1e-4
    assert found.losses[0, :guided].tolist() == pytest.approx(losses, rel=1e-4, abs=1e-5)
    assert relative(run(method="sd", seeds=[11], steps=6).latents, expected) > 1e-3


# --- what goes in ---


@pytest.mark.slow
def test_whoever_listens_hears_of_every_call_and_can_stop_the_run() -> None:
    heard: list[tuple[int, int]] = []
    run(seeds=[0, 1, 2], method="sd", sampler=PNDM(2), batch_size=2, on_call=lambda *call: heard.append(call))
    assert heard == [(i, 6) for i in range(1, 7)]  # two batches of three calls

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        run(on_call=stop)


@pytest.mark.slow
def test_given_latents_replace_the_seeds_noise() -> None:
    drawn = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in (5, 6)])
    given, seeded = run(latents=drawn, method="sd"), run(seeds=[5, 6], method="sd")
    assert torch.equal(given.latents, seeded.latents)
    assert [m["seed"] for m in given.metadata] == [None, None]
    wide = torch.randn(4, 4, 16, 8, generator=torch.Generator().manual_seed(1))
    found = run([CROWN, CAT], latents=wide, trace=True)
    assert found.latents.shape == wide.shape
    assert found.trace is not None
    assert found.trace.scores.shape == (4, 4, 8, 4, 77)
    assert [m["prompt"] for m in found.metadata] == [CROWN, CROWN, CAT, CAT]


@pytest.mark.slow
def test_noise_in_between_comes_from_the_seeds_or_the_samples_numbers() -> None:
    same, noisy = torch.zeros(2, 4, 16, 16), {"method": "sd", "sampler": DDIM(3, eta=1.0)}
    first, second = run(latents=same, **noisy).latents
    assert relative(first, second) > 1e-2
    seeded = run(latents=same, seeds=[5, 6], **noisy).latents
    for k, seed in enumerate((5, 6)):
        assert relative(run(latents=same[:1], seeds=[seed], **noisy).latents[0], seeded[k]) <= 1e-5
    assert relative(seeded[0], first) > 1e-2


def test_noise_depends_on_the_seed_alone() -> None:
    expected = InitialNoise.from_seed((1, 4, 2, 2), 3).noise
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(InitialNoise.from_seed((1, 4, 2, 2), 3).noise, expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ebama", "ane", "syngen"])
def test_a_callers_inference_mode_does_not_switch_guidance_off(method: str) -> None:
    expected = run(method=method).latents
    assert relative(run(method="sd").latents, expected) > 1e-4
    with torch.inference_mode():
        assert torch.equal(run(method=method).latents, expected)
        assert torch.equal(Pipeline(model(), checkpoint=True)(CROWN, method=method, **QUIET).latents, expected)


@pytest.mark.slow
def test_energies_and_sums_are_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, computed = [], EbamaEnergy.loss

    def loss(self: EbamaEnergy, *maps: Tensor, **options: Any) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return computed(self, *maps, **options)

    monkeypatch.setattr(EbamaEnergy, "loss", loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(method="ebama")
        assert combine(torch.randn(2, 4, 2, 2), torch.ones(1, 2)).dtype == torch.float32
    assert seen == [False] * 4


@pytest.mark.parametrize("shape", [(4, 32, 32), (1, 3, 32, 32), (3, 4, 32, 32), (0, 4, 32, 32)])
def test_latents_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(str(list(shape)))}; expected \[N, 4, h, w\].*multiple.* 2"):
        run([CROWN, CAT], latents=torch.zeros(shape))


@pytest.mark.slow
def test_groups_by_words_by_position_and_by_parsing() -> None:
    parsed = run()
    words = run(groups=[("crown", ["purple"]), ("suitcase", ["blue"])])
    positions = run(groups=[Group((3,), ((2,),)), Group((7,), ((6,),))])
    assert torch.equal(words.latents, parsed.latents)
    assert torch.equal(positions.latents, parsed.latents)
    assert words.metadata[0]["groups"] == [
        {"object": (3,), "modifiers": ((2,),)},
        {"object": (7,), "modifiers": ((6,),)},
    ]
    assert torch.equal(run(groups=[["crown", ["purple"]], ["suitcase", ["blue"]]]).latents, parsed.latents)  # of JSON
    other = run(groups=[("crown", ["blue"])])
    assert other.metadata[0]["groups"] == [{"object": (3,), "modifiers": ((6,),)}]
    assert relative(other.latents, parsed.latents) > 1e-5


@pytest.mark.slow
def test_several_prompts_take_a_list_of_groups_each() -> None:
    both = run([CROWN, CAT], groups=[[("crown", ["blue"])], [("cat", [])]])
    assert relative(both.latents[:1], run(groups=[("crown", ["blue"])]).latents) <= 1e-3
    assert relative(both.latents[1:], run(CAT).latents) <= 1e-3
    with pytest.raises(ValueError, match="1 entries for 2 prompts"):
        run([CROWN, CAT], groups=[[("crown", ["blue"])]])
    with pytest.raises(ValueError, match="expected an object and a list of modifiers"):
        run([CROWN, CAT], groups=[("crown", ["blue"]), ("cat", [])])


def test_plain_sampling_needs_no_noun_and_guidance_does() -> None:
    assert run("and", method="sd").latents.isfinite().all()
    with pytest.raises(ValueError, match="no noun"):
        run("and", method="ebama")


@pytest.mark.slow
def test_the_negative_prompt_counts_with_guidance_only() -> None:
    assert relative(run(negative_prompt="a red dog").latents, run().latents) > 1e-4
    assert torch.equal(run(negative_prompt="a red dog", guidance=1).latents, run(guidance=1).latents)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "no prompt"),
        ({"seeds": []}, "seeds are"),
        ({"seeds": [-1]}, "seeds are"),
        ({"seeds": [0.5]}, "seeds are"),
        ({"seeds": 3}, "seeds are 3; expected a list"),
        ({"seeds": torch.rand(2)}, "seeds are"),
        ({"negative_prompt": "\ud800"}, "negative_prompt holds half a character"),
        ({"guidance": math.inf}, "guidance is inf"),
        ({"guidance": math.nan}, "guidance is nan"),
        ({"output": "jpeg"}, "'pil' or 'latent'"),
        ({"latents": torch.full((1, 4, 32, 32), math.nan)}, "latents hold infinite or NaN values"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"guidance": None}, "guidance is None"),
        ({"prompt": [CAT, None]}, "A prompt is None; expected a string"),
        ({"method": "sd", "parser": "nothing"}, "parser='nothing': no such spaCy model"),
        ({"method": "magic"}, "no method 'magic'"),
        ({"sampler": "euler"}, "sampler is 'euler'"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "steps is 1001"),
        ({"prompt": "  "}, "empty"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_runs(options: dict[str, Any], message: str) -> None:
    unet = model().unet
    assert isinstance(unet, CountingUNet)
    unet.calls.clear()
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert not unet.calls


def test_a_latent_that_blows_up_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match=r"'step_size': 1e\+38.*lower its step size"):
        run(method=methods.get("ebama", step_size=1e38))


@pytest.mark.slow
def test_only_a_model_with_a_vocabulary_warns_of_unknown_words() -> None:
    prompt = "a purple zeppelin and a walrus"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(prompt, method="sd")
    miniature = replace(model(), vocabulary=VOCABULARY)
    with pytest.warns(
        UserWarning, match="The embedded miniature does not know: zeppelin, walrus. It knows .*crown.* in .*purple"
    ):
        run(prompt, method="sd", sd=miniature)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("a purple crown and a blue suitcase", method="sd", sd=miniature)


# --- what comes out ---


@pytest.mark.slow
def test_images_are_the_decoded_latents() -> None:
    result = run([CROWN, CAT], seeds=[0, 1], method="sd", output="pil")
    assert result.images is not None
    assert [(image.size, image.mode) for image in result.images] == [((32, 32), "RGB")] * 4
    again = Pipeline(model()).decode(result.latents, batch_size=1)
    differences = [
        max(abs(a - b) for a, b in zip(x.tobytes(), y.tobytes(), strict=True))
        for x, y in zip(result.images, again, strict=True)
    ]
    assert max(differences) <= 1
    with torch.no_grad():
        expected = (model().vae.decode(result.latents[:1] / 0.18215)[0] / 2 + 0.5).clamp(0, 1) * 255
    for y, x in ((0, 0), (3, 25), (30, 7)):
        assert result.images[0].getpixel((x, y)) == pytest.approx(expected[:, y, x].tolist(), abs=0.51)
    assert run(method="sd").images is None
    assert Pipeline(model()).decode(torch.zeros(0, 4, 16, 16)) == []


@pytest.mark.slow
def test_metadata_is_all_it_takes_to_make_a_sample_again() -> None:
    result = run(
        [CROWN, CAT], seeds=[3], method="ebama", sampler=DDIM(4), guidance=5.0, negative_prompt="dull", trace=True
    )
    first, second = result.metadata
    assert json.loads(json.dumps(first)) == {
        "prompt": CROWN,
        "seed": 3,
        "method": {
            "name": "ebama",
            "step_size": 20.0,
            "intensity_weight": 0.5,
            "guided_steps": None,
            "initial_steps": 1,
            "center": False,
            "log_intensity": False,
        },
        "sampler": {"name": "ddim", "steps": 4, "eta": 0.0},
        "guidance": 5.0,
        "negative_prompt": "dull",
        "groups": [{"object": [3], "modifiers": [[2]]}, {"object": [7], "modifiers": [[6]]}],
        "parser": "rules",
        "latent": [4, 16, 16],
        "model": "tiny",
        "fingerprint": model().fingerprint(),
        "versions": first["versions"],
    }
    assert set(first["versions"]) == {"ebama", "torch", "python"}
    assert (second["prompt"], second["groups"]) == (CAT, [{"object": (2,), "modifiers": ()}])


def test_metadata_holds_a_schedule_of_ones_own() -> None:
    (own,) = run(
        CAT, method="sd", sampler=DDIM(2, schedule=NoiseSchedule(beta_end=0.02, kind="scaled_linear"))
    ).metadata
    assert own["sampler"]["schedule"] == {"train_steps": 1000, "beta_start": 0.00085, "beta_end": 0.02}


def test_separators_are_spaces_to_the_parser_and_to_the_model() -> None:
    strange, plain = (run(prompt, method="sd", sampler=DDIM(1)).latents for prompt in ("a red\x1fcat", "a red cat"))
    assert torch.equal(strange, plain)


def test_a_prompt_without_objects_is_sampled_without_guidance() -> None:
    unet = model().unet
    assert isinstance(unet, CountingUNet)
    plain = run(CAT, method="sd", sampler=DDIM(2)).latents
    for name in ("ebama", "ebama-official"):
        unet.calls.clear()
        assert torch.equal(run(CAT, method=name, groups=[], sampler=DDIM(2)).latents, plain)
        assert {kind for kind, _ in unet.calls} == {"predict"}


def test_a_model_without_sites_at_16x16_is_guided_at_the_nearest() -> None:
    sd = model()
    larger = replace(sd, config=replace(sd.config, sample_size=40))  # its sites are at 20x20 and 10x10
    options: dict[str, Any] = {"steps": 1, "progress": False, "parser": "rules", "output": "latent"}
    result = Pipeline(larger)(CROWN, method="ebama", sampler="ddim", trace=True, **options)
    assert result.trace is not None
    assert {site.resolution for site in result.trace.sites} == {(20, 20)}
    assert not torch.equal(result.latents, Pipeline(larger)(CROWN, method="sd", sampler="ddim", **options).latents)


@pytest.mark.slow
def test_the_trace_shows_the_prompts_branch_of_every_call() -> None:
    plain = run([CROWN, CAT], seeds=[0, 1], method="sd")
    traced = run([CROWN, CAT], seeds=[0, 1], method="sd", trace=True)
    assert plain.trace is None
    assert traced.trace is not None
    assert relative(traced.latents, plain.latents) <= 1e-4
    assert traced.trace.timesteps == (667, 334, 334, 1)
    assert traced.trace.scores.shape == traced.trace.probabilities.shape == (4, 4, 8, 8, 77)
    assert traced.trace.scores.dtype == torch.float16
    z = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))[None]
    with torch.no_grad():
        _, records = model().unet(z, 667, model().encode_text([CAT]), record=SITES)
    scores = torch.cat([r.scores[0] for r in records])
    for kept, maps in ((traced.trace.scores, scores), (traced.trace.probabilities, scores.softmax(-1))):
        torch.testing.assert_close(kept[3, 0].float(), maps.mean(0).reshape(8, 8, 77), rtol=2e-3, atol=1e-4)
