"""The page of a trace in a browser, from disk and in a notebook's frame: pointer, keyboard and slider."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import run

from ebama.trace import Trace, TraceOptions, view

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

pytestmark = pytest.mark.slow
CROWN = "a purple crown and a blue suitcase"
HOSTILE = "a cat <img src=x onerror=alert(1)></script><script>alert(1)</script> & \"dog\" 'fox'"
WAIT = 60_000  # milliseconds, on a busy machine


@pytest.fixture(scope="module")
def trace() -> Trace:
    trace = run([CROWN, HOSTILE], "sd", seeds=[3, 4], sampler="ddim", trace=True, output="pil").trace
    assert trace is not None
    return trace


Open = Callable[[str], Any]


@pytest.fixture
def opened(browser: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens a page from disk; nothing may go wrong in it, and it may ask for no other file and no host."""
    scheme = getattr(request, "param", "light")
    context = browser.new_context(color_scheme=scheme, viewport={"width": 900, "height": 700})
    context.set_default_timeout(WAIT)
    problems: list[str] = []
    asked: list[str] = []
    context.on("console", lambda message: problems.append(message.text))
    context.on("weberror", lambda error: problems.append(str(error.error)))
    context.on("dialog", lambda dialog: problems.append(dialog.message))
    context.on("request", lambda request: asked.append(request.url))

    def open_page(text: str) -> Any:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        page = context.new_page()
        page.goto(path.as_uri())
        return page

    yield open_page
    context.close()
    assert problems == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "about"}
    assert len([url for url in asked if url.startswith("file:")]) == 1


schemes = pytest.mark.parametrize("opened", ["light", "dark"], indirect=True)


def has_text(place: Any, pattern: str) -> None:
    playwright.expect(place).to_have_text(re.compile(pattern), timeout=WAIT)


def bright(page: Any, index: int) -> list[bool]:
    """Which pixels of the map over a picture are yellower than blue: those above the middle of the scale."""
    script = """canvas => {
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return Array.from({length: data.length / 4}, (_, i) => data[4 * i] > 125);
    }"""
    return list(page.locator("figure canvas").nth(index).evaluate(script))


@schemes
def test_a_file_by_pointer_and_keyboard(opened: Open, trace: Trace) -> None:
    page = opened(view.document(view.shown(trace)))
    page.wait_for_selector("body[data-ready]")
    assert page.locator("#words button").all_text_contents() == CROWN.split()
    assert page.locator("figcaption").all_text_contents() == ["sample 0", "sample 1"]
    for picture in page.locator("figure img").all():
        playwright.expect(picture).to_have_js_property("naturalWidth", 32)

    page.hover("#words button >> text=crown")
    has_text(page.locator("#high"), r"^0\.\d+ for “crown”$")
    maps = [trace.maps("crown", sample=sample).mean(dim=0) for sample in (0, 1)]
    high = float(max(one.max() for one in maps))
    for index, one in enumerate(maps):
        expected = (one / high * 255 > 126).flatten()
        assert (torch.tensor(bright(page, index)) != expected).float().mean() < 0.05
    page.mouse.move(5, 690)
    playwright.expect(page.locator(".looking")).to_have_count(0)

    page.locator("#words button").first.focus()
    page.keyboard.press("Tab")
    has_text(page.locator("#high"), "“purple”")
    page.keyboard.press("Enter")
    page.locator("#call").focus()
    page.keyboard.press("ArrowRight")
    has_text(page.locator("#when"), "^call 1 of 2, t = 501$")
    has_text(page.locator("#high"), "“purple”")
    page.select_option(".choices label:has-text('Maps of') select", label="scores before softmax")
    has_text(page.locator("#low"), r"^(0|-\d)")
    assert page.locator("#words [aria-pressed=true]").all_text_contents() == ["purple"]
    has_text(page.locator("#when"), "^call 1 of 2")
    page.keyboard.press("Escape")
    playwright.expect(page.locator(".looking")).to_have_count(0)


