"""Folders of runs that others changed: each is read, made whole again, or refused in one line that names the file."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mutations import VALUES, edited, garbled
from PIL import Image

from ebama import Pipeline, Result, methods
from ebama.evaluation import jsonl, rows, run
from ebama.evaluation.benchmarks import BenchmarkPrompt
from ebama.evaluation.benchmarks import load as load_benchmark
from ebama.evaluation.judges.scorer import Scores
from ebama.evaluation.report import tables
from ebama.evaluation.scoring import prompts, score
from ebama.evaluation.work import Run
from ebama.models import MINIATURE
from ebama.output.claims import alone
from ebama.output.files import to_json
from ebama.output.png import save_png
from ebama.weights import load

LISTS = ("images.jsonl", "scores.jsonl", "judges.json", "run.json", "scores-unfinished.jsonl")
WORK = Run(
    [BenchmarkPrompt("pairs", text) for text in ("a cat", "a dog")],
    {"sd": methods.get("sd").complete(MINIATURE)},
    [0, 1],
    steps=1,
    sampler="ddim",
    batch_size=2,
    parser="rules",
)


class Ones:
    """Scores every picture 1."""

    name = "somebody"
    keys = ("full",)

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
        return [{"full": 1.0} for _ in images]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The texts of a run's files, as the library writes them."""
    folder = tmp_path_factory.mktemp("made")
    run.start(WORK, folder, "miniature", "0a")
    rows = []
    for method, prompt, seed in WORK.pictures():
        file = f"{method}/{prompt}/{seed}.png"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        save_png(Image.new("RGB", (8, 8)), folder / file)
        rows.append({"method": method, "set": "pairs", "prompt": prompt, "seed": seed, "file": file, "metadata": {}})
    (folder / "images.jsonl").write_text(jsonl.text(rows))
    score(folder, [Ones()])
    texts = {name: (folder / name).read_text() for name in LISTS[:-1]}
    return texts | {LISTS[-1]: to_json({"judges": {"full": "somebody"}}) + "\n" + texts["scores.jsonl"]}


@pytest.fixture
def folder(made: dict[str, str], tmp_path: Path) -> Path:
    for _, prompt, seed in WORK.pictures():
        (tmp_path / "sd" / prompt).mkdir(parents=True, exist_ok=True)
        save_png(Image.new("RGB", (8, 8)), tmp_path / "sd" / prompt / f"{seed}.png")
    return tmp_path


def restore(folder: Path, made: dict[str, str]) -> None:
    for name in LISTS:
        (folder / name).write_text(made[name])


def refusal(use: Callable[[], object]) -> str:
    """The line with which something is refused, empty if it is not; any other error fails."""
    try:
        use()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def uses(folder: Path) -> Iterator[Callable[[], object]]:
    yield lambda: score(folder, [Ones()])
    yield lambda: tables.write(folder)
    yield lambda: run.start(WORK, folder, "miniature", "0a")
    yield lambda: run.finish(WORK, folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LISTS)
def test_edited_lists(name: str, made: dict[str, str], folder: Path) -> None:
    rng, refusals = random.Random(LISTS.index(name)), 0
    is_one = name.endswith(".json")
    for number in range(16):
        restore(folder, made)
        values = [json.loads(made[name])] if is_one else [json.loads(line) for line in made[name].splitlines()]
        values[0] = edited(values[0], rng) if number % 2 else rng.choice(VALUES)
        rng.shuffle(values)
        text = "".join(json.dumps(value) + "\n" for value in values) if number % 3 else garbled(made[name], rng)
        (folder / name).write_text(text)
        start = time.process_time()
        for line in filter(None, map(refusal, uses(folder))):
            refusals += 1
            assert re.search(rf"{name}|begun with other settings|no pictures of|holds no ", line), text[:200]
        assert time.process_time() - start < 5
    assert refusals > 4


@pytest.mark.parametrize("line", ['{"a": ' + "[" * 5000, "3", "[]", '{"method": 3}', "null", "9" * 5000, "\0" * 9])
@pytest.mark.parametrize("name", ["images.jsonl", "scores.jsonl", "scores-unfinished.jsonl"])
def test_a_bad_line_is_named_with_its_number(name: str, line: str, made: dict[str, str], folder: Path) -> None:
    restore(folder, made)
    first, *rest = made[name].splitlines()
    (folder / name).write_text("\n".join([first, line, *rest]) + "\n")
    with pytest.raises(ValueError, match=rf"^Line 2 of .*{name} is "):
        score(folder, [Ones()])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("file", "../secret.png"),
        ("file", "/etc/passwd"),
        ("file", "sd/../../x.png"),
        ("file", 3),
        ("seed", None),
        ("seed", True),
        ("seed", [0]),
        ("prompt", {"a": 1}),
        ("error", None),
    ],
)
def test_a_pictures_line_says_what_a_run_could_say(key: str, value: Any, made: dict[str, str], folder: Path) -> None:
    row = json.loads(made["images.jsonl"].splitlines()[0])
    (folder / "images.jsonl").write_text(to_json(row | {key: value}) + "\n")
    with pytest.raises(ValueError, match=rf"^Line 1 of .*images\.jsonl is no picture: its {key} is "):
        score(folder, [])


