"""A trace of some words, layers and heads, in memory and in files; maps of other words; masks."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_networks import LDM, LdmLike
from reference import model, noise, run
from torch import Tensor
from torch.nn import functional as F

from ebama.models import adapt
from ebama.pipeline import Pipeline
from ebama.samplers import DDIM
from ebama.trace import Trace, TraceOptions
from ebama.trace.masks import intersection_over_union, otsu

CROWN = "a purple crown and a blue suitcase"
CAT = "a cat and a cat"
ALL = TraceOptions(resolution="all", head="all", by_site=True, queries=True)


def trace_of(options: Any, prompt: Any = CROWN, method: Any = "sd", **others: Any) -> Trace:
    trace = run(prompt, method, trace=options, **{"seeds": [3], "sampler": DDIM(2), **others}).trace
    assert trace is not None
    return trace


@pytest.fixture(scope="module")
def whole() -> Trace:
    return trace_of(ALL)


def records_at_first_call(prompt: str) -> Any:
    sites = [site for site in model().unet.sites((16, 16)) if site.kind == "cross"]
    with torch.no_grad():
        return model().unet(noise(3), 501, model().encode_text([prompt]), record=sites)[1]


# --- layers, heads, words ---


@pytest.mark.slow
def test_every_layer_and_head_has_its_maps(whole: Trace) -> None:
    sites = records_at_first_call(CROWN)
    assert len(whole.sources) == sum(3 * (1 + len(sites.where(resolution=side))) for side in (16, 8))
    for side in (16, 8):
        of_size = sites.where(resolution=side)
        mean = whole.select(resolution=side)
        torch.testing.assert_close(mean.scores[0, 0].float(), of_size.mean_scores()[0], rtol=2e-3, atol=2e-3)
        for record, head in product(of_size, (0, 1)):
            one = whole.select(site=record.site.name, head=head)
            assert (one.sites, one.head) == ((record.site,), head)
            expected = record.probabilities[0, head].view(side, side, 77)
            torch.testing.assert_close(one.probabilities[0, 0].float(), expected, rtol=2e-3, atol=2e-4)
            torch.testing.assert_close(one.map("crown", call=0), one.probabilities[0, 0, ..., 3].float())
            assert one.energy[0, 0].item() == pytest.approx(
                -record.scores[0, head].logsumexp(-1).mean().item(), rel=1e-4
            )
    assert whole.sites == whole.select(resolution=16).sites
    assert whole.select(site="mid_block.*").sites[0].name.startswith("mid_block")


def test_what_was_not_kept_is_listed(whole: Trace) -> None:
    with pytest.raises(ValueError, match=r"no maps of resolution=32, head=7; it has cross-attention 16x16, 3 layers"):
        whole.select(resolution=32, head=7)
    with pytest.raises(ValueError, match=r"site='down"):
        trace_of(True).select(site="down*")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"resolution": [16, 8]}, 2),
        ({"resolution": [(8, 8)], "head": [1, 0]}, 3),
        ({"head": "all", "kind": "self", "resolution": 8}, 3),
        ({"resolution": "all", "kind": "self"}, 2),
        ({"sites": [site.name for site in model().unet.sites((16, 16)) if site.kind == "cross"], "by_site": True}, 9),
    ],
)
def test_several_at_once(options: dict[str, Any], count: int) -> None:
    trace = trace_of(TraceOptions(scores=False, **options), sampler=DDIM(1))
    assert len(trace.sources) == count
    kept = [trace.kept[source.kept_name("probabilities")] for source in trace.sources]
    assert [tuple(maps.shape[2:4]) for maps in kept] == [source.resolution for source in trace.sources]


@pytest.mark.slow
@pytest.mark.parametrize("folder", [False, True])
def test_only_the_words_that_were_asked_for_are_kept(folder: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"words": ["crown", "cat"], "folder": tmp_path / "run" if folder else None}
    some, every = (trace_of(option, [CROWN, CAT], batch_size=1) for option in (TraceOptions(**options), True))
    assert some.keys == ((3,), (2, 5))
    assert some.probabilities.shape == (2, 2, 16, 16, 2)
    for word, sample, occurrence in (("crown", 0, 0), ("cat", 1, 0), ("cat", 1, 1)):
        asked: dict[str, Any] = {"sample": sample, "occurrence": occurrence, "of": "scores"}
        torch.testing.assert_close(some.maps(word, **asked), every.maps(word, **asked), rtol=0, atol=0)
    assert [word.text for word in some.words(1)] == ["cat", "cat"]
    with pytest.raises(ValueError, match=r"keeps some words' maps alone: crown; there is none at positions \[7\]"):
        some.maps("suitcase")


@pytest.mark.slow
def test_all_words_are_the_prompts_own_tokens() -> None:
    some, every = (trace_of(option, [CROWN, CAT, "!"], sampler=DDIM(1)) for option in (TraceOptions(words="all"), True))
    assert some.keys == tuple(prompt.tokens for prompt in every.prompts)
    assert some.words(1) == every.words(1)
    assert torch.equal(some.probabilities[0], every.probabilities[0, ..., 1:8])
    assert torch.equal(some.maps("suitcase"), every.maps("suitcase"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": ["zebra"]}, "The word 'zebra', whose maps the trace should keep, is not in 'a purple crown"),
        ({"words": "crown"}, "words are 'crown'"),
        ({"words": ["a"], "kind": "self"}, "words and queries are for cross-attention"),
        ({"resolution": []}, r"resolution is \[\]"),
        ({"resolution": [16, "8"]}, r"resolution is \[16, '8'\]"),
        ({"resolution": [16, 7]}, "No cross-attention site has maps of 7x7"),
        ({"head": []}, r"head is \[\]"),
        ({"head": [0, 2]}, "has a head 2"),
        ({"head": "every"}, "head is 'every'"),
        ({"folder": "/dev/null/run"}, "folder is /dev/null/run, which cannot be made"),
    ],
)
def test_options_that_cannot_be_met(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace_of(TraceOptions(**options))


# --- pooled maps, masks ---


def test_maps_of_all_sizes_are_summed_once(whole: Trace) -> None:
    records = records_at_first_call(CROWN)
    pooled = whole.pooled("crown")
    torch.testing.assert_close(pooled[0], records.pooled()[0, ..., 3], rtol=2e-3, atol=2e-3)
    assert whole.pooled([6, 7], size=(4, 8), of="scores").shape == (2, 4, 8)
    one_head = whole.select(head=1).pooled("crown")
    by_hand = sum(
        F.interpolate(r.probabilities[:, 1:2, :, 3].unflatten(-1, r.site.resolution), (16, 16), mode="bilinear")
        for r in records
    )
    assert isinstance(by_hand, Tensor)
    torch.testing.assert_close(one_head[0], by_hand[0, 0], rtol=2e-3, atol=2e-3)


def test_a_mask_parts_the_values_best() -> None:
    generator = torch.Generator().manual_seed(0)
    map_ = torch.randn(32, 32, generator=generator) * 0.1
    map_[8:20, 4:16] += 1
    mask = otsu(map_)
    assert mask[8:20, 4:16].all()
    assert mask.sum() == 12 * 12
    values = map_.double().flatten()

    def within(above: Tensor) -> float:
        """The variance inside the two classes, which is least where that between them is greatest."""
        return sum(float(values[part].var(correction=0) * part.sum()) for part in (above, ~above))

    cuts = values.sort().values[1::8]
    assert within(mask.flatten()) <= min(within(values >= cut) for cut in cuts) * 1.01
    assert not otsu(torch.full((4, 4), 0.3)).any()
    shifted = mask.roll(6, dims=1)
    assert intersection_over_union(mask, shifted) == pytest.approx(6 * 12 / (18 * 12))
    assert intersection_over_union(mask & ~mask, mask & ~mask) == 0


def test_masks_of_words(whole: Trace) -> None:
    mask = whole.mask("crown", call=0)
    torch.testing.assert_close(mask, otsu(whole.pooled("crown")[0]))
    assert whole.mask("crown", size=8).shape == (8, 8)
    assert whole.overlap("crown", "crown") == 1
    assert 0 <= whole.overlap("crown", "suitcase") < 1


# --- other words ---


@pytest.mark.slow
def test_the_prompts_own_text_has_the_maps_of_the_run(whole: Trace) -> None:
    for of, trace in product(("scores", "probabilities"), (whole, whole.select(resolution=8, head=1))):
        options: dict[str, Any] = {"of": of}
        own = trace.maps("crown", text=CROWN, **options)
        torch.testing.assert_close(own, trace.maps("crown", **options), rtol=5e-3, atol=5e-3)
    other = whole.maps("wheel", text="a wheel and a house")
    assert other.shape == (2, 16, 16)
    assert (other - whole.maps("crown")).abs().max() > 1e-2
    assert whole.mask("wheel", text="a wheel").shape == (16, 16)
    with pytest.raises(ValueError, match="its words are: a, wheel"):
        whole.maps("dog", text="a wheel")


def test_other_words_of_an_adapted_network() -> None:
    torch.manual_seed(0)
    net = LdmLike(context_width=16).eval().requires_grad_(False)
    network = adapt(net, LDM, lambda net, z, t, context: net(z, t, context), context_shape=(77, 16))
    options = TraceOptions(queries=True, words=["crown"])
    trace = Pipeline(replace(model(), unet=network))(
        CROWN, method="sd", sampler=DDIM(1), trace=options, output="latent", progress=False
    ).trace
    assert trace is not None
    torch.testing.assert_close(trace.maps("crown", text=CROWN), trace.maps("crown"), rtol=5e-3, atol=5e-3)


def test_other_words_need_queries_and_the_model(tmp_path: Path, whole: Trace) -> None:
    with pytest.raises(ValueError, match=r"kept no queries: ask for them with trace=TraceOptions\(queries=True\)"):
        trace_of(True).maps("wheel", text="a wheel")
    whole.save(tmp_path / "run.safetensors")
    with pytest.raises(ValueError, match=r"give the model, Trace.load\(path, sd\)"):
        Trace.load(tmp_path / "run.safetensors").maps("wheel", text="a wheel")
    again = Trace.load(tmp_path / "run.safetensors", model()).select(head=1, resolution=8)
    expected = whole.select(head=1, resolution=8).maps("wheel", text="a wheel")
    torch.testing.assert_close(again.maps("wheel", text="a wheel"), expected)


# --- files ---


def same(first: Trace, second: Trace) -> None:
    assert set(first.kept) == set(second.kept)
    for name, values in first.kept.items():
        assert torch.equal(values.nan_to_num(-1), second.kept[name].nan_to_num(-1))
    assert replace(first, kept={}, texts=None).__dict__ == replace(second, kept={}, texts=None).__dict__


@pytest.mark.slow
def test_a_run_in_files_is_the_run_in_memory(tmp_path: Path) -> None:
    runs = [
        trace_of(replace(ALL, words=["crown", "cat"], folder=folder), [CROWN, CAT], "ebama", batch_size=1)
        for folder in (None, tmp_path / "run")
    ]
    same(*runs)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [f"sample-0000{n}-call-0000{call}.safetensors" for n in (0, 1) for call in (0, 1)]
    same(Trace.load(tmp_path / "run"), runs[0])
    runs[1].save(tmp_path / "one.safetensors")
    same(Trace.load(tmp_path / "one.safetensors"), runs[0])
    for sample, word in ((0, "crown"), (1, "cat")):
        one, other = (trace.select(head=1, resolution=8) for trace in runs)
        torch.testing.assert_close(one.pooled(word, sample=sample), other.pooled(word, sample=sample), rtol=0, atol=0)
    texts = [trace.maps("wheel", text="a wheel", sample=1) for trace in runs]
    torch.testing.assert_close(*texts)


@pytest.mark.slow
def test_a_run_that_broke_off_leaves_its_whole_calls(tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"seeds": [3, 4], "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):
        trace_of(TraceOptions(folder=tmp_path), on_call=stop, **options)
    expected, left = trace_of(True, **options), Trace.load(tmp_path)
    assert left.timesteps == expected.timesteps
    torch.testing.assert_close(left.scores[0], expected.scores[0], rtol=0, atol=0)
    torch.testing.assert_close(left.scores[1, 0], expected.scores[1, 0], rtol=0, atol=0)
    assert left.scores[1, 1].isnan().all()
    torch.testing.assert_close(left.pooled("crown", sample=1)[0], expected.pooled("crown", sample=1)[0], rtol=0, atol=0)
    assert left._repr_html_()
    with pytest.raises(ValueError, match="holds a trace already; choose another"):
        trace_of(TraceOptions(folder=tmp_path))


@pytest.mark.slow
def test_a_trace_goes_without_a_call_whose_file_was_deleted(tmp_path: Path) -> None:
    whole = trace_of(TraceOptions(folder=tmp_path), sampler=DDIM(3))
    maps = whole.maps("crown")
    cut = sorted(tmp_path.iterdir())[1]
    cut.write_bytes(cut.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{cut.name} is no trace \(.*; copy it again, or delete it to go without"):
        Trace.load(tmp_path)
    cut.unlink()
    left = Trace.load(tmp_path)
    kept = [0, *range(2, len(whole.timesteps))]
    assert left.timesteps == tuple(whole.timesteps[call] for call in kept)
    torch.testing.assert_close(left.maps("crown"), maps[kept], rtol=0, atol=0)


@pytest.mark.parametrize("content", [None, b"words"])
def test_folders_that_hold_no_trace(content: bytes | None, tmp_path: Path) -> None:
    if content:
        (tmp_path / "file.safetensors").write_bytes(content)
    expected = (
        r"file\.safetensors is no trace \(.*; copy it again, or delete it"
        if content
        else r"is no trace; expected a file"
    )
    with pytest.raises(ValueError, match=expected):
        Trace.load(tmp_path)
    for name in ("._file.safetensors", ".syncthing.file.safetensors"):  # as copies leave beside
        (tmp_path / name).write_bytes(b"words")
    with pytest.raises(ValueError, match=expected):
        Trace.load(tmp_path)


@pytest.mark.slow
def test_of_a_run_in_files_one_word_is_read_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = trace_of(TraceOptions(resolution="all", folder=tmp_path), seeds=[3, 4, 5])
    monkeypatch.setattr("ebama.trace.capture.stored.Stored.__getitem__", lambda *_: pytest.fail("read whole"))
    sizes: list[int] = []
    monkeypatch.setattr(torch, "cat", lambda parts, **_: sizes.extend(part.numel() for part in parts) or parts[0])
    assert trace.maps("crown", sample=1).shape == (1, 16, 16)
    assert sizes == [16 * 16] * 2
