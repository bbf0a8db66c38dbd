"""The commands that draw: the files they leave, that their numbers are the run's, and what they refuse."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reference import model, run

from ebama import Pipeline
from ebama.cli import main
from ebama.commands import model as commands_model
from ebama.output.png import read_metadata
from ebama.trace import TraceOptions, curves, figures
from ebama.trace.map_rows import MapRow

PROMPT = "a purple crown and a blue suitcase"
FOLDER = Path("a-purple-crown-and-a-blue-suitcase") / "attention-seed0003"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_model, "load", lambda *_, **__: model())


def draw(out: Path, *arguments: str, prompt: str = PROMPT) -> int:
    common = ["--steps", "2", "--sampler", "ddim", "--parser", "rules", "--out", str(out)]
    return main(["attention", prompt, "--seed", "3", *common, *arguments])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_attention_writes_maps_curves_and_the_numbers_of_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert draw(tmp_path) == 0
    folder = tmp_path / FOLDER
    assert names(folder) == ["curves.csv", "curves.npz", "curves.png", "maps-ebama.png", "maps-sd.png"]
    assert {Path(line) for line in capfd.readouterr().out.splitlines()} == set(folder.iterdir())
    assert read_metadata(folder / "maps-sd.png")["method"]["name"] == "sd"
    assert [p["method"]["name"] for p in read_metadata(folder / "curves.png")["pictures"]] == ["sd", "ebama"]

    with (folder / "curves.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    arrays = np.load(folder / "curves.npz")
    assert arrays["timesteps"].tolist() == [501, 1]
    groups = [("crown", ["purple"]), ("suitcase", ["blue"])]
    for method in ("sd", "ebama"):
        trace = run(PROMPT, method, seeds=[3], sampler="ddim", groups=groups, trace=True).trace
        assert trace is not None
        for found in (curves.intensity(trace), curves.similarity(trace)):
            key = f"{method}/{found.quantity}"
            assert found.labels
            assert tuple(arrays[f"{key}/labels"]) == found.labels
            np.testing.assert_allclose(arrays[key], found.values, atol=1e-3)
            rows = [row for row in table if (row["method"], row["quantity"]) == (method, found.quantity)]
            assert [(row["label"], int(row["call"])) for row in rows] == [(n, i) for n in found.labels for i in (0, 1)]
            np.testing.assert_allclose([float(row["value"]) for row in rows], arrays[key].ravel(), rtol=1e-4)


@pytest.mark.slow
def test_attention_never_overwrites_a_folder(tmp_path: Path) -> None:
    for _ in range(2):
        assert draw(tmp_path, "--method", "sd", "--calls", "-1") == 0
    assert names((tmp_path / FOLDER).parent) == ["attention-seed0003", "attention-seed0003-2"]


@pytest.mark.slow
def test_attention_writes_svg_gif_and_webp(tmp_path: Path) -> None:
    assert draw(tmp_path, "--method", "sd", "--format", "svg", "--animate", "gif", "--words", "crown") == 0
    folder = tmp_path / FOLDER
    assert names(folder) == ["curves.csv", "curves.npz", "curves.svg", "maps-sd.gif", "maps-sd.svg"]
    assert "<svg" in (folder / "maps-sd.svg").read_text(encoding="utf-8")[:500]
    with Image.open(folder / "maps-sd.gif") as animation:
        assert (animation.format, animation.n_frames) == ("GIF", 2)
    assert draw(tmp_path / "webp", "--method", "sd", "--animate", "webp", "--words", "crown") == 0
    with Image.open(tmp_path / "webp" / FOLDER / "maps-sd.webp") as animation:
        assert (animation.format, animation.n_frames) == ("WEBP", 2)


@pytest.mark.slow
def test_attention_writes_one_page_for_all_methods(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--format", "html", "--words", "blue", "blue suitcase", "--of", "scores", "--calls", "1")
    assert draw(tmp_path, "--method", "sd", "attention-regulation", *options) == 0
    folder = tmp_path / FOLDER
    assert names(folder) == ["curves.csv", "curves.npz", "curves.png", "maps.html"]
    assert {Path(line) for line in capfd.readouterr().out.splitlines()} == set(folder.iterdir())
    page = (folder / "maps.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    (shown,) = data["prompts"]
    assert [word["text"] for word in shown["words"]] == ["blue", "blue suitcase"]
    assert [picture["label"] for picture in shown["pictures"]] == ["sd", "attention-regulation"]
    assert all(picture["url"].startswith("data:image/") for picture in shown["pictures"])
    assert data["layers"][0]["of"] == "scores before softmax"
    assert (data["numbers"], data["total"]) == ([2], 2)


@pytest.mark.slow
def test_attention_writes_a_page_of_every_layer_and_head(tmp_path: Path) -> None:
    options = (
        "--format",
        "html",
        "--words",
        "blue",
        "--by-site",
        "--head",
        "all",
        "--resolution",
        "all",
        "--calls",
        "1",
    )
    assert draw(tmp_path, "--method", "sd", *options) == 0
    page = (tmp_path / FOLDER / "maps.html").read_text(encoding="utf-8")
    layers = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["layers"]
    every = TraceOptions(by_site=True, head="all", resolution="all")
    trace = run(PROMPT, "sd", seeds=[3], sampler="ddim", steps=1, trace=every).trace
    assert trace is not None
    assert len({source.resolution for source in trace.sources}) > 1
    shown = {(layer["layer"], layer["head"]) for layer in layers}
    assert shown == {(source.layers, source.heads) for source in trace.sources}


@pytest.mark.parametrize("option", [["--by-site"], ["--head", "all"], ["--resolution", "all"]], ids=" ".join)
def test_attention_draws_one_choice_of_layers_and_heads(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(tmp_path, "--method", "sd", *option) == 2
    assert "add --format html" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def grids(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is given to be drawn as a grid of maps."""
    seen: list[dict[str, Any]] = []
    real = figures.map_grid

    def watching(title: str, pictures: Any, columns: Any, rows: Any, quantity: str) -> Any:
        seen.append({"title": title, "pictures": pictures, "columns": columns, "rows": rows, "quantity": quantity})
        return real(title, pictures, columns, rows, quantity)

    monkeypatch.setattr(figures, "map_grid", watching)
    return seen


