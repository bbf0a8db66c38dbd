"""The page in a browser, from click to picture, on the embedded miniature."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ebama.models import MINIATURE
from ebama.output.png import read_metadata

pytest.importorskip("uvicorn", reason="needs the extra app")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SIDE = MINIATURE.sample_size * MINIATURE.vae.factor
WAIT = 60_000  # milliseconds, on a busy machine


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """`train_free.py serve` as a user starts and stops it."""
    command = [sys.executable, "train_free.py", "serve", "--port", "0", "--parser", "rules"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout
        line = server.stdout.readline()
        try:
            assert line.startswith("http://127.0.0.1:"), line
            yield line.split()[0]
        finally:
            server.send_signal(signal.SIGINT)
            out, errors = server.communicate(timeout=60)
    assert (server.returncode, out) == (0, "stopped\n")
    assert "Traceback" not in errors


Open = Callable[[], Any]


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Open]:
    """Opens tabs; in none of them may anything go wrong that a test did not expect, and none may ask other hosts."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT)
    problems: list[str] = []
    asked: list[str] = []
    context.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
    context.on("weberror", lambda error: problems.append(str(error.error)))
    context.on("request", lambda request: asked.append(request.url))

    def opened() -> Any:
        page = context.new_page()
        page.problems = problems
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    context.close()
    assert problems == []
    assert asked
    assert all(url.startswith(f"{address}/") for url in asked)


def generate_small(page: Any) -> None:
    """A long run of small pictures."""
    page.click("summary")
    for edge in ("#width", "#height"):
        page.fill(edge, "32")
    generate(page, "a cat and a frog", ("ebama",), "0:8", steps=100)


def generate(page: Any, prompt: str, methods: tuple[str, ...] = ("sd",), seeds: str = "0", steps: int = 2) -> None:
    page.fill("#prompt", prompt)
    for box in page.query_selector_all("#methods input"):
        box.set_checked(box.get_attribute("value") in methods)
    page.fill("#seeds", seeds)
    if not page.is_visible("#steps"):
        page.click("summary")
    page.fill("#steps", str(steps))
    page.click("#go")


def wait_for_text(page: Any, selector: str, pattern: str) -> None:
    playwright.expect(page.locator(selector)).to_have_text(re.compile(pattern), timeout=WAIT)


def pictures(page: Any, count: int) -> None:
    """Wait until the job has ended with that many pictures, all of which have arrived."""
    playwright.expect(page.locator("#rows figure img")).to_have_count(count, timeout=WAIT)
    page.wait_for_selector("#progress", state="hidden")
    for picture in page.locator("#rows figure img").all():
        playwright.expect(picture).to_have_js_property("naturalWidth", SIDE)


def colours(page: Any, index: int = 0) -> int:
    """How many colours the map over a picture has."""
    script = """canvas => new Set(new Uint32Array(
        canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"""
    return int(page.locator("figure canvas").nth(index).evaluate(script))


