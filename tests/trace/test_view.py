"""A trace as a page: the numbers in it are the trace's, its size is bounded, texts stay texts."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from reference import run

from ebama.trace import Trace, TraceOptions, packing, view

CROWN = "a purple crown and a blue suitcase"
HOSTILE = "a cat </script><script>alert(1)</script> <!-- \"'&\u2028"


def trace_of(prompt: str | list[str] = CROWN, options: Any = True, **others: Any) -> Trace:
    trace = run(prompt, "sd", trace=options, **{"seeds": [3], "sampler": "ddim", **others}).trace
    assert trace is not None
    return trace


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data: dict[str, Any] = json.loads(text)
    return data


def maps_of(layer: dict[str, Any], words: int, calls: int) -> np.ndarray[Any, Any]:
    """As the script unpacks them, [words, calls, h, w]."""
    values = np.frombuffer(base64.b64decode(layer["bytes"]), np.uint8).reshape(words, calls, layer["height"], -1)
    low, high = np.array(layer["ranges"]).reshape(words, calls, 2, 1, 1).swapaxes(0, 2).swapaxes(1, 2)
    return np.asarray(low + (high - low) * values / 255)


@pytest.mark.parametrize("of", ["probabilities", "scores"])
def test_the_maps_in_a_page_are_the_traces(of: Any, tmp_path: Path) -> None:
    trace = trace_of(seeds=[3, 4])
    trace.save_html(tmp_path / "maps.html", of=of)
    data = data_of((tmp_path / "maps.html").read_text(encoding="utf-8"))
    assert data["layers"][0]["of"].startswith(of)
    assert (data["calls"], data["numbers"], data["timesteps"], data["notes"]) == (2, [1, 2], [501, 1], [])
    (prompt,) = data["prompts"]
    assert [word["text"] for word in prompt["words"]] == CROWN.split()
    assert [picture["label"] for picture in prompt["pictures"]] == ["sample 0", "sample 1"]
    for sample, picture in enumerate(prompt["pictures"]):
        maps = maps_of(picture["layers"][0], 7, 2)
        for index, word in enumerate(trace.words(sample)):
            expected = trace.maps(word.positions, sample=sample, of=of).numpy()
            np.testing.assert_allclose(maps[index], expected, atol=np.ptp(expected) / 255 + 1e-6)


@pytest.mark.slow
def test_a_page_has_the_prompts_the_chosen_words_and_calls() -> None:
    trace = trace_of([CROWN, "a cat"])
    both = data_of(view.document(view.shown(trace)))
    assert [prompt["text"] for prompt in both["prompts"]] == [CROWN, "a cat"]
    one = data_of(
        view.document(view.shown(trace)[:1], chosen_words=["blue suitcase", "crown"], calls=[-1], of="scores")
    )
    assert [word["text"] for word in one["prompts"][0]["words"]] == ["blue suitcase", "crown"]
    for words, calls in (("crown", np.arange(2)), (np.array(["crown"]), torch.arange(2)), (iter(["crown"]), {0, 1})):
        same = data_of(view.document(view.shown(trace)[:1], chosen_words=words, calls=calls))
        assert ([word["text"] for word in same["prompts"][0]["words"]], same["numbers"]) == (["crown"], [1, 2])
    assert (one["numbers"], one["total"], one["notes"]) == ([2], 2, ["1 of 2 model calls are here."])
    maps = maps_of(one["prompts"][0]["pictures"][0]["layers"][0], 2, 1)
    expected = trace.maps("blue suitcase", of="scores").numpy()[1]
    np.testing.assert_allclose(maps[0, 0], expected, atol=np.ptp(expected) / 255 + 1e-6)


@pytest.mark.slow
def test_a_page_has_every_layer_and_head_that_was_kept() -> None:
    trace = trace_of(options=TraceOptions(resolution=[16, 8], head="all", by_site=True, words=["crown", "blue"]))
    data = data_of(view.document(view.shown(trace)))
    (prompt,) = data["prompts"]
    assert [word["text"] for word in prompt["words"]] == ["crown", "blue"]
    packed = prompt["pictures"][0]["layers"]
    assert len(data["layers"]) == len(packed) == 2 * len(trace.sources)
    for layer, maps in zip(data["layers"], packed, strict=True):
        (source,) = [one for one in trace.sources if (one.layers, one.heads) == (layer["layer"], layer["head"])]
        of = layer["of"].split()[0]
        expected = trace.of_sources(source).maps("blue", of=of).numpy()
        np.testing.assert_allclose(maps_of(maps, 2, 2)[1], expected, atol=np.ptp(expected) / 255 + 1e-6)


def test_self_attention_is_shown_by_pixels() -> None:
    trace = trace_of(options=TraceOptions(kind="self", resolution=8))
    data = data_of(view.document(view.shown(trace), pixels=[(2, 5), (0, 7)]))
    assert [word["text"] for word in data["prompts"][0]["words"]] == ["(2, 5)", "(0, 7)"]
    maps = maps_of(data["prompts"][0]["pictures"][0]["layers"][0], 2, 2)
    np.testing.assert_allclose(maps[0], trace.maps(2 * 8 + 5).numpy(), atol=1e-2)
    assert len(data_of(view.document(view.shown(trace)))["prompts"][0]["words"]) == 9
    for pixels in (np.array([[2, 5], [0, 7]]), torch.tensor([[2, 5], [0, 7]]), iter([np.array([2, 5]), (0, 7)])):
        assert data_of(view.document(view.shown(trace), pixels=pixels)) == data
    for wrong in ((0, 0), [(0.0, 1.0)], "00", [(1, 2, 3)]):
        with pytest.raises(ValueError, match=r"expected a list of \(y, x\)"):
            view.document(view.shown(trace), pixels=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"words": ["zebra"]}, "'zebra' is not among the words"),
        ({"calls": [2]}, "call 2 is not among the 2 model calls"),
        ({"calls": [-3]}, "call -3"),
        ({"calls": [0.0]}, r"call 0\.0 is not among"),
        ({"calls": [True]}, "call True is not among"),
        ({"pixels": [(1, 1)]}, "Pixels are for self-attention"),
        ({"of": "scores"}, "kept no scores"),
        ({"of": "maps"}, "of is 'maps'"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_written(arguments: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        trace_of(options=TraceOptions(scores=False)).save_html(tmp_path / "maps.html", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_where_no_script_runs_a_still_shows_the_mean_maps() -> None:
    result = run([CROWN, "a cat"], "sd", seeds=[3, 4, 5, 6], sampler="ddim", trace=True, output="pil", steps=1)
    trace = result.trace
    assert trace is not None
    still = Image.open(io.BytesIO(trace._repr_png_() or b"")).convert("RGB")
    cell, factor = 6 + 192, 192 // 32
    assert still.size == (8 * cell + 6, 22 + 3 * (22 + 192) + 6)  # three samples, a picture and seven words
    corner = 6 + 3 * cell, 22 + (22 + 192) + 22  # "crown" of the second
    shown = np.asarray(still.crop((*corner, corner[0] + 192, corner[1] + 192)))[
        factor // 2 :: factor, factor // 2 :: factor
    ]
    maps = [trace.maps("crown", sample=sample).mean(0).numpy() for sample in range(3)]
    share = np.kron(maps[1] / np.max(maps), np.ones((2, 2)))
    grey = np.asarray(trace.images[1].convert("L"))[..., None]
    expected = 0.3 * grey + 0.7 * 255 * colormaps["cividis"](share)[..., :3]
    assert np.abs(shown - expected).mean() < 4  # of a palette
    without_pictures = {
        7: trace_of(options=TraceOptions(probabilities=False, kind="self", resolution=8), steps=1),
        2: trace_of(groups=[("crown", ["purple"])], steps=1),
    }
    for columns, other in without_pictures.items():
        size = Image.open(io.BytesIO(other._repr_png_() or b"")).size
        assert size == (columns * cell + 6, 22 + 22 + 192 + 6)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "words"), [(64, 20), (48, 20), (16, 70)])
def test_large_runs_stay_bounded_and_say_so(side: int, words: int) -> None:
    """As of Stable Diffusion: eleven samples of 60 calls, whose maps are noise, which no packing makes smaller."""
    trace = trace_of(" ".join(["cat"] * words))
    site = replace(trace.sites[0], resolution=(side, side))
    maps = torch.rand(1, 60, side, side, 77).half().expand(11, -1, -1, -1, -1)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8))
    large = Trace({"probabilities": maps}, tuple(range(60)), trace.prompts * 11, (site,), images=(picture,) * 11)
    page = view.document(view.shown(large))
    data = data_of(page)
    pictures = [picture for prompt in data["prompts"] for picture in prompt["pictures"]]
    assert len(page) < 4_000_000
    assert len(pictures) == view.MAX_PICTURES
    height, calls = pictures[0]["layers"][0]["height"], data["calls"]
    notes = " ".join(data["notes"])
    assert f"{calls} of 60 model calls" in notes
    assert "The first 8 of 11 samples" in notes
    assert (f"averaged to {height}x{height}" in notes) == (height != side)
    assert calls >= packing.FEWEST_CALLS
    assert (data["numbers"][0], data["numbers"][-1]) == (1, 60)


def test_more_layers_and_heads_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MAX_BYTES", 20_000)
    trace = trace_of()
    data = data_of(view.document(view.shown(replace(trace, more=trace.sources * 50))))
    layers = data["prompts"][0]["pictures"][0]["layers"]
    assert sum(len(base64.b64decode(layer["bytes"])) for layer in layers) <= 20_000
    assert len(layers) == 2 * 11  # of 7 words and 2 calls in 8x8 pixels, before softmax and after
    assert "The first 11 of 51 layers and heads are here." in data["notes"]


def test_a_page_fetches_nothing_and_texts_stay_texts() -> None:
    page = view.document(view.shown(trace_of(HOSTILE), labels=["<b>&"]))
    assert data_of(page)["prompts"][0]["text"].startswith("a cat </script><script>")
    assert page.count("<script") == 2
    assert "alert(1)</" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    framed = view.frame(page, b"still")
    assert framed.count("<") == 3  # the still's and the frame's, and nothing of the page's
    (inside,) = re.findall(r'srcdoc="([^"]*)"', framed)
    assert html.unescape(inside) == page


@pytest.mark.slow
def test_a_notebook_shows_the_page_of_the_file(tmp_path: Path) -> None:
    trace = trace_of()
    trace.save_html(tmp_path / "maps.html")
    shown = trace._repr_html_()
    assert shown is not None
    assert html.escape((tmp_path / "maps.html").read_text(encoding="utf-8")) in shown
    still = base64.b64encode(trace._repr_png_() or b"").decode()
    assert shown.startswith(f'<img src="data:image/png;base64,{still}"')
    only_scores = trace_of(options=TraceOptions(probabilities=False))._repr_html_()
    assert only_scores is not None
    assert trace_of(options=TraceOptions(probabilities=False, scores=False))._repr_html_() is None


@pytest.mark.slow
def test_a_trace_has_the_pictures_of_its_run(tmp_path: Path) -> None:
    result = run([CROWN, "a cat"], "sd", seeds=[3], sampler="ddim", trace=True, output="pil", batch_size=1)
    assert result.trace is not None
    assert list(result.trace.images) == result.images
    result.trace.save(tmp_path / "run.safetensors")
    again = Trace.load(tmp_path / "run.safetensors")
    assert list(again.images) == result.images
    assert set(again.kept) == set(result.trace.kept)
    urls = [p["url"] for prompt in data_of(view.document(view.shown(again)))["prompts"] for p in prompt["pictures"]]
    assert all(url.startswith("data:image/webp;base64,") for url in urls)
    assert trace_of().images == ()