@pytest.mark.slow
def test_attention_draws_the_maps_of_the_trace_on_one_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = grids(monkeypatch)
    options = ("--words", "blue", "blue suitcase", "--of", "scores", "--resolution", "8", "--head", "1", "--calls", "1")
    assert draw(tmp_path, "--method", "sd", "ebama", *options) == 0
    assert [grid["columns"] for grid in seen] == [["call 1\nt = 1"]] * 2
    assert "8x8" in seen[0]["title"]
    assert "head 1" in seen[0]["title"]
    assert seen[0]["quantity"] == "score"
    trace = run(PROMPT, "sd", seeds=[3], sampler="ddim", trace=TraceOptions(resolution=8, head=1)).trace
    assert trace is not None
    for row, positions in zip(seen[0]["rows"], ([6], [6, 7]), strict=True):
        assert row.maps.shape == (1, 8, 8)
        expected = trace.scores[0, 1].float()[..., positions].mean(-1).numpy()
        np.testing.assert_allclose(row.maps[0], expected, atol=5e-3)
    for ours, theirs in zip(seen[0]["rows"], seen[1]["rows"], strict=True):  # one scale for both methods
        assert (ours.low, ours.high) == (theirs.low, theirs.high)
        assert ours.low <= min(ours.maps.min(), theirs.maps.min())
        assert ours.high >= max(ours.maps.max(), theirs.maps.max())


@pytest.mark.slow
def test_attention_draws_self_attention_of_a_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = grids(monkeypatch)
    assert draw(tmp_path, "--method", "sd", "--kind", "self", "--resolution", "8", "--pixels", "2,5") == 0
    (row,) = seen[0]["rows"]
    trace = run(PROMPT, "sd", seeds=[3], sampler="ddim", trace=TraceOptions(kind="self", resolution=8)).trace
    assert trace is not None
    np.testing.assert_allclose(row.maps, trace.probabilities[0, :, :, :, 2 * 8 + 5].float().numpy(), atol=1e-3)
    assert row.mark == (2, 5)
    assert names(tmp_path / FOLDER) == ["maps-sd.png"]