@pytest.mark.parametrize("scores", [3, [], {"full": [1]}, {"full": {}}, {"full": 10**400}])
def test_scores_are_numbers_or_texts(scores: Any, made: dict[str, str], folder: Path) -> None:
    restore(folder, made)
    row = json.loads(made["scores.jsonl"].splitlines()[0])
    (folder / "scores.jsonl").write_text(to_json(row) + "\n" + to_json(row | {"scores": scores}) + "\n")
    for use in (lambda: score(folder, []), lambda: tables.write(folder)):
        with pytest.raises(ValueError, match=r"^Line 2 of .*scores\.jsonl is no score: its [a-z]+ is .*; expected"):
            use()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LISTS)
def test_pipes_in_the_place_of_lists_do_not_hang(name: str, made: dict[str, str], folder: Path) -> None:
    restore(folder, made)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    lines = list(filter(None, map(refusal, uses(folder))))
    assert lines
    assert all(name in line for line in lines)
    assert (folder / name).is_fifo()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LISTS)
def test_lists_in_other_encodings_are_read_or_refused_by_name(name: str, made: dict[str, str], folder: Path) -> None:
    text = made[name]
    contents = {codec: text.encode(codec) for codec in ("utf-8-sig", "utf-16", "cp037")}
    contents |= {"crlf": text.replace("\n", "\r\n").encode(), "cr": text.replace("\n", "\r").encode()}
    contents |= {"twice": (text * 2).encode(), "latin": b"\xe9" + text.encode(), "nothing": b""}
    for case, content in contents.items():
        restore(folder, made)
        (folder / name).write_bytes(content)
        lines = list(filter(None, map(refusal, uses(folder))))
        assert all(re.search(rf"{name}|begun with other settings|no pictures of|holds no ", line) for line in lines)
        assert not any("\n" in line for line in lines)
        assert not (lines and case in ("utf-8-sig", "crlf"))
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    assert all(name in line for line in filter(None, map(refusal, uses(folder))))


def test_hand_edited_lists_are_read(made: dict[str, str], folder: Path) -> None:
    text = made["images.jsonl"]
    for changed in ("\ufeff" + text, text.replace("\n", "\r\n"), text.replace("\n", "\n\n"), text.rstrip("\n")):
        (folder / "images.jsonl").write_text(changed, encoding="utf-8", newline="")
        assert len(run.rows(folder)) == 4


@pytest.mark.parametrize("change", [str.encode, lambda text: f"[{text}]".encode(), lambda _: b"junk without an end"])
def test_a_list_that_is_none_is_not_taken_for_one_that_was_cut(
    change: Callable[[str], bytes], made: dict[str, str], folder: Path
) -> None:
    (folder / "images.jsonl").write_bytes(change(made["images.jsonl"].replace("\n", "\r")))
    with pytest.raises(ValueError, match=r"Line 1 of .*images\.jsonl is damaged"):
        run.rows(folder)
    assert not (folder / "scores.jsonl").exists()


def test_pictures_that_a_cut_list_lacks_are_named(made: dict[str, str], folder: Path) -> None:
    (folder / "images.jsonl").write_text(made["images.jsonl"][:-30])
    with pytest.warns(UserWarning, match=r"1 pictures are in no list of .*1\.png"):
        assert len(score(folder, [Ones()])) == 3


