"""The page of a run: what it says, what it withstands, and that a browser opens it from disk without asking anyone."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ebama.cli import main
from ebama.evaluation.report import paper, thumbnails
from ebama.evaluation.report import tables as report
from ebama.evaluation.report.charts import bars, differences
from ebama.evaluation.report.comparison import Row, compare, share_scores
from ebama.evaluation.report.page import failure
from ebama.evaluation.report.statistics import Estimate

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "</script><script>alert(1)</script> & \"quoted\" 'too' <!-- ${title} \u2028"
BOXES = {"frog": [0.25, 0.5, 0.75, 1], HOSTILE: [0, 0, 0.5, 0.25]}
METHODS = ("sd", "ebama+intensity_weight=0", "ebama")


def line(method: str, prompt: str, seed: int, scores: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    file = f"{method}/{abs(hash(prompt)) % 1000}/{seed}.png"
    found = {"method": method, "set": "animals", "prompt": prompt, "seed": seed, "file": file, **more}
    return found if scores is None else {**found, "scores": scores}


def save(folder: Path, lines: list[dict[str, Any]], side: int = 64, colour: int = 0) -> None:
    rng = np.random.default_rng(0)
    for number, entry in enumerate(lines):
        if entry["file"] and "error" not in entry:
            path = folder / entry["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
            (image if not colour else Image.new("RGB", (side, side), (number * 20, colour, 0))).save(path)
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in lines)
    (folder / "scores.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    """Three methods, four prompts, two seeds. Failed: 2 objects missing, 3 colours wrong, 1 refused: 6 of 24."""
    found = []
    for m, method in enumerate(METHODS):
        for p, prompt in enumerate(("a cat and a dog", "a frog and a lion", "a red car", HOSTILE)):
            for seed in (0, 7):
                presence = float(not (m == 0 and p == 0))
                binding = presence * float(not (p == 2 and seed == 7))
                scores: dict[str, Any] = {"presence": presence, "binding": binding, "full": 0.2 + 0.01 * m}
                scores["caption"] = "<b>a car</b>"
                kind = "objects" if p == 2 else "animals"
                boxes = {"boxes": BOXES} if p == 1 else {}
                found.append(line(method, prompt, seed, scores, set=kind, **boxes))
    refused = found[-1]
    refused.pop("scores")
    refused.update(file=None, error="<i>no object</i>")
    found[-2]["scores"] = {"presence": None, "binding": None, "full": float("nan"), "caption": None}
    return found


@pytest.fixture
def folder(tmp_path: Path, lines: list[dict[str, Any]]) -> Path:
    save(tmp_path, lines)
    (tmp_path / "judges.json").write_text(json.dumps({"presence": "a <judge>", "binding": "a <judge>"}))
    return tmp_path


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else."""
    for chart in ("bars", "differences"):
        monkeypatch.setattr(f"ebama.evaluation.report.page.{chart}", lambda rows: "")