@pytest.mark.slow
def test_attention_shows_all_words_of_a_prompt_without_a_noun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = grids(monkeypatch)
    assert draw(tmp_path, "--method", "sd", prompt="quickly and slowly") == 0
    assert [row.label for row in seen[0]["rows"]] == ["quickly", "and", "slowly"]
    assert names(tmp_path / "quickly-and-slowly" / "attention-seed0003") == ["maps-sd.png"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "nothing"], "'nothing'"),
        (["--method", "p2p"], "two prompts"),
        (["--words", "zebra"], "'zebra' is not among the words"),
        (["--calls", "2"], "call 2 is not among the 2 model calls"),
        (["--calls", "x"], "'x'"),
        (["--resolution", "7"], "7x7"),
        (["--sites", "nowhere"], "nowhere"),
        (["--head", "2"], "has a head 2"),
        (["--head", "-1"], "head is -1"),
        (["--pixels", "2"], "ROW,COLUMN"),
        (["--pixels", "2,2"], "Pixels are for self-attention"),
        (["--kind", "self", "--pixels", "99,0"], "pixel 99,0"),
        (["--seed", "-1"], "seeds"),
        (["--steps", "0"], "steps is 0"),
        (["--group", "zebra:red"], "zebra"),
    ],
)
def test_attention_refuses_bad_input_in_one_line_and_writes_nothing(
    arguments: list[str], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = draw(tmp_path / "out", *arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    (line,) = [part for part in shown.err.replace("\r", "\n").splitlines() if part.strip() and "it/s" not in part][-1:]
    assert says in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--words", "crown", "zebra"], ["--pixels", "2,2"], ["--calls", "2"]])
def test_what_no_map_shows_is_refused_before_any_run(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    monkeypatch.setattr(Pipeline, "__call__", lambda *given, **options: ran.append(given))
    assert draw(tmp_path, *arguments) == 2
    assert not ran


@pytest.mark.slow
def test_sheet_shows_prompts_methods_and_seeds_with_their_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    real = figures.comparison
    monkeypatch.setattr(figures, "comparison", lambda *given: drawn.append(given) or real(*given))
    common = ["--steps", "2", "--sampler", "ddim", "--parser", "rules", "--out", str(tmp_path)]
    prompts = [PROMPT, "a cat"]
    for _ in range(2):
        assert (
            main(
                [
                    "sheet",
                    *prompts,
                    "--method",
                    "sd",
                    "ebama",
                    "--seeds",
                    "3:5",
                    "--size",
                    "32x16",
                    "--batch-size",
                    "1",
                    *common,
                ]
            )
            == 0
        )
    assert names(tmp_path) == ["sheet-2.png", "sheet.png"]
    made = read_metadata(tmp_path / "sheet.png")["pictures"]
    expected = [(p, m, s) for p in prompts for m in ("sd", "ebama") for s in (3, 4)]
    assert [(one["prompt"], one["method"]["name"], one["seed"]) for one in made] == expected
    pictures = drawn[0][0]
    for p, m, s in expected:
        (image,) = run(p, m, seeds=[s], sampler="ddim", size=(32, 16), output="pil").images or []
        shown = pictures[prompts.index(p)][("sd", "ebama").index(m)][s - 3]
        assert np.abs(np.asarray(image, int) - np.asarray(shown, int)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "seeds", "shape"), [(3, 3, (1, 3)), (24, 2, (4, 6)), (7, 4, (3, 3)), (2, 20, (2, 1))]
)
def test_comparison_of_many_prompts_continues_below(prompts: int, seeds: int, shape: tuple[int, int]) -> None:
    picture = Image.new("RGB", (8, 8))
    texts = [f"prompt {number}" for number in range(prompts)]
    figure = figures.comparison([[[picture] * seeds]] * prompts, texts, ["sd"], range(seeds))
    places = {(round(f.bbox.x0), round(f.bbox.y0)) for f in figure.subfigs}
    assert (len({y for _, y in places}), len({x for x, _ in places})) == shape
    # Row by row: matplotlib below 3.10 lists them column by column.
    blocks = sorted(figure.subfigs, key=lambda f: (-round(f.bbox.y0), round(f.bbox.x0)))
    shown = [str(f.get_suptitle()) for f in blocks]
    assert shown == texts + [""] * (shape[0] * shape[1] - prompts)
    labelled = [f for f in blocks if any(axis.get_ylabel() == "sd" for axis in f.axes)]
    assert labelled == blocks[:: shape[1]]


def test_comparison_keeps_row_labels_in_their_rows() -> None:
    picture = Image.new("RGB", (8, 8))
    names = ["sd", "ebama+guided_steps=25+step_size=15.0", "divide-and-bind+guided_steps=25+step_size=15.0"]
    figure = figures.comparison([[[picture]] * 3], ["a cat"], names, [0])
    figures.rendered(figure)
    extents = [axis.yaxis.label.get_window_extent() for axis in figure.subfigs[0].axes]
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(extents))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 4), (4, 8)])
def test_pictures_keep_their_shape_in_figures(size: tuple[int, int]) -> None:
    row = MapRow("cat", np.ones((1, size[1] // 2, size[0] // 2)), 0.0, 1.0)
    picture = Image.new("RGB", size)
    for figure in (
        figures.map_grid("title", [picture], ["call 0"], [row], "probability"),
        figures.comparison([[[picture]]], ["a cat"], ["sd"], [0]),
    ):
        figures.rendered(figure)
        for axes in figure.axes:
            if axes.images:
                box = axes.get_window_extent()
                assert box.width / box.height == pytest.approx(size[0] / size[1], rel=0.05)


def test_figures_show_dollar_signs_as_they_are() -> None:
    figure = figures.comparison([[[Image.new("RGB", (4, 4))]]], ["a cat with a $_$ face"], ["sd"], [0])
    assert figures.rendered(figure).size == tuple(figure.get_size_inches() * figures.DPI // 1)  # "$_$" is no formula


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sheet", "a cat", "running fast", "--method", "sd", "ebama"], "no noun"),
        (["sheet", "a cat", "--method", "sd", "boxdiff"], "boxdiff places objects in boxes"),
        (["generate", "running fast", "--method", "sd", "--compare", "ebama"], "no noun"),
        (["generate", "a cat", "--compare", "boxdiff"], "boxdiff places objects in boxes"),
    ],
)
def test_prompts_are_refused_before_the_first_picture(
    arguments: list[str], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "__call__", lambda *_, **__: pytest.fail("a picture was begun"))
    assert main([*arguments, "--parser", "rules", "--out", str(tmp_path)]) == 2
    assert says in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_sheet_refuses_an_unknown_method_and_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sheet", "a cat", "--method", "nothing", "--out", str(tmp_path)]) == 2
    assert "'nothing'" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
