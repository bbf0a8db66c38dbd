"""How results look in a notebook: HTML without outside references, in which texts stay texts."""

from __future__ import annotations

import base64
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import model, noise, run

from ebama import Result
from ebama.models import AttentionRecord, AttentionRecords, Site
from ebama.prompt import Parsed, parse
from ebama.weights.inspection import ComponentInspection, Inspection

HOSTILE = "a red cat </p><script>alert(1)</script> & \"dog\" <img src=x onerror='alert(1)'>"
VOID = {"img", "br", "meta", "link"}


class Elements(HTMLParser):
    """Names and attributes of all elements; every one that opens must close, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.text += {"br": "\n", "td": " ", "th": " ", "figcaption": "\n"}.get(tag, "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(text: str) -> Elements:
    """The elements of a view that has neither scripts nor anything from outside."""
    elements = Elements(text)
    for tag, attributes in elements.seen:
        assert tag not in ("script", "link", "object", "embed")
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        assert "href" not in attributes
        assert "url(" not in (attributes.get("style") or "")
    return elements


def parsed(prompt: str, **options: Any) -> Parsed:
    return parse(prompt, model().tokenizer, "rules", **options)


@pytest.mark.parametrize(
    "prompt",
    [
        "a purple crown and a blue suitcase",
        "a cat",
        "a spiky, red fox's car!",
        HOSTILE,
        "a red cat" + " and so on" * 40,
    ],
)
@pytest.mark.filterwarnings("ignore:the text encoder sees")
def test_a_prompt_is_shown_whole_its_words_underlined(prompt: str) -> None:
    reading = parsed(prompt)
    shown = checked(reading._repr_html_())
    assert shown.text.startswith(reading.prompt)
    lines = [attributes for tag, attributes in shown.seen if tag == "span"]
    solid = [one["title"] for one in lines if "solid" in str(one["style"])]
    assert len(solid) >= len(reading.groups) > 0
    assert {f"object of group {k + 1}" for k in range(len(reading.groups))} == set(solid)


def test_words_of_a_group_have_one_colour() -> None:
    shown = checked(parsed("a purple crown and a blue suitcase")._repr_html_())
    lines = [str(attributes["style"]) for tag, attributes in shown.seen if tag == "span"]
    colours = [re.findall("#[0-9a-f]{6}", line)[0] for line in lines]
    assert [("dashed" in line) for line in lines] == [True, False, True, False]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert shown.text.endswith("crown + purple; suitcase + blue (parser: rules)")  # also where styles are stripped


def test_a_prompt_without_groups() -> None:
    shown = checked(parsed("quickly and slowly", groups=())._repr_html_())
    assert shown.text.startswith("quickly and slowly")
    assert "span" not in [tag for tag, _ in shown.seen]


# --- results ---


def result(prompts: Any, method: str = "ebama", **others: Any) -> Result:
    return run(prompts, method, **{"sampler": "ddim", "output": "pil", **others})


@pytest.mark.slow
def test_a_result_shows_pictures_seeds_methods_and_losses() -> None:
    made = result(["a red cat and a dog", HOSTILE], seeds=[3, 7], parser="rules")
    shown = checked(made._repr_html_())
    assert len([tag for tag, _ in shown.seen if tag == "img"]) == 4
    for seed in (3, 7):
        assert shown.text.count(f"ebama, seed {seed}") == 2
    losses = made.losses[0][~made.losses[0].isnan()]
    assert f"loss {losses[0]:.3g} → {losses[-1]:.3g}, {len(losses)} guided calls" in shown.text
    assert HOSTILE in shown.text
    sheet = made._repr_png_()
    assert sheet is not None
    assert Image.open(io.BytesIO(sheet)).size[0] > 2 * 192


def test_a_result_without_pictures_says_so() -> None:
    made = result("a cat", "sd", output="latent", latents=noise(1))
    shown = checked(made._repr_html_())
    assert "given noise" in shown.text
    assert "latents and no pictures" in shown.text
    assert "loss" not in shown.text
    assert made._repr_png_() is None


def test_a_long_result_is_cut_and_says_so() -> None:
    one = result("a cat", "sd")
    assert one.images is not None
    many = Result(one.images * 40, one.latents.repeat(40, 1, 1, 1), one.losses.repeat(40, 1), None, one.recipes * 40)
    shown = checked(many._repr_html_())
    assert len([tag for tag, _ in shown.seen if tag == "img"]) == 32
    assert "The first 32 of 40 samples" in shown.text


def test_a_result_with_attention_also_shows_its_maps() -> None:
    made = result(HOSTILE, "sd", trace=True)
    shown = checked(made._repr_html_())
    (frame,) = [attributes for tag, attributes in shown.seen if tag == "iframe"]
    assert made.trace is not None
    assert html.escape(str(frame["srcdoc"])) in str(made.trace._repr_html_())


# --- records and checkpoints ---


def test_records_are_a_table_of_sites() -> None:
    with torch.no_grad():
        records = model().unet.attention(noise(1), 501, model().encode_text(["a cat"]), resolution=16)
    shown = checked(records._repr_html_())
    assert len([tag for tag, _ in shown.seen if tag == "tr"]) == len(records) + 1
    for record in records:
        assert record.site.name in shown.text
        assert f"{record.scores.min():.3g}" in shown.text
        assert f"{record.scores.max():.3g}" in shown.text


def pictures_of(records: AttentionRecords) -> list[Image.Image | None]:
    """The small maps of each row."""
    rows = re.findall(r"<tr>.*?</tr>", records._repr_html_())[1:]
    urls = [re.search(r'src="data:image/png;base64,([^"]*)"', row) for row in rows]
    return [Image.open(io.BytesIO(base64.b64decode(url[1]))) if url else None for url in urls]


def test_records_show_small_maps_of_their_first_keys() -> None:
    scores = torch.randn(2, 3, 32 * 16, 77, generator=torch.Generator().manual_seed(0)) * 3
    record = AttentionRecord(Site("layer", "cross", (32, 16), 3), scores)
    (picture,) = pictures_of(AttentionRecords([record]))
    assert picture is not None
    assert (picture.mode, picture.size) == ("L", (8 * (8 + 1), 16))
    maps = record.probabilities[0].mean(0).T[:8].unflatten(-1, (16, 2, 8, 2)).mean((2, 4))
    expected = maps / maps.amax((1, 2), keepdim=True) * 255
    shown = torch.tensor(np.asarray(picture)).unflatten(1, (8, 9)).permute(1, 0, 2)[..., :8]
    assert (shown - expected).abs().max() <= 0.51
    looked = pictures_of(AttentionRecords([AttentionRecord(Site("layer", "self", (4, 4), 3), scores[..., :16, :16])]))
    assert looked[0] is not None
    assert looked[0].size == (8 * 5, 4)


def test_a_table_of_many_sites_stays_small() -> None:
    scores = torch.randn(1, 1, 16 * 16, 8)
    records = AttentionRecords([AttentionRecord(Site("layer", "cross", (16, 16), 1), scores)] * 100)
    assert len(records._repr_html_()) < 64 * 5000
    assert [picture is not None for picture in pictures_of(records)] == [True] * 64 + [False] * 36


def test_records_of_odd_layers_are_shown_too() -> None:
    site = Site("<b>layer</b>", "cross", (1, 2), 1)
    masked = torch.tensor([[[[0.5, -torch.inf], [1.5, -torch.inf]]]], dtype=torch.float16, requires_grad=True)
    shown = checked(AttentionRecords([AttentionRecord(site, masked), AttentionRecord(site, masked[:0])])._repr_html_())
    assert "<b>layer</b>" in shown.text
    assert "-inf" in shown.text
    assert checked(AttentionRecords([])._repr_html_()).text.split()[0] == "site"


def test_an_inspection_says_what_its_text_says() -> None:
    parts = {"unet": ComponentInspection(686, 859_520_964, ("float16", "float32"))}
    inspection = Inspection(
        Path("<script>alert(1)</script>.ckpt"), "Stable Diffusion v1", "compvis", ("zip",), parts, ema=True,
        notes=("<img src=x>",), refused_globals=("os.system<b>",),
    )  # fmt: skip
    shown = checked(inspection._repr_html_())
    assert "859,520,964" in shown.text
    assert set(str(inspection).replace(",", "").split()) <= set(shown.text.replace(",", "").split())
    assert ("img", {"src": "x"}) not in shown.seen