def test_layers_and_heads_by_keyboard(opened: Open, trace: Trace) -> None:
    options = TraceOptions(resolution=[16, 8], head=[0, 1], by_site=True, words=["crown"])
    maps = run(CROWN, "sd", seeds=[3], sampler="ddim", trace=options, output="pil").trace
    assert maps is not None
    page = opened(view.document(view.shown(maps)))
    page.wait_for_selector("body[data-ready]")
    page.locator("#words button").first.click()
    layers, heads = (page.locator(f".choices label:has-text('{name}') select") for name in ("Layers", "Heads"))
    canvas = page.locator("figure canvas")
    playwright.expect(canvas).to_have_js_property("width", 16)
    layers.focus()
    page.keyboard.press("ArrowDown")  # the first layer alone
    has_text(
        page.locator("#notes"), f"{re.escape(maps.select(site='*', resolution=16).sites[0].name)}, mean over heads"
    )
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    has_text(page.locator("#notes"), "head 1")
    one = maps.select(site="*", resolution=16, head=1).maps("crown").mean(0)
    has_text(page.locator("#high"), rf"^{float(one.max()):.2g}")
    last = layers.locator("option").last
    layers.select_option(label=last.text_content())
    playwright.expect(canvas).to_have_js_property("width", 8)
    has_text(page.locator("#notes"), "head 1")
    heads.select_option(label="mean over heads")
    has_text(page.locator("#notes"), "8x8, .*mean over heads")
    assert page.locator("#words [aria-pressed=true]").all_text_contents() == ["crown"]


def test_a_hostile_prompt_is_text(opened: Open, trace: Trace) -> None:
    page = opened(view.document(view.shown(trace, labels=["<b>one</b>", "", "<i>", "<script>alert(2)</script>"])))
    page.wait_for_selector("body[data-ready]")
    assert page.locator("figcaption").first.text_content() == "<b>one</b>"
    page.select_option(".choices label:has-text('Prompt') select", index=1)
    assert {"script", "img", "alert"} < set(page.locator("#words button").all_text_contents())
    page.hover("#words button >> text=fox")
    has_text(page.locator("#high"), "“fox”")
    assert page.locator("main script, main b, main img[onerror]").count() == 0
    assert page.locator("figcaption").all_text_contents() == ["<i>", "<script>alert(2)</script>"]


@schemes
@pytest.mark.parametrize(
    ("text", "paper"), [("#eee", "rgb(19, 20, 23)"), ("rgba(0, 0, 0, 0.87)", "rgb(251, 250, 247)")]
)
def test_a_frame_is_as_dark_as_its_notebook(opened: Open, trace: Trace, text: str, paper: str) -> None:
    page = opened(f"<!doctype html><meta charset=utf-8><body style='color: {text}'>{trace._repr_html_()}")
    inside = page.frame_locator("iframe")
    inside.locator("body[data-ready]").wait_for()
    playwright.expect(inside.locator("body")).to_have_css("background-color", paper, timeout=WAIT)


def test_a_notebooks_frame_is_as_high_as_the_page(opened: Open, trace: Trace) -> None:
    page = opened(f"<!doctype html><meta charset=utf-8><body>{trace._repr_html_()}<p id=below>below</p>")
    inside = page.frame_locator("iframe")
    inside.locator("body[data-ready]").wait_for()
    inside.locator("#words button", has_text="suitcase").hover()
    has_text(inside.locator("#high"), "“suitcase”")
    fits = "frame => Math.abs(frame.clientHeight - frame.contentDocument.documentElement.scrollHeight) <= 1"
    playwright.expect(page.locator("iframe")).not_to_have_css("height", "480px", timeout=WAIT)
    playwright.expect(page.locator("body > img")).to_be_hidden()
    assert page.locator("iframe").evaluate(fits)
    assert page.locator("#below").evaluate("below => getComputedStyle(below).fontSize") == "16px"  # no style leaks out