def test_a_disk_that_fills_leaves_the_old_scores_with_their_judge(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(folder, [Ones()])
    before = {name: (folder / name).read_text() for name in ("judges.json", "scores.jsonl")}

    class Twos(Ones):
        name = "another"

        def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
            return [{"full": 2.0} for _ in images]

    whole = jsonl.text

    def text(rows: Any) -> str:
        if len(rows := list(rows)) == 4:  # the whole list, and no batch of it
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(rows)

    monkeypatch.setattr(jsonl, "text", text)
    with pytest.raises(OSError, match="No space left"):
        score(folder, [Twos()], batch_size=1)
    assert before == {name: (folder / name).read_text() for name in before}


class Others(Ones):
    name, keys = "somebody else", ("other",)

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
        return [{"other": 2.0} for _ in images]


@pytest.mark.filterwarnings("ignore:.*have no scores")
def test_scores_are_kept_until_their_picture_can_be_read_again(made: dict[str, str], folder: Path) -> None:
    (folder / "images.jsonl").write_text(made["images.jsonl"])
    score(folder, [Ones()])
    (folder / "sd").rename(folder / "away")
    for _ in range(2):
        lines = score(folder, [Others()])
        assert ["error" in line and "scores" not in line for line in lines] == [True] * 4
    (folder / "away").rename(folder / "sd")
    assert [line["scores"] for line in score(folder, [Others()])] == [{"full": 1.0, "other": 2.0}] * 4
    assert rows.read_judges(folder) == {"full": "somebody", "other": "somebody else"}


def test_numbers_written_as_texts_are_named(folder: Path) -> None:
    for text in ("0.5", "0,5", " -1e-3"):
        lines = [{"file": "a.png", "scores": {"full": text}}, {"file": "b.png", "scores": {"full": text}}]
        with pytest.raises(ValueError, match=r"the score 'full' is a number written as a text, .* of a\.png"):
            rows.check_scores(folder / "scores.jsonl", lines)
    rows.check_scores(folder / "scores.jsonl", [{"file": "a.png", "scores": {"caption": "2 dogs"}}])


@pytest.mark.slow
def test_missing_and_cut_pictures_are_made_again(tmp_path: Path) -> None:
    made: list[tuple[list[str], list[int]]] = []

    class Listening(Pipeline):
        def __call__(self, prompt: Any, *, seeds: Sequence[int] = (0,), **options: Any) -> Result:
            made.append((list(prompt), list(seeds)))
            return super().__call__(prompt, seeds=seeds, **options)

    pipeline = Listening(load())
    run.start(WORK, tmp_path, "miniature", "0a")
    run.make(WORK, pipeline, tmp_path)
    assert run.finish(WORK, tmp_path)
    files = sorted(tmp_path.rglob("*.png"))
    before = {path: path.read_bytes() for path in files}
    listed = (tmp_path / "images.jsonl").read_bytes()
    first, _, last, _ = files
    for damage in (
        lambda: first.unlink(),
        lambda: first.write_bytes(before[first][:-20]),
        lambda: [first.write_bytes(b""), last.unlink()],
    ):
        made.clear()
        damage()
        assert not run.finish(WORK, tmp_path)
        run.make(WORK, pipeline, tmp_path)
        assert run.finish(WORK, tmp_path)
        assert made[0] == (["a cat"], [0, 1])
        assert {path: path.read_bytes() for path in files} == before
        assert (tmp_path / "images.jsonl").read_bytes() == listed
    made.clear()
    run.make(WORK, pipeline, tmp_path)
    assert made == []


def test_a_folder_is_claimed_by_its_settings(tmp_path: Path) -> None:
    run.start(WORK, tmp_path / "new" / "folder", "miniature", "0a")
    text = (tmp_path / "new" / "folder" / "run.json").read_text()
    with pytest.raises(ValueError, match="begun with other settings"):
        run.start(WORK, tmp_path / "new" / "folder", "miniature", "0b")
    assert (tmp_path / "new" / "folder" / "run.json").read_text() == text
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "name", ["tuning:67", "tuning:0", "tuning:" + "9" * 30, "tuning:²", "ane:x", "fifo", "/dev/zero"]
)
def test_benchmarks_that_there_are_not_are_refused_at_once(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match=r"benchmark|at most 66"):
        load_benchmark(tmp_path / name if name == "fifo" else name)


@pytest.mark.parametrize("seed", range(3))
def test_edited_prompt_files(seed: int, tmp_path: Path) -> None:
    rng, path = random.Random(seed), tmp_path / "prompts.jsonl"
    rows = [{"prompt": "a red car", "set": "x", "groups": [["car", ["red"]]]}, {"prompt": "a cat"}]
    for _ in range(60):
        text = "".join(json.dumps(edited(row, rng)) + "\n" for row in rows)
        path.write_text(garbled(text, rng) if rng.random() < 0.3 else text)
        if line := refusal(lambda: load_benchmark(path)):
            assert re.match(r"Line \d of .*prompts\.jsonl is no prompt|.*prompts\.jsonl holds no prompts", line)
        else:
            assert all(isinstance(prompt.text, str) and prompt.text for prompt in load_benchmark(path))


def test_tables_wait_for_the_scores_of_others(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    (tmp_path / "theirs" / "a cat").mkdir(parents=True)
    save_png(Image.new("RGB", (8, 8)), tmp_path / "theirs" / "a cat" / "0.png")
    (line,) = score(tmp_path, [])
    with alone(tmp_path, "scores"):
        writing = threading.Thread(target=tables.write, args=(tmp_path, "theirs"))
        writing.start()
        time.sleep(0.1)
        (tmp_path / "scores.jsonl").write_text(json.dumps(line | {"scores": {"full": 0.5}}) + "\n")
    writing.join()
    assert "full" in (tmp_path / "table.md").read_text()


def test_pictures_with_names_that_are_no_text_are_scored_and_reported(tmp_path: Path) -> None:
    name = os.fsdecode(b"a caf\xe9")
    (tmp_path / "theirs" / name).mkdir(parents=True)
    save_png(Image.new("RGB", (8, 8)), tmp_path / "theirs" / name / "0.png")
    assert [prompt.text for prompt in prompts(tmp_path)] == ["a caf?"]  # which tokenizers take
    for _ in range(2):
        (line,) = score(tmp_path, [Ones()])
        assert (line["prompt"], line["scores"]) == (name, {"full": 1.0})
        tables.write(tmp_path, "theirs")
    assert "caf\\udce9" in (tmp_path / "report.html").read_text(encoding="utf-8")
