"""What a trace keeps, at which price, and how one asks it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import CountingUNet, model, noise, relative, run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ebama import methods
from ebama.samplers import DDIM
from ebama.trace import Trace, TraceOptions
from ebama.trace.map_rows import map_rows

CROWN = "a purple crown and a blue suitcase"  # purple 2, crown 3, blue 6, suitcase 7
CAT = "a cat"


def trace_of(prompt: str | list[str] = CROWN, method: Any = "sd", options: Any = True, **others: Any) -> Trace:
    trace = run(prompt, method, trace=options, **others).trace
    assert trace is not None
    return trace


def scores_at_first_call(prompt: str, seed: int, sites: list[str], t: int = 501) -> list[Tensor]:
    """[head, query, key] of each site, from a plain forward of the prompt alone."""
    with torch.no_grad():
        _, records = model().unet(noise(seed), t, model().encode_text([prompt]), record=sites)
    return [record.scores[0] for record in records]


def all_sites(kind: str, resolution: tuple[int, int]) -> list[str]:
    return [site.name for site in model().unet.sites((16, 16)) if (site.kind, site.resolution) == (kind, resolution)]


# --- what is kept ---


@pytest.mark.parametrize(
    ("options", "sites", "head", "shape"),
    [
        (TraceOptions(), all_sites("cross", (16, 16)), None, (16, 16, 77)),
        (TraceOptions(resolution=8), all_sites("cross", (8, 8)), None, (8, 8, 77)),
        (TraceOptions(resolution=(8, 8), head=1), all_sites("cross", (8, 8)), 1, (8, 8, 77)),
        (TraceOptions(kind="self", resolution=8), all_sites("self", (8, 8)), None, (8, 8, 64)),
        (TraceOptions(sites=(all_sites("cross", (8, 8))[1],), head=0), all_sites("cross", (8, 8))[1:2], 0, (8, 8, 77)),
    ],
    ids=["default", "resolution", "one head", "self", "one site, one head"],
)
def test_the_chosen_sites_and_heads(
    options: TraceOptions, sites: list[str], head: int | None, shape: tuple[int, ...]
) -> None:
    trace = trace_of([CAT, CROWN], options=options, seeds=[3], sampler=DDIM(2))
    assert [site.name for site in trace.sites] == sites
    assert trace.head == head
    assert trace.scores.shape == trace.probabilities.shape == (2, 2, *shape)
    assert trace.scores.dtype == torch.float16
    scores = scores_at_first_call(CROWN, 3, sites)
    for kept, maps in ((trace.scores, scores), (trace.probabilities, [s.softmax(-1) for s in scores])):
        heads = torch.cat([m if head is None else m[head : head + 1] for m in maps])
        torch.testing.assert_close(kept[1, 0].float(), heads.mean(0).reshape(shape), rtol=2e-3, atol=2e-4)
    energy = torch.cat([s if head is None else s[head : head + 1] for s in scores]).exp().sum(-1).log().mean()
    assert trace.energy[1, 0].item() == pytest.approx(-energy.item(), rel=1e-4)


def test_what_was_not_kept_says_how_to_ask_for_it() -> None:
    trace = trace_of(options=TraceOptions(scores=False))
    assert set(trace.kept) == {"probabilities", "energy", "losses", "gradient_norms"}
    for name in ("scores", "latents"):
        with pytest.raises(ValueError, match=rf"kept no {name}.*TraceOptions\({name}=True\)"):
            getattr(trace, name)
    with pytest.raises(ValueError, match="kept no scores"):
        trace.map("crown", of="scores")


@pytest.mark.slow
def test_the_clean_latents_are_those_the_noise_estimates_predict() -> None:
    result = run([CAT, CROWN], "sd", seeds=[3], sampler=DDIM(2), trace=TraceOptions(latents=True), guidance=5.0)
    assert result.trace is not None
    latents = result.trace.latents
    assert latents.shape == (2, 2, 4, 16, 16)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = float(torch.cumprod(1 - betas, 0)[501])
    with torch.no_grad():
        z = noise(3).expand(2, -1, -1, -1)
        without, with_prompt = model().unet(z, 501, model().encode_text(["", CROWN]))
    epsilon = without + 5 * (with_prompt - without)
    expected = (noise(3)[0] - (1 - abar) ** 0.5 * epsilon) / abar**0.5
    assert relative(latents[1, 0], expected) <= 2e-3
    assert relative(latents[:, -1], result.latents) <= 0.1  # the last call's are nearly the result, at timestep 1


@pytest.mark.slow
def test_trace_keeps_losses_and_gradient_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    unet = model().unet
    forward = unet.forward

    def watching(z: Tensor, *args: Any, **options: Any) -> Any:
        seen.append(z.clone())
        return forward(z, *args, **options)

    monkeypatch.setattr(unet, "forward", watching)
    method = methods.get("ebama", step_size=3.0, guided_steps=1)
    result = run([CROWN, CAT], method, seeds=[3], sampler=DDIM(2), trace=True)
    trace = result.trace
    assert trace is not None
    torch.testing.assert_close(trace.losses, result.losses, rtol=0, atol=0, equal_nan=True)
    moved = (noise(3) - seen[0][:2]).flatten(1).norm(dim=1) / 3.0
    torch.testing.assert_close(trace.gradient_norms[:, 0], moved, rtol=1e-3, atol=1e-6)
    assert trace.losses[:, 1].isnan().all()
    assert trace.gradient_norms[:, 1].isnan().all()
    assert (moved > 0).all()


@pytest.mark.slow
def test_a_sample_that_is_left_alone_has_no_gradient() -> None:
    norms = trace_of([CROWN, CAT], "syngen", seeds=[3]).gradient_norms  # no modifier, nothing to bind
    assert norms[0].isfinite().all()
    assert norms[1].isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("options", [True, TraceOptions(latents=True, kind="self", resolution=8)])
def test_a_trace_of_plain_sampling_costs_no_call_and_no_gradient(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient(*_: Any, **__: Any) -> Any:
        raise AssertionError("plain sampling took a gradient")

    monkeypatch.setattr(torch.autograd, "grad", gradient)
    monkeypatch.setattr(Tensor, "backward", gradient)
    unet = model().unet
    assert isinstance(unet, CountingUNet)
    unet.calls.clear()
    traced = run(CROWN, "sd", sampler=DDIM(3), trace=options)
    assert unet.calls == [("predict", 2)] * 3
    plain = run(CROWN, "sd", sampler=DDIM(3))
    assert plain.trace is None
    assert relative(traced.latents, plain.latents) <= 1e-5
    assert traced.trace is not None
    assert traced.trace.losses.isnan().all()
    assert traced.trace.gradient_norms.isnan().all()
    assert not any(kept.requires_grad for kept in traced.trace.kept.values())


@pytest.mark.slow
def test_trace_joins_batches_in_order() -> None:
    options = TraceOptions(latents=True)
    whole, split = (
        trace_of([CROWN, CAT], "ebama", options, seeds=[3, 4], batch_size=n, sampler=DDIM(2)) for n in (4, 3)
    )
    assert [prompt.prompt for prompt in split.prompts] == [CROWN, CROWN, CAT, CAT]
    assert split.timesteps == (501, 1)
    for name, kept in whole.kept.items():
        torch.testing.assert_close(split.kept[name], kept, rtol=5e-3, atol=2e-3, equal_nan=True)


@pytest.mark.slow
def test_a_coupling_method_keeps_the_order_too() -> None:
    trace = trace_of(["a red cat", "a blue dog"], "p2p", seeds=[3, 4])
    assert [prompt.prompt for prompt in trace.prompts] == ["a red cat", "a red cat", "a blue dog", "a blue dog"]


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "own"}, "kind is 'own'"),
        ({"resolution": 0}, "resolution is 0"),
        ({"resolution": (16,)}, r"resolution is \(16,\)"),
        ({"sites": "mid_block"}, "sites are 'mid_block'"),
        ({"head": -1}, "head is -1"),
        ({"head": True}, "head is True"),
        ({"folder": ""}, "folder is ''; expected a folder's name"),
        ({"folder": 3}, "folder is 3"),
    ],
)
def test_trace_options_refuse_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TraceOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 7}, "No cross-attention site has maps of 7x7"),
        ({"sites": ("nowhere",)}, "no attention site nowhere"),
        ({"sites": tuple(all_sites("cross", (8, 8)) + all_sites("cross", (16, 16)))}, "differ in kind or resolution"),
        ({"head": 2}, "has a head 2"),
    ],
)
def test_sites_that_are_not_there_are_listed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        trace_of(options=TraceOptions(**options))
    assert str(model().unet.sites((16, 16))[0]) in str(error.value)


# --- asking ---


@pytest.fixture(scope="module")
def trace() -> Trace:
    return trace_of(["A spiky cat, a cat and a tiny skateboarding axolotl", CAT], seeds=[3], sampler=DDIM(2))


def test_words_and_their_positions(trace: Trace) -> None:
    words = trace.words()
    assert " ".join(word.text for word in words) == "A spiky cat a cat and a tiny skateboarding axolotl"
    pieces = model().tokenizer.convert_ids_to_tokens(model().tokenizer(trace.prompts[0].prompt)["input_ids"])
    for word in words:
        spelled = "".join(pieces[position].replace("</w>", "") for position in word.positions)
        assert spelled == word.text.lower()
    assert [word.text for word in trace.words(1)] == ["a", "cat"]
    assert max(len(word.positions) for word in words) > 1


def test_the_map_of_a_word_is_the_mean_of_its_pieces(trace: Trace) -> None:
    pieces = next(word.positions for word in trace.words() if word.text == "axolotl")
    expected = sum(trace.probabilities[0, -1, :, :, k].float() for k in pieces) / len(pieces)
    assert torch.allclose(trace.map("axolotl"), torch.as_tensor(expected), atol=1e-6)
    assert torch.equal(trace.map("AXOLOTL"), trace.map(pieces))
    first = trace.map("axolotl", call=0, of="scores")
    assert torch.allclose(first, trace.scores[0, 0][..., list(pieces)].float().mean(-1), atol=1e-5)
    assert torch.equal(trace.maps("axolotl", of="scores")[0], first)
    assert torch.equal(trace.map(2, sample=1), trace.map("cat", sample=1))


def test_a_word_that_recurs_and_words_together(trace: Trace) -> None:
    cats = [word.positions for word in trace.words() if word.text == "cat"]
    assert len(cats) == 2
    for occurrence, positions in ((0, cats[0]), (1, cats[1]), (-1, cats[1])):
        assert torch.equal(trace.map("cat", occurrence=occurrence), trace.map(positions))
    spiky = next(word.positions for word in trace.words() if word.text == "spiky")
    assert torch.equal(trace.map("spiky  cat"), trace.map([*spiky, *cats[0]]))
    with pytest.raises(ValueError, match=r"'cat' is 2 times in .*occurrence 2"):
        trace.map("cat", occurrence=2)


def test_a_word_may_be_decomposed() -> None:
    trace = trace_of(["a caf\u00e9 and a cat"], seeds=[3], sampler=DDIM(1))
    assert torch.equal(trace.map("cafe\u0301"), trace.map("caf\u00e9"))


@pytest.mark.parametrize("word", ["dog", "at", "axo", "", "cat cat"])
def test_an_unknown_word_lists_those_there_are(trace: Trace, word: str) -> None:
    with pytest.raises(ValueError, match="A, spiky, cat, a, cat, and, a, tiny, skateboarding, axolotl"):
        trace.map(word)


@pytest.mark.parametrize(
    ("word", "options", "message"),
    [
        (77, {}, "length 77"),
        (-1, {}, "length 77"),
        ([], {}, "length 77"),
        (np.arange(77) == 3, {}, "those of a mask are mask.nonzero"),
        ([False, True], {}, "those of a mask"),
        (torch.arange(77) == 3, {}, "those of a mask"),
        (True, {}, "those of a mask"),
        ([3.0], {}, "expected a word"),
        (3, {"call": 99}, "call is 99"),
        (3, {"call": np.int64(-9)}, "model calls"),
        ("cat", {"of": "energy"}, "of is 'energy'"),
    ],
)
def test_maps_refuses_unknown_quantities_and_positions(
    trace: Trace, word: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trace.map(word, **options)


@pytest.mark.parametrize("word", [torch.tensor([3, 7]), np.array([3, 7]), {3, 7}, iter([np.int64(3), torch.tensor(7)])])
def test_positions_may_be_numbers_of_any_library(trace: Trace, word: Any) -> None:
    torch.testing.assert_close(trace.map(word, call=torch.tensor(-1)), trace.map([3, 7]))


def test_sizes_of_pooled_maps(trace: Trace) -> None:
    for size in ([8, 4], np.array([8, 4]), torch.tensor([8, 4]), iter([np.int64(8), torch.tensor(4)])):
        assert torch.equal(trace.pooled(3, size=size), trace.pooled(3, size=(8, 4)))  # type: ignore[arg-type]
    for wrong in (0, -1, (1, 2, 3), (8, 0), "32", 8.0, True):
        with pytest.raises(ValueError, match="expected a side in pixels"):
            trace.pooled(3, size=wrong)  # type: ignore[arg-type]


def test_self_attention_has_pixels_for_keys() -> None:
    trace = trace_of(options=TraceOptions(kind="self", resolution=8))
    assert torch.equal(trace.map(63), trace.probabilities[0, -1, :, :, 63].float())
    with pytest.raises(ValueError, match="keys are pixels"):
        trace.map("crown")


@pytest.mark.filterwarnings("ignore:the text encoder sees")
def test_words_that_fell_off_the_end_have_no_map() -> None:
    trace = trace_of("red " * 74 + "crown axolotl")
    assert [word.text for word in trace.words()] == ["red"] * 74 + ["crown"]
    with pytest.raises(ValueError, match="'axolotl' is not among"):
        trace.map("axolotl")


# --- files ---


@pytest.mark.slow
def test_trace_survives_save_and_load(tmp_path: Path) -> None:
    trace = trace_of([CROWN, CAT], "ebama", TraceOptions(latents=True, head=1), seeds=[3, 4])
    trace.save(tmp_path / "run.safetensors")
    trace.save(tmp_path / "run.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]
    again = Trace.load(tmp_path / "run.safetensors")
    for name, kept in trace.kept.items():
        assert torch.equal(again.kept[name].nan_to_num(), kept.nan_to_num())
    assert replace(again, kept={}).__dict__ == replace(trace, kept={}).__dict__
    assert torch.equal(again.map("crown", sample=1), trace.map("crown", sample=1))


@pytest.mark.slow
def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.safetensors"
    trace_of().save(path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("ebama.trace.capture.files.write_tensors", full)
    with pytest.raises(OSError, match="No space"):
        trace_of(CAT).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_edited_files_are_no_trace(tmp_path: Path) -> None:
    trace_of().save(tmp_path / "trace")
    tensors = load_file(tmp_path / "trace")
    with safe_open(tmp_path / "trace", "pt") as file:
        text = file.metadata()["ebama"]
    prompts: list[dict[str, Any]] = json.loads(text)["prompts"]
    odd: list[Any] = [None, 7, "x", [], {}, [None], [["a", 1]], 2.5, ["x", 16], [None, 16], [0, 16], [16, 16.0]]
    source, *others = json.loads(text)["sources"]
    site, *more = source["sites"]
    edits = [{"sources": [{**source, "sites": [{**site, key: x}, *more]}, *others]} for key in site for x in odd]
    edits += [{"sources": [{**source, key: value}, *others]} for key in ("sites", "head") for value in odd]
    edits += [{"prompts": [{**prompts[0], key: value}, *prompts[1:]]} for key in prompts[0] for value in odd]
    edits += [{key: value} for key in ("prompts", "timesteps") for value in odd] + [{"sources": [{}]}]
    refused = []
    for edit in edits:
        save_file(tensors, tmp_path / "edited", {"ebama": json.dumps({**json.loads(text), **edit})})
        try:
            loaded = Trace.load(tmp_path / "edited")
        except ValueError as error:
            refused.append(str(error))
        else:
            assert [map_.maps.shape for map_ in map_rows(loaded)]
            loaded.save_html(tmp_path / "page.html")
    assert len(refused) > 0.8 * len(edits)
    assert all("is no trace" in line for line in refused)
    for name, tensor in tensors.items():
        for cut in (tensor[:0], tensor[:, :1], tensor.flatten()):
            save_file({**tensors, name: cut.contiguous()}, tmp_path / "edited", {"ebama": text})
            with pytest.raises(ValueError, match="is no trace"):
                Trace.load(tmp_path / "edited")


def test_a_pipe_in_a_folder_is_no_trace_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sample-00000-call-00000.safetensors")
    with pytest.raises(ValueError, match="is no trace"):
        Trace.load(tmp_path)


def test_load_refuses_files_that_are_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    with pytest.raises(FileNotFoundError):
        Trace.load(path)
    path.write_text("words")
    for other in (tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match="is no trace"):
            Trace.load(other)
    with pytest.raises(ValueError, match="is no trace"):
        Trace.load(path)
    save_file({"scores": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is no trace"):
        Trace.load(path)
    for text in ("{}", "[]", "3", "null", '"x"', "[" * 100_000, '{"timesteps": ' + "[" * 100_000, '{"samples": [0, 0]'):
        save_file({"scores": torch.zeros(1)}, path, {"ebama": text})
        with pytest.raises(ValueError, match="is no trace"):
            Trace.load(path)
        (tmp_path / "sample-00000-call-00000.safetensors").write_bytes(path.read_bytes())
        with pytest.raises(ValueError, match="is no trace"):
            Trace.load(tmp_path)


def test_numbers_of_other_libraries_choose_maps() -> None:
    trace = trace_of(CROWN, options=TraceOptions(resolution=np.array([16, 8]), head=np.int64(1), words=iter(["crown"])))
    assert (trace.sources[0].head, {source.resolution for source in trace.sources}) == (1, {(16, 16), (8, 8)})
    assert all(source.head == 1 for source in trace.sources)
    own = trace.select(resolution=16)
    for position in (np.int64(3), torch.tensor(3), np.array([3])):
        assert torch.equal(own.maps(position, sample=np.int64(-1)), own.maps("crown", sample=torch.tensor(0)))
    for resolution in (np.int64(16), np.array([16, 16]), [16, 16], torch.tensor(16)):
        assert trace.select(resolution=resolution, head=torch.tensor(1)).sources == own.sources
    for size in (np.int64(4), np.array([4, 4]), [4, 4], torch.tensor(4)):
        assert torch.equal(trace.pooled("crown", size=size), trace.pooled("crown", size=4))


@pytest.mark.parametrize("sample", [1, -2, None, "0", 0.0, True])
def test_samples_that_there_are_not_are_named(sample: Any) -> None:
    with pytest.raises(ValueError, match=r"sample is .*; expected one of the trace's 1\."):
        trace_of().maps("crown", sample=sample)


@pytest.mark.parametrize("name", ["words", "sites"])
@pytest.mark.parametrize("value", [None, 3, "crown", b"crown", ["crown", 3], np.arange(2)], ids=repr)
def test_words_and_sites_are_lists_of_texts(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} are .*; expected "):
        TraceOptions(**{name: value})