def test_from_click_to_picture(tab: Open, tmp_path: Path) -> None:
    page = tab()
    wait_for_text(page, "#model", f"^embedded miniature · {SIDE} × {SIDE} pixels")
    wait_for_text(page, "#vocabulary", "^It knows cat, .* black, white.$")
    generate(page, "a purple crown and a blue suitcase", ("sd", "ebama"), "4,0")
    pictures(page, 4)
    assert page.locator("#rows h2").all_text_contents() == [
        "sdchanges nothing",
        "ebamamoves the latent: binds modifiers to objects by scores, brings objects out",
    ]

    # Words by pointer and by keyboard; a click keeps one, Escape lets it go.
    looking = page.locator("#results.looking")
    page.hover("#words button >> text=crown")
    playwright.expect(looking).to_have_count(1)
    wait_for_text(page, "#high", r"^0\.\d+ for “crown”$")
    assert min(colours(page, index) for index in range(4)) > 5
    page.mouse.move(5, 5)
    playwright.expect(looking).to_have_count(0)
    page.locator("#words button").first.focus()
    wait_for_text(page, "#high", "“a”")
    page.keyboard.press("Tab")
    wait_for_text(page, "#high", "“purple”")
    page.keyboard.press("Enter")
    page.locator("#call").focus()
    wait_for_text(page, "#high", "“purple”")
    assert page.locator("#words [aria-pressed=true]").all_text_contents() == ["purple"]
    page.keyboard.press("ArrowRight")
    wait_for_text(page, "#when", r"^call 1 of 3, t = 999$")
    page.keyboard.press("Escape")
    playwright.expect(looking).to_have_count(0)

    # Layers and heads, by keyboard.
    wait_for_text(page, "#sites", "^Maps: cross-attention 16x16, 3 layers, mean over heads, probabilities")
    before = page.locator("figure canvas").first.evaluate("canvas => canvas.toDataURL()")
    page.locator("#words button", has_text="crown").click()
    page.locator("#layers select").nth(1).focus()
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    wait_for_text(page, "#sites", r"^Maps: cross-attention 16x16, up_blocks\.\S+attn2, head 3, probabilities")
    assert page.locator("figure canvas").first.evaluate("canvas => canvas.toDataURL()") != before
    page.keyboard.press("Escape")

    # Curves of the chosen seed: two quantities for each method, two lines in each.
    assert page.locator(".chart > svg").count() == 4
    assert page.locator(".chart > svg path").count() == 8
    assert page.locator(".legend").first.locator("li").all_text_contents() == ["crown", "suitcase"]
    before = page.locator(".chart path").first.get_attribute("d")
    page.locator("figure button").nth(1).click()
    wait_for_text(page, ".row:first-child .chart:first-child h3", "seed 0")
    assert page.locator(".chart path").first.get_attribute("d") != before

    with page.expect_download() as waiting:
        page.locator("figure a").nth(2).click()
    assert waiting.value.suggested_filename == "a-purple-crown-and-a-blue-suitcase-ebama-seed0004.png"
    waiting.value.save_as(tmp_path / "picture.png")
    recipe = read_metadata(tmp_path / "picture.png")
    assert (recipe["method"]["name"], recipe["seed"], recipe["sampler"]["steps"]) == ("ebama", 4, 2)

    page.reload()  # the address knows the job
    pictures(page, 4)


def test_boxes_are_drawn_with_the_mouse(tab: Open) -> None:
    page = tab()
    page.click("#placing summary")
    page.fill("#prompt", "a cat and a red car")
    wait_for_text(page, "#read", "a cat and a red car")
    assert page.locator("#offered option").evaluate_all("all => all.map(one => one.value)") == [
        *("a#1", "cat", "and", "a#2", "red", "car")
    ]
    page.locator("#board").scroll_into_view_if_needed()
    board = page.locator("#board").bounding_box()

    def drag(word: str, left: float, top: float, right: float, bottom: float) -> None:
        page.fill("#word", word)
        page.mouse.move(board["x"] + left * board["width"], board["y"] + top * board["height"])
        page.mouse.down()
        page.mouse.move(board["x"] + right * board["width"], board["y"] + bottom * board["height"], steps=3)
        page.mouse.up()

    drag("cat", 0.5, 0.75, 0.1, 0.25)
    drag("car", 0.6, 0.2, 0.62, 0.2)  # a slip
    drag("car", 0.6, 0.2, 0.9, 0.9)
    assert page.input_value("#boxes") == "cat: 0.1, 0.25, 0.5, 0.75; car: 0.6, 0.2, 0.9, 0.9"
    generate(page, "a cat and a red car", ("sd",))
    page.fill("#height", "30")
    page.click("#go")
    wait_for_text(page, "#error", "a height and a width that are multiples of 16 pixels")
    page.fill("#height", "64")
    assert page.locator("#board").evaluate("board => getComputedStyle(board).aspectRatio") == "2 / 1"
    generate(page, "a cat and a red car", ("sd", "layout-guidance"))
    pictures(page, 2)
    assert page.locator("figure .box").all_text_contents() == ["cat", "car"] * 2
    inside = page.locator("figure .box").first.bounding_box()
    picture = page.locator("figure button").first.bounding_box()
    assert inside["x"] - picture["x"] == pytest.approx(0.1 * picture["width"], abs=1.5)
    assert inside["height"] == pytest.approx(0.5 * picture["height"], abs=1.5)
    assert picture["width"] == pytest.approx(2 * picture["height"], abs=1.5)
    page.fill("#boxes", "cat: 0.1, 0.2")
    page.click("#go")
    wait_for_text(page, "#error", "“cat: 0.1, 0.2” is no box")
    page.fill("#boxes", "dog: 0, 0, 1, 1")
    page.click("#go")
    wait_for_text(page, "#error", "'dog' is not in the prompt")
    page.problems.clear()