class Parts(HTMLParser):
    """Tags that occur, addresses that the page would fetch, and the contents of its scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.fetched += [str(given[name]) for name in ("src", "href") if name in given]
        self._script = str(given.get("id", "code")) if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            assert self._script not in self.scripts
            self.scripts[self._script] = data

    def handle_endtag(self, tag: str) -> None:
        self._script = None


def parts(folder: Path) -> Parts:
    return Parts((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_page_holds_everything_and_fetches_nothing(folder: Path, lines: list[dict[str, Any]]) -> None:
    report.write(folder)
    page = parts(folder)
    assert page.fetched == ["data:,", "#scores", "#pictures"]
    assert "img" not in page.tags
    assert page.tags.count("svg") == 6  # bars and differences of three scores
    data = json.loads(page.scripts["data"])
    assert [prompt["text"] for prompt in data["prompts"]] == [lines[k]["prompt"] for k in (0, 2, 4, 6)]
    assert [prompt["boxes"] for prompt in data["prompts"]] == [{}, BOXES, {}, {}]
    assert data["shape"] == [1, 1]
    names = [failure["name"] for failure in data["failures"]]
    failed = [names[p["failure"]] for prompt in data["prompts"] for p in prompt["pictures"] if p and "failure" in p]
    assert sorted(failed) == ["colour wrong"] * 3 + ["no picture"] + ["object missing"] * 2
    sheet = Image.open(io.BytesIO(base64.b64decode(page.scripts["sheet0"])))
    assert (sheet.format, sheet.size) == ("WEBP", (data["columns"] * 64, 128))
    assert set(page.scripts) == {"data", "code", "sheet0", "sheet1", "sheet2", "sheet3"}


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize(
    ("size", "shape"), [([32, 64], [1, 0.5]), ([64, 48], [0.75, 1]), (None, [1, 1]), ([0, 64], [1, 1]), ("ab", [1, 1])]
)
def test_the_page_knows_the_shape_of_the_pictures(folder: Path, size: object, shape: list[float]) -> None:
    (folder / "run.json").write_text(json.dumps({"size": size}))
    report.write(folder)
    assert json.loads(parts(folder).scripts["data"])["shape"] == shape


@pytest.mark.usefixtures("without_charts")
def test_a_thumbnail_stands_where_the_script_looks_for_it(tmp_path: Path) -> None:
    """Place: method by method, seed by seed, `columns` in a row."""
    lines = [line(method, "a cat", seed, {"full": 0.5}) for method in METHODS for seed in (0, 1)]
    save(tmp_path, lines, colour=200)
    report.write(tmp_path)
    page = parts(tmp_path)
    data = json.loads(page.scripts["data"])
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(page.scripts["sheet0"]))).convert("RGB"), dtype=int)
    for number, entry in enumerate(lines):
        place = METHODS.index(entry["method"]) * 2 + entry["seed"]
        assert data["prompts"][0]["pictures"][place]["file"] == entry["file"]
        row, column = divmod(place, data["columns"])
        middle = sheet[row * 64 + 32, column * 64 + 32]
        assert np.abs(middle - (number * 20, 200, 0)).max() < 8


@pytest.mark.slow
def test_hostile_texts_stay_texts(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "run.json").write_text(json.dumps({"benchmark": HOSTILE, "model": "<u>", "methods": {"<s>": "<q>"}}))
    lines[0]["scores"]["<em>"] = 1.0
    lines[0]["set"] = "<h6>"
    lines += [line("<h5>", "a cat and a dog", 0, {"presence": 1.0, "binding": 1.0})]
    save(folder, lines)
    report.write(folder)
    page = parts(folder)
    assert not {"i", "u", "s", "q", "em", "h5", "h6", "judge"} & set(page.tags)
    assert page.tags.count("script") == len(page.scripts) == 7
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text
    assert text.count("<b>a car") == 0
    assert "${title}" in json.loads(page.scripts["data"])["prompts"][-1]["text"]
    for kind, source in (
        ("script", page.scripts["code"]),
        ("style", re.findall("<style>(.*?)</style>", text, re.S)[0]),
    ):
        assert "innerHTML" not in source
        policy = re.search(f"{kind}-src 'sha256-([^']+)'", text)
        assert policy is not None
        assert policy[1] == base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


@pytest.mark.slow
def test_the_same_scores_make_the_same_page(folder: Path) -> None:
    report.write(folder)
    before = (folder / "report.html").read_bytes()
    report.write(folder)
    assert (folder / "report.html").read_bytes() == before
    assert str(folder).encode() not in before
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_thumbnails_shrink_until_all_fit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for path in files:  # noise, the worst there is to encode
        Image.fromarray(rng.integers(0, 255, (100, 100, 3), dtype=np.uint8)).save(path)
    places: list[list[Path | None]] = [[files[(p + k) % 4] for k in range(9)] for p in range(20)]
    generous, tight = thumbnails.plan(places), thumbnails.plan(places, budget=100_000)
    assert (generous.side, generous.quality) == (96, 90)
    assert tight.side <= 64 <= generous.side
    assert sum(map(len, tight.encode())) < 100_000


def test_thumbnails_are_padded_and_skip_unreadable_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32), (255, 0, 0)).save(tmp_path / "wide.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    places: list[list[Path | None]] = [[tmp_path / "wide.png", tmp_path / "broken.png", None], [None, None, None]]
    sheets = thumbnails.plan(places)
    first, second = sheets.encode()
    assert second == b""
    image = Image.open(io.BytesIO(first)).convert("RGB")
    assert image.size == (128, 128)
    red, green, blue = np.asarray(image)[32, 32]
    assert red > 230
    assert max(green, blue) < 30
    assert image.getpixel((96, 32)) == image.getpixel((32, 4)) == (255, 255, 255)  # nothing is stretched
    assert list(thumbnails.plan([]).encode()) == []


# --- what the scores are ---


def test_shares_are_known_by_their_values(lines: list[dict[str, Any]]) -> None:
    assert share_scores(lines) == {"presence", "binding"}
    rows = {(row.method, row.set, row.score): row for row in compare(lines)}
    assert rows["sd", "animals", "presence"].share
    assert not rows["sd", "animals", "full"].share
    assert {row.score for row in rows.values()} == {"presence", "binding", "full"}
    against = rows["ebama", "all", "full"].against_baseline
    assert against is not None
    assert (round(against.mean, 9), against.count) == (0.02, 6)  # without the refused one and NaN
    assert failure({"scores": {"odd": 0.0}}, ["odd"]) == "odd: no"
    assert failure({"scores": {"presence": 0.0, "binding": 0.0}}, ["presence", "binding"]) == "object missing"
    assert failure({"scores": {"presence": None}}, ["presence"]) is None
    assert failure({"error": "refused"}, []) == "no picture"


@pytest.mark.usefixtures("without_charts")
@pytest.mark.slow
def test_the_papers_figures_stand_beside_runs_of_its_kind_only(folder: Path, lines: list[dict[str, Any]]) -> None:
    sd: dict[str, Any] = {"model": "sd-v1", "benchmark": "ane", "prompts": 276}
    mini = {**sd, "model": "miniature"}
    assert paper.published("ebama", "objects", "t-c", sd, {}) == 0.836
    assert paper.published("syngen", "animals", "min", {**sd, "benchmark": "ane:animals", "prompts": 66}, {}) == 0.213
    assert paper.published("ebama", "objects", "t-c", {**sd, "prompts": 9}, {}) is None  # --limit 3
    assert paper.published("ebama", "objects", "t-c", mini, {}) is None
    assert paper.published("ebama", "objects", "t-c", sd, {"t-c": "the miniature's captioner"}) is None
    for method, name, score in (
        ("conform", "objects", "t-c"),
        ("ebama", "all", "t-c"),
        ("ebama", "objects", "binding"),
    ):
        assert paper.published(method, name, score, sd, {}) is None
    (folder / "run.json").write_text(json.dumps(sd))
    assert "| ebama | 0.220 [0.220, 0.220]; +0.020 [+0.020, +0.020] | 0.220" in report.write(folder)
    assert "; paper 0.340 |" in (folder / "table.md").read_text()
    assert paper.NOTE in (folder / "report.html").read_text()
    assert ",0.34\n" in (folder / "table.csv").read_text()
    (folder / "run.json").write_text("damaged")
    with pytest.warns(UserWarning, match=r"Line 1 of .*run\.json is damaged.* made without it"):
        assert "paper" not in report.write(folder)


def test_charts_mark_name_and_measure_every_method_in_every_set() -> None:
    lines = [
        line(m, f"p{k}", 0, {"full": 0.3 + 0.1 * (m != "sd") + 0.001 * k}, set=f"s{k % 2}")
        for m in METHODS
        for k in range(10)
    ]
    rows = compare(lines)
    chart = ElementTree.fromstring(bars(rows).replace("xlink:", ""))
    assert chart.attrib["role"] == "img"
    assert chart.attrib["aria-label"] == "full, score; lines: 95 % intervals"
    for row in rows:
        mean, low, high = row.value.shown(share=False)
        kind = "baseline" if row.method == "sd" else "bar"
        marks = {g.attrib["class"]: g for g in chart.iter("g") if g.findtext("title") == title(row)}
        assert title(row) == f"{row.method}, {row.set}: {mean} [{low}, {high}]"
        assert set(marks) == {kind, "interval", "value"}
        assert marks["value"].findtext("text") == mean
        (bar,) = marks[kind].iter("path")
        xs = [float(x) for x in re.findall(r"[ML] ([\d.]+)", bar.attrib["d"])]
        assert (max(xs) - min(xs)) / 190 == pytest.approx(row.value.mean / max(r.value.high for r in rows), abs=1e-6)
    assert len(rows) == 9
    texts = [text.text for text in chart.iter("text")]
    assert [name for name in texts if name in METHODS] == list(METHODS)
    assert [name for name in texts if name in ("all", "s0", "s1")] == ["all", "s0", "s1"]
    assert "style" not in {name for element in chart.iter() for name in element.attrib}  # the page's policy forbids it
    assert differences(rows).count('class="above"') == 6
    assert differences([row for row in rows if row.method == "sd"]) == ""


def title(row: Row) -> str:
    return f"{row.method}, {row.set}: " + "{} [{}, {}]".format(*row.value.shown(row.share))


def test_signs_of_differences_have_shapes_of_their_own() -> None:
    rng = np.random.default_rng(0)
    shift = {"sd": 0.0, "up": 0.1, "down": -0.1, "same": 0.0}
    lines = [line(m, f"p{k}", 0, {"full": 0.5 + shift[m] + 0.01 * rng.normal()}) for m in shift for k in range(9)]
    svg = differences([row for row in compare(lines) if row.set == "all"])
    chart = ElementTree.fromstring(svg.replace("xlink:", ""))
    paths = {path.attrib["id"]: path.attrib["d"] for path in chart.iter("path") if "id" in path.attrib}
    shapes = {}
    for g in chart.iter("g"):
        if g.attrib.get("class") in ("above", "below", "open"):
            (use,) = g.iter("use")
            shapes[g.attrib["class"]] = paths[use.attrib["href"].removeprefix("#")]
    assert len(set(shapes.values())) == len(shapes) == 3
    assert "minus sd's, score" in svg


def test_charts_show_the_papers_figures_as_diamonds() -> None:
    lines = [line(m, f"p{k}", 0, {"full": 0.3}) for m in METHODS for k in range(66)]
    settings = {"model": "sd-v1", "benchmark": "ane:animals", "prompts": 66}
    svg = bars(compare(lines, settings))
    assert svg.count('class="paper"') == 3
    assert "sd, animals: 0.300 [0.300, 0.300]; the paper: 0.311</title>" in svg


@pytest.mark.filterwarnings("error")
def test_charts_show_odd_names_literally() -> None:
    names = ["$x^2$", "a\x01b\nc", "猫", "x" * 50, HOSTILE]
    svg = bars(compare([line(name, "p", 0, {"full": 0.5}, set=f"{name} set") for name in names]))
    texts = [
        element.text for element in ElementTree.fromstring(svg.replace("xlink:", "").replace("\x01", "")).iter("text")
    ]
    assert {"$x^2$", "a\ufffdb\ufffdc", "猫", "x" * 33 + "…", "$x^2$ set"} <= set(texts)
    assert "<script" not in svg


def test_verdicts_need_an_interval_beside_zero_and_enough_prompts() -> None:
    limits = ((1, 2), (-2, -1), (-1, 1), (0, 0))
    assert [Estimate(0, *ends, 9, 9).verdict for ends in limits] == ["above", "below", "open", "open"]
    assert Estimate(0, 1, 2, 400, 4).verdict == "open"  # whatever the bootstrap makes of four prompts


@pytest.mark.parametrize(
    ("score", "more"), [("binding", "gain"), ("similarity", "gain"), ("extras", "loss"), ("distance", "loss")]
)
def test_more_of_what_is_wrong_with_a_picture_is_a_loss(score: str, more: str) -> None:
    values = {"sd": 0.5, "ebama": 0.75, "ane": 0.25, "same": 0.5}
    lines = [line(method, f"p{i}", 0, {score: value}) for method, value in values.items() for i in range(5)]
    rows = {row.method: row for row in compare(lines) if row.set == "all"}
    less = {"gain": "loss", "loss": "gain"}[more]
    outcomes = {"sd": "open", "ebama": more, "ane": less, "same": "open"}
    assert {method: row.outcome for method, row in rows.items()} == outcomes
    chart = differences(list(rows.values()))
    assert [chart.count(f"var(--{outcome})") > 0 for outcome in ("gain", "loss")] == [True, True]
    assert chart.count('class="above"') == chart.count('class="below"') == 1  # the shapes tell the sign


@pytest.mark.usefixtures("without_charts")
def test_a_second_opinion_is_shown_and_makes_no_failure(folder: Path, lines: list[dict[str, Any]]) -> None:
    opinions = {"second presence": 1.0, "second binding": 0.0, "judges agree": 0.0}
    judged = [entry | {"scores": entry["scores"] | opinions} for entry in lines if "scores" in entry]
    (folder / "scores.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in judged))
    report.write(folder)
    data = json.loads(parts(folder).scripts["data"])
    assert {failure["name"] for failure in data["failures"]} == {"object missing", "colour wrong"}
    assert {score["name"] for score in data["scores"]} >= opinions.keys()


@pytest.mark.usefixtures("without_charts")
def test_names_of_any_folder_leave_the_table_one(tmp_path: Path) -> None:
    save(tmp_path, [line("a|b", "a cat", seed, {"full": 0.5}, set="x|\ny") for seed in (0, 1)])
    report.write(tmp_path, "a|b")
    head, rule, row = [text for text in (tmp_path / "table.md").read_text().splitlines() if text.startswith("|")]
    assert head == "| method | all | x\\| y | pictures |"
    assert row.startswith("| a\\|b | 0.500")
    assert {re.sub(r"\\\|", "", text).count("|") for text in (head, rule, row)} == {rule.count("|")}


def test_a_set_named_all_does_not_replace_the_whole() -> None:
    lines = [line("sd", name, 0, {"full": value}, set=name) for name, value in (("all", 0.0), ("other", 1.0))]
    rows = {row.set: row.value.mean for row in compare(lines)}
    assert rows == {"all": 0.5, "other": 1.0}


# --- the command ---


@pytest.mark.usefixtures("without_charts")
def test_the_command_makes_table_and_page_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed == (folder / "table.md").read_text() + f"\n{folder / 'report.html'}\n"


@pytest.mark.slow
def test_report_shows_differences_to_the_method_it_is_told(
    folder: Path, lines: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder), "--against", "ebama"]) == 0
    table = capsys.readouterr().out
    assert "difference to ebama at the same prompts and seeds" in table
    assert re.search(r"\| sd \| 0.200 \[0.200, 0.200\]; -0.020 \[-0.020, -0.020\]", table)
    assert "minus ebama" in (folder / "report.html").read_text()
    data = json.loads(parts(folder).scripts["data"])
    assert data["methods"][data["baseline"]] == "ebama"
    assert main(["report", str(folder), "--against", "ane"]) == 2
    assert "There are no pictures of 'ane' to compare with; there are sd, ebama+" in capsys.readouterr().err


@pytest.mark.slow
def test_report_rejects_folder_without_scores(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(where: Path) -> str:
        capsys.readouterr()
        assert main(["report", str(where)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "There is no " in refused(empty)
    (empty / "scores.jsonl").write_text("")
    assert "holds no score, and" in refused(empty)
    (empty / "scores.jsonl").write_text(json.dumps(line("sd", "a cat", 0, {"presence": None})) + "\n")
    assert "holds no score, and" in refused(empty)
    (empty / "scores.jsonl").write_text('{"method": "sd", "set": "a", "prompt": "a", "seed": 0}\n{"method": 3}\n')
    assert "Line 2 of" in refused(empty)
    for key, value in (("scores", 3), ("file", 3), ("seed", [0]), ("seed", None)):
        (empty / "scores.jsonl").write_text(json.dumps(line("sd", "a cat", 0, {"presence": 1.0}) | {key: value}) + "\n")
        assert "Line 1 of" in refused(empty)
    assert not (empty / "report.html").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_charts")
def test_report_needs_either_pictures_or_scores(folder: Path, lines: list[dict[str, Any]]) -> None:
    for method in METHODS:
        shutil.rmtree(folder / method)
    assert "| ebama |" in report.write(folder)
    assert "sheet0" not in parts(folder).scripts  # there, and empty
    for entry in lines:
        entry.pop("scores", None)
    save(folder, lines)
    assert report.write(folder) == report.NO_SCORES
    assert "sheet0" in parts(folder).scripts
    assert (folder / "table.json").read_text() == "[]\n"


# --- in a browser ---


@pytest.mark.slow
def test_a_browser_opens_it_from_disk_and_filters_it(folder: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    report.write(folder)
    address = (folder / "report.html").as_uri()
    said: list[str] = []
    requested: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)

        def shows(pictures: int, prompts: int) -> None:
            """Rows that come into view are filled a moment later."""
            found = f"{pictures} of 24 pictures, {prompts} of 4 prompts"
            sync_api.expect(page.locator("#count")).to_have_text(found, timeout=20_000)
            sync_api.expect(page.locator("#grid .pic:visible")).to_have_count(pictures, timeout=20_000)

        shows(24, 4)
        titles = page.locator("#grid .pic").evaluate_all("found => found.map((each) => each.title)")
        assert sum(title.endswith(": no failure") for title in titles) == 24 - 6 - 1  # one that no judge spoke of
        assert "1 of 5 failed" in page.inner_text("#grid tbody tr:last-child th")
        page.select_option("#show", "failures")
        shows(6, 3)
        assert page.locator("#grid .pic.failed:visible").count() == 6
        page.select_option("#set", label="objects")
        shows(3, 1)
        page.locator("#methods input").nth(1).uncheck()
        shows(2, 1)
        page.locator("#methods input").nth(1).check()
        page.select_option("#set", label="all")
        page.select_option("#show", label="object missing")
        shows(2, 1)
        page.select_option("#show", label="better than sd")
        shows(4, 1)
        page.select_option("#show", "all")
        page.fill("#text", "FROG lion")
        shows(6, 1)
        page.fill("#text", "<script>alert")
        shows(6, 1)
        page.fill("#text", "")
        shows(24, 4)
        # By keyboard alone: from sd to the next method's first seed, a row down, and open.
        page.locator("#grid .pic").first.focus()
        assert page.locator("#grid .pic[tabindex='0']").count() == 1
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
            page.keyboard.press(key)
        assert page.inner_text("#closer-title") == "a frog and a lion, seed 0"
        assert page.inner_text("#closer .chosen b") == METHODS[1]
        assert "caption: <b>a car</b>" in page.inner_text("#closer .chosen")
        frog, _ = (box.bounding_box() for box in page.locator("#closer .chosen .boxes span").all())
        picture = page.locator("#closer .chosen .pic").bounding_box()
        assert frog
        assert picture
        places = (frog["x"] - picture["x"], frog["y"] - picture["y"], frog["width"], frog["height"])
        assert places == pytest.approx((48, 96, 96, 96), abs=0.1)  # of 192 pixels
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#closer-title") == "a frog and a lion, seed 7"
        page.keyboard.press("Escape")
        assert not page.locator("#closer").is_visible()
        browser.close()
    assert said == []
    assert [url for url in requested if not url.startswith(("blob:", "data:"))] == [address]