def roles(page: Any) -> list[tuple[str, str]]:
    """The words that are no plain ones, and what they are."""
    script = "all => all.map(word => [word.textContent, word.title])"
    return [tuple(pair) for pair in page.locator("#read :is(.object, .modifier)").evaluate_all(script)]


def test_words_are_what_a_click_says(tab: Open) -> None:
    page = tab()
    parsed = [("red", "describes crown#1"), ("crown", "an object"), ("crown", "an object")]
    page.fill("#prompt", "a red crown and a crown")
    wait_for_text(page, "#read", "a red crown and a crown")
    assert roles(page) == parsed

    # By pointer: the first crown is nothing, and so is what described it; then the second takes it.
    page.locator("#read button", has_text="crown").first.click()
    assert page.locator("#roles label").all_text_contents() == ["an object", "describes crown#2", "ignored"]
    page.click("#roles >> text=ignored")
    wait_for_text(page, "#reading", "^Changed from what the parser reads")
    assert roles(page) == [("crown", "an object")]
    page.click("#read >> text=red")
    page.click("#roles >> text=describes crown#2")
    playwright.expect(page.locator("#read .modifier")).to_have_text("red")
    assert roles(page) == [("red", "describes crown#2"), ("crown", "an object")]

    # By keyboard: focus stays with the choice, Escape goes back to the word.
    page.locator("#read button").nth(3).focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#roles legend")).to_have_text("“and” is")
    page.keyboard.press("ArrowUp")
    playwright.expect(page.locator("#read .object")).to_have_count(1)
    wait_for_text(page, "#roles label:focus-within", "describes crown#2")
    page.keyboard.press("ArrowUp")
    playwright.expect(page.locator("#read .object")).to_have_count(2)
    page.keyboard.press("Escape")
    assert page.is_hidden("#roles")
    assert page.evaluate("document.activeElement.textContent") == "and"

    # Runs go by it; another wording starts anew, going back does not, nor does a reload.
    generate(page, "a red crown and a crown")
    pictures(page, 1)
    chosen = [("red", "describes crown#2"), ("and", "an object"), ("crown", "an object")]
    assert page.locator("#words .object").all_text_contents() == ["and", "crown"]
    page.fill("#prompt", "a red crown and a crown!")
    wait_for_text(page, "#reading", "^Read anew: what you changed belongs to another wording")
    assert roles(page) == parsed
    page.fill("#prompt", "a red crown and a crown")
    wait_for_text(page, "#reading", "^Changed from what the parser reads")
    page.reload()
    wait_for_text(page, "#reading", "^Changed from what the parser reads")
    assert roles(page) == chosen
    assert page.input_value("#steps") == "2"
    page.click("#anew")
    wait_for_text(page, "#reading", "^Click a word")
    assert roles(page) == parsed


def put(page: Any, kind: str, path: Path, media: str = "image/png") -> None:
    """Drop a file on the page, or paste it."""
    script = """([kind, bytes, name, type]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], name, { type }));
        const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true })
            : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
    }"""
    page.evaluate(script, [kind, list(path.read_bytes()), path.name, media])


def test_pictures_are_brought_and_bring_back_what_made_them(tab: Open, tmp_path: Path) -> None:
    page = tab()
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (80, 40), "red").save(photo)
    page.click("#own summary")
    page.set_input_files("#file", photo)
    wait_for_text(page, "#fit", "^photo.jpg, 80 × 40 pixels: enlarged, then cut left and right, to 128 × 128.$")
    playwright.expect(page.locator("#thumbnail")).to_have_js_property("naturalWidth", 128)
    page.click("#own summary")
    page.fill("#prompt", "a red car")
    page.click("#more summary")
    page.fill("#extra", "ebama+intensity_weight=0")
    page.fill("#height", "64")
    generate(page, "a red car", (), "5")
    wait_for_text(page, "figcaption", "seed 5")
    page.wait_for_selector("#progress", state="hidden")
    playwright.expect(page.locator("#rows figure img")).to_have_js_property("naturalWidth", 128)
    with page.expect_download() as waiting:
        page.locator("figure a").click()
    made = tmp_path / "made.png"
    waiting.value.save_as(made)

    # Maps of the picture itself, whatever the form says.
    page.click("#own summary")
    page.click("#maps")
    wait_for_text(page, "figcaption", "inverted")
    assert page.locator("#rows h2").all_text_contents() == ["sdchanges nothing"]
    page.hover("#words button >> text=car")
    wait_for_text(page, "#high", "for “car”")

    # On a new page the file brings everything back, but for the picture that it started from.
    page = tab()
    put(page, "drop", made)
    wait_for_text(page, "#told", "as made.png was made. It began from a picture; choose that one too.$")
    values = {name: page.input_value(f"#{name}") for name in ("prompt", "seeds", "steps", "width", "height", "extra")}
    assert values == {
        **{"prompt": "a red car", "seeds": "5", "steps": "2", "width": "128", "height": "64"},
        "extra": "ebama+intensity_weight=0",
    }
    assert page.locator("#methods :checked").count() == 0
    page.click("#instead")
    wait_for_text(page, "#fit", "^made.png, 128 × 64 pixels: taken as it is, to 128 × 64.$")
    page.click("#own >> text=start from its inversion")
    assert page.is_disabled("#seeds")
    page.click("#without")
    assert page.is_enabled("#seeds")
    put(page, "paste", photo, "image/jpeg")
    wait_for_text(page, "#fit", "^photo.jpg, 80 × 40 pixels: enlarged, to 128 × 64.$")
    put(page, "drop", ROOT / "README.md", "image/png")
    wait_for_text(page, "#error", "^no picture that can be read")
    page.problems.clear()


def test_a_bad_prompt_is_one_line_and_the_page_goes_on(tab: Open) -> None:
    page = tab()
    generate(page, "quickly and slowly", ("ebama",))
    wait_for_text(page, "#error", "^no noun found in 'quickly and slowly'")
    assert page.is_hidden("#progress")
    refused = [line for line in page.problems if "status of 400" in line]  # Chromium says so itself
    assert len(refused) == 1
    page.problems.remove(refused[0])
    generate(page, "a green dragon and a cat", ("ebama",))
    pictures(page, 1)
    assert page.is_hidden("#error")
    assert page.inner_text("#notes") == "The embedded miniature does not know: dragon."


def test_a_failing_run_is_one_line(tab: Open) -> None:
    page = tab()
    page.click("summary")
    page.fill("#extra", "ebama+step_size=1e30")
    generate(page, "a cat and a frog", ("sd",))
    wait_for_text(page, "#error", "^The latent became infinite or NaN")
    assert page.locator("figure img").count() == 1


def test_two_tabs_take_turns_and_a_cancel_lets_the_next_one_on(tab: Open) -> None:
    first, second = tab(), tab()
    generate_small(first)
    wait_for_text(first, "#state", r"^ebama: model call \d+ of 202$")
    assert 0 < first.locator("#bar").evaluate("bar => bar.value") < 1
    generate(second, "a bear")
    wait_for_text(second, "#state", "^Waiting: 1 job is before it$")
    assert second.locator("figure").count() == 0
    first.click("#cancel")
    wait_for_text(first, "#state", "^Cancelled$")
    assert first.is_hidden("#cancel")
    assert first.locator("figure").count() == 0
    pictures(second, 1)


def test_asking_again_cancels_what_this_tab_asked_before(tab: Open) -> None:
    page = tab()
    generate_small(page)
    wait_for_text(page, "#state", "^ebama: model call")
    for edge in ("#width", "#height"):
        page.fill(edge, str(SIDE))
    generate(page, "a bear")
    pictures(page, 1)
    assert page.locator("#words button").all_text_contents() == ["a", "bear"]
