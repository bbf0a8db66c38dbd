"""`evaluate`: pictures that an interruption does not change, scores, the table."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import time
import unicodedata
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import forked
from PIL import Image

from ebama import Pipeline, Result, methods
from ebama.boxes import Box
from ebama.cli import main
from ebama.evaluation import distributed, jsonl, run
from ebama.evaluation.benchmarks import BenchmarkPrompt
from ebama.evaluation.benchmarks import load as load_benchmark
from ebama.evaluation.distributed import own_device
from ebama.evaluation.judges.scorer import JudgeScorer, Scores
from ebama.evaluation.judges.second import SecondJudgeScorer
from ebama.evaluation.report import tables as report
from ebama.evaluation.report.statistics import difference, estimate
from ebama.evaluation.scoring import score
from ebama.evaluation.work import Batch, Run
from ebama.models import MINIATURE
from ebama.output.naming import file_name
from ebama.output.png import read_metadata, save_png
from ebama.prompt import parsers
from ebama.training.drawing.scenes import TRAINING, Composer
from ebama.weights import load

QUICK = ["--methods", "sd", "syngen", "--seeds", "0:2", "--steps", "2", "--sampler", "ddim", "--batch-size", "4"]
SMALL = ["--size", "32x32", "--parser", "rules"]  # a quarter of the pixels, and processes that start sooner
SD, ANE, P2P = (methods.get(name).complete(MINIATURE) for name in ("sd", "ane", "p2p"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Five prompts, of which `syngen` refuses one."""
    path = tmp_path / "mine.txt"
    path.write_text("a red car\na cat and a dog\nover there\na blue bow and a green bench\na frog\n")
    return path


def evaluate(prompts: Path, out: Path, *more: str) -> int:
    return main(["evaluate", "--benchmark", str(prompts), *QUICK, "--out", str(out), *more])


def contents(folder: Path) -> dict[str, bytes]:
    """All files but those that say how long something took."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("seconds-"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pictures_and_scores_of_a_whole_run(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert evaluate(prompts, out, "--size", "64x64") == 0
    rows = lines(out / "images.jsonl")
    assert [(row["method"], row["seed"]) for row in rows] == [
        (m, s) for m in ("sd", "syngen") for _ in range(5) for s in (0, 1)
    ]
    refused = [row for row in rows if "error" in row]
    assert [(row["method"], row["prompt"]) for row in refused] == [("syngen", "over there")] * 2
    for row in rows:
        if row not in refused:
            assert row["file"] == f"{row['method']}/{row['prompt']}/{row['seed']}.png"
            assert read_metadata(out / row["file"])["seed"] == row["seed"]
    scores = {(row["method"], row["prompt"], row["seed"]): row.get("scores") for row in lines(out / "scores.jsonl")}
    assert len(scores) == 20
    judged = {"presence", "binding", "extras", *SecondJudgeScorer.keys}
    assert set(scores["sd", "a red car", 0]) == judged | {"distance", "texture"}
    assert {key for key, value in scores["sd", "over there", 0].items() if value is None} == judged
    assert scores["syngen", "over there", 0] is None
    # The picture of a prompt without modifiers is plain Stable Diffusion's: every method starts from the same noise.
    same = [np.asarray(Image.open(out / method / "a cat and a dog" / "1.png")) for method in ("sd", "syngen")]
    np.testing.assert_array_equal(*same)
    before = contents(out)
    assert evaluate(prompts, out, "--size", "64x64") == 0  # nothing is left to do
    assert contents(out) == before


@pytest.mark.slow
def test_a_folder_is_not_continued_with_other_settings(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = {"sd": SD}
    out = tmp_path / "out"
    listed = [BenchmarkPrompt("a", "a cat")]
    run.start(Run(listed, method, [0]), out, "miniature", "0a")
    run.start(Run(listed, method, [0]), out, "miniature", "0a")
    for same in ({"benchmark": "./the/same/list.txt"}, {"weights": "./the/same/m.ckpt"}):
        run.start(Run(listed, method, [0], **same), out, "miniature", "0a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"other settings \(steps was 50, now 20\); choose another folder"):
        run.start(Run(listed, method, [0], steps=20), out, "miniature", "0a")
    with pytest.raises(ValueError, match=r"prediction was None, now 'v'; size was None, now \[64, 32\]"):
        run.start(Run(listed, method, [0], prediction="v", size=(64, 32)), out, "miniature", "0a")
    with pytest.raises(ValueError, match="fingerprint was '0a', now '0b'"):
        run.start(Run(listed, method, [0]), out, "miniature", "0b")
    with pytest.raises(ValueError, match="prompts_sha256 was"):
        run.start(Run([BenchmarkPrompt("a", "a dog")], method, [0]), out, "miniature", "0a")
    with pytest.raises(ValueError, match="p2p edits"):
        Run(listed, {"p2p": P2P}, [0])
    assert main(["evaluate", "--methods", "sd", "ane+stepsize=3"]) == 2
    assert "Method 'ane' has no option stepsize" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "dddim"], "sampler is 'dddim'; expected one of pndm, ddim"),
        (["--guidance", "nan"], "guidance is nan; expected a finite number"),
        (["--parser", "no_such_model"], "parser='no_such_model': no such spaCy model is installed"),
        (["--size", "33x32"], "size is (33, 32); expected a height and a width that are multiples of 16 pixels"),
    ],
)
def test_bad_settings_are_refused_before_the_first_picture(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert evaluate(prompts, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_no_batch_is_larger_than_asked_for(size: int) -> None:
    listed = [BenchmarkPrompt("some", f"prompt {i}") for i in range(5)]
    job = Run(listed, {"sd": SD, "ane": ANE}, [0, 1, 2], batch_size=size)
    batches = job.batches()
    assert max(len(batch.pictures()) for batch in batches) == {1: 1, 2: 2, 3: 3, 4: 3, 7: 6}[size]
    assert sorted(key for batch in batches for key in batch.pictures()) == sorted(job.pictures())


@pytest.mark.slow
def test_a_latent_that_blows_up_costs_no_other_picture(tmp_path: Path) -> None:
    class Fragile(Pipeline):
        """Blows up at one prompt's seed 1, and with it whatever runs beside it."""

        def __call__(self, prompt: Any, *, seeds: Sequence[int] = (0,), **options: Any) -> Result:
            if "a dog" in prompt and 1 in seeds:
                raise FloatingPointError("The latent became infinite")
            return super().__call__(prompt, seeds=seeds, **options)

    listed = [BenchmarkPrompt("a", text) for text in ("a cat", "a dog")]
    work = Run(listed, {"sd": SD}, [0, 1], steps=1, sampler="ddim", batch_size=4, parser="rules")
    run.make(work, Fragile(load()), tmp_path)
    failed = {(row["prompt"], row["seed"]): row.get("error") for row in run.rows(tmp_path)}
    assert failed == {
        ("a cat", 0): None,
        ("a cat", 1): None,
        ("a dog", 0): None,
        ("a dog", 1): "The latent became infinite",
    }


@pytest.mark.slow
def test_groups_of_a_benchmark_reach_the_pipeline(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Listening(Pipeline):
        def __call__(self, prompt: Any, *, groups: Any = None, **options: Any) -> Result:
            seen.append(groups)
            raise ValueError("heard")

    for groups in (None, (), (("cat", ()), ("car", ("red",)))):
        listed = [BenchmarkPrompt("a", "a cat and a red car", groups)]
        work = Run(listed, {"ebama": methods.get("ebama").complete(MINIATURE)}, [0], parser="rules")
        (out := tmp_path / str(len(seen))).mkdir()
        run.make(work, Listening(load()), out)
    assert seen == [None, [[]], [[("cat", []), ("car", ["red"])]]]


CAT_AND_CAR = (("cat", Box(0, 0.25, 0.5, 0.75)), ("car", Box(0.5, 0, 1, 0.5)))


@pytest.mark.slow
def test_boxes_of_a_benchmark_reach_the_pipeline_the_lists_and_the_recipes(tmp_path: Path) -> None:
    """For every prompt: one without any is no reason to refuse a method that places objects."""
    listed = [
        BenchmarkPrompt("a", "a frog"),
        BenchmarkPrompt("a", "a cat and a red car", None, CAT_AND_CAR),
        BenchmarkPrompt("a", "a dog and a cat", (("cat", ()),), CAT_AND_CAR[:1]),
    ]
    systems = {"sd": SD, "layout-guidance": methods.get("layout-guidance", max_rounds=1).complete(MINIATURE)}
    work = Run(listed, systems, [0], steps=1, sampler="ddim", batch_size=1, parser="rules", size=(32, 32))
    run.check_boxes(work, (pipeline := Pipeline(load())))
    run.make(work, pipeline, tmp_path)
    rows = run.rows(tmp_path)
    assert [row.get("error") for row in rows] == [None] * 6
    expected = [{}, {"cat": [0, 0.25, 0.5, 0.75], "car": [0.5, 0, 1, 0.5]}, {"cat": [0, 0.25, 0.5, 0.75]}]
    for row in rows:
        boxes = expected[[prompt.text for prompt in listed].index(row["prompt"])]
        assert row.get("boxes", {}) == boxes
        groups = read_metadata(tmp_path / row["file"])["groups"]
        assert [group["box"] for group in groups if "box" in group] == list(boxes.values())
    plain = Run(listed, systems, [0], parser="rules").settings("", "")["prompts_sha256"]
    elsewhere = Run([listed[0], replace(listed[1], boxes=CAT_AND_CAR[:1]), listed[2]], systems, [0], parser="rules")
    assert elsewhere.settings("", "")["prompts_sha256"] != plain


@pytest.mark.slow
def test_boxes_that_fit_nothing_are_refused_before_the_first_picture() -> None:
    placing = {"boxdiff": methods.get("boxdiff").complete(MINIATURE), "sd": SD}
    with pytest.raises(
        ValueError, match="boxdiff places objects in boxes, and no prompt has any; choose the benchmark"
    ):
        Run([BenchmarkPrompt("a", "a cat")], placing, [0])
    for word, message in (("dog", "is not in the prompt"), ("red", "is no object of")):
        prompt = BenchmarkPrompt("a", "a cat and a red car", boxes=((word, Box(0, 0, 1, 1)),))
        work = Run([BenchmarkPrompt("a", "a frog"), prompt], placing, [0], parser="rules")
        with pytest.raises(ValueError, match=rf"boxes\['{word}'\]: '{word}' {message}"):
            run.check_boxes(work, Pipeline(load()))


@pytest.mark.parametrize(
    ("device", "rank", "own"), [("cuda", "3", "cuda:3"), ("cuda", None, "cuda"), ("cpu", "1", "cpu")]
)
def test_each_process_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str, rank: str | None, own: str
) -> None:
    if rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert own_device(device) == own


def test_the_number_of_processes_is_read_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ("", "1", " 1"):
        monkeypatch.setenv("WORLD_SIZE", size)
        with distributed.workers() as worker:
            assert worker == (0, 1)
    for size in ("abc", "1.5", "-"):
        monkeypatch.setenv("WORLD_SIZE", size)
        with (
            pytest.raises(ValueError, match=f"^WORLD_SIZE is '{size}'; expected a whole number"),
            distributed.workers(),
        ):
            pass


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RANK": "x"}, "^RANK is 'x'; expected a whole number"),
        ({"RANK": "2"}, "^RANK is 2; expected one of 0 to 1, as WORLD_SIZE is 2"),
        ({"RANK": "-1"}, "^RANK is -1; expected one of 0 to 1"),
        ({}, "^RANK is ''; expected a whole number"),
        ({"RANK": "0", "MASTER_PORT": "abc"}, "^The 2 processes of this run cannot meet .*'abc'.*MASTER_PORT"),
        ({"RANK": "0", "MASTER_ADDR": None}, "^The 2 processes of this run cannot meet .*MASTER_ADDR"),
        ({"RANK": "0"}, "^The 2 processes of this run cannot meet .*MASTER_PORT"),
    ],
)
def test_processes_that_cannot_meet_say_why(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None], says: str
) -> None:
    with socket.socket() as other:  # the port is another program's
        other.bind(("127.0.0.1", 0))
        other.listen()
        usual = {
            "WORLD_SIZE": "2",
            "RANK": None,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(other.getsockname()[1]),
        }
        for name, value in (usual | variables).items():
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        with pytest.raises((ValueError, OSError), match=says), distributed.workers():
            pass


def test_separators_within_a_prompt_do_not_end_its_line(tmp_path: Path) -> None:
    row = {"method": "sd", "set": "a", "prompt": "a cat\u2028and a\x85dog", "seed": 0, "file": None}
    line = json.dumps(row, ensure_ascii=False)
    (tmp_path / "images-0-of-1.jsonl").write_text(f"{line}\n{line[:9]}", encoding="utf-8")
    assert run.rows(tmp_path) == [row]
    (tmp_path / "prompts.jsonl").write_text(f"{line}\n", encoding="utf-8")
    assert [prompt.text for prompt in load_benchmark(str(tmp_path / "prompts.jsonl"))] == [row["prompt"]]


def test_a_picture_in_two_lists_counts_once(tmp_path: Path) -> None:
    first, second = ({"method": "sd", "set": "a", "prompt": "a cat", "seed": seed, "file": None} for seed in (0, 1))
    (tmp_path / "images.jsonl").write_text(jsonl.text([second, first]))  # as `finish` leaves it when it is killed
    (tmp_path / "images-0-of-2.jsonl").write_text(jsonl.text([first]))
    assert run.rows(tmp_path) == [second, first]


def test_folder_names_are_safe_short_and_distinct() -> None:
    assert file_name("a red car") == "a red car"
    odd = [file_name(text) for text in ("a/b", "a:b", "..", "x" * 300, "x" * 301, "\u732b" * 100, "\u732b" * 101)]
    assert len(set(odd)) == 7
    assert all(
        len(name.encode()) < 140 and not set(name) & set('/\\:*?"<>|') and name.strip(". ") == name for name in odd
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_killed_twice_it_makes_the_same_files(prompts: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = [*SMALL, "--steps", "4"]
    assert evaluate(prompts, whole, *more) == 0
    command = ["evaluate", "--benchmark", str(prompts), *QUICK]
    for pictures in (1, 6):  # of 18, in batches of 4: before the first line is written, and after
        process = forked([*command, "--out", str(broken), *more], tmp_path / "shown")
        deadline = time.monotonic() + 120
        while len(list(broken.rglob("*.png"))) < pictures and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # in the middle
        assert not (broken / "images.jsonl").exists()
    log = broken / "images-0-of-1.jsonl"
    assert log.stat().st_size
    with log.open("ab") as file:  # what a kill in the middle of a write leaves
        file.write(b'{"method": "sd", "pro')
    assert evaluate(prompts, broken, *more) == 0
    for path in broken.rglob(".*.tmp"):  # a picture that was being written
        path.unlink()
    assert contents(broken) == contents(whole)


@pytest.mark.parametrize("shards", [1, 2, 3, 8, 16])
def test_processes_share_the_batches_and_every_method(shards: int) -> None:
    """Each batch is some process's, and with as many sets of prompts as there are methods no process has it easier."""
    systems = dict.fromkeys("abcdefgh", SD)
    job = Run([BenchmarkPrompt("some", f"prompt {i}") for i in range(16)], systems, range(8), batch_size=8)
    shares = [job.share(shard, shards) for shard in range(shards)]
    everything = sorted(job.pictures())
    assert sorted(key for share in shares for batch in share for key in batch.pictures()) == everything
    for share in shares:
        counts = Counter(batch.method for batch in share)
        assert counts.keys() == systems.keys()
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.slow
def test_processes_of_several_machines_share_too(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--shard says which part is a machine's, torchrun's rank which part of that is a process's."""
    parts: list[tuple[int, int]] = []
    monkeypatch.setattr(run, "make", lambda job, pipeline, out, shard, shards: parts.append((shard, shards)))
    for machine, rank in ((0, 0), (0, 2), (1, 0), (1, 1)):
        monkeypatch.setattr(distributed, "workers", lambda rank=rank: contextlib.nullcontext((rank, 3)))
        assert evaluate(prompts, tmp_path / "out", "--shard", f"{machine}/2", *SMALL) == 0
    assert parts == [(part, 6) for part in (0, 2, 3, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["folder", "pictures", "list"])
def test_pictures_that_are_gone_in_the_end_are_an_error(
    damage: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, left = tmp_path / "out", [9]

    def make_batch(job: Run, pipeline: Pipeline, folder: Path, batch: Batch) -> list[dict[str, Any]]:
        rows = []
        for method, prompt, seed in batch.pictures():
            path = out / method / prompt / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            about = {"method": method, "set": "", "prompt": prompt, "seed": seed}
            rows.append({**about, "file": str(path.relative_to(out))})
        left[0] -= 1
        if left[0] == 5:
            remove = {"folder": out, "pictures": out / "sd"}
            (out / "images-0-of-1.jsonl").unlink() if damage == "list" else shutil.rmtree(remove[damage])
            out.mkdir(exist_ok=True)
        return rows

    monkeypatch.setattr(run, "_make_batch", make_batch)
    assert evaluate(prompts, out, *SMALL) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    lacks, removed = (
        "lacks [1-9]\\d* pictures that were just made: .* Give",
        "was removed while .*; delete .*, and give",
    )
    assert re.fullmatch(f"error: {out} {removed if damage == 'folder' else lacks} the same command again.", said)


@pytest.mark.slow
def test_a_folder_is_not_continued_by_another_parser(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best, *others = parsers.installed()
    if not others:
        pytest.skip("needs a spaCy model beside the built-in rules")
    monkeypatch.setattr(run, "make", lambda *arguments: None)
    with monkeypatch.context() as without_models:
        without_models.setattr(parsers, "installed", lambda: ("rules",))
        assert evaluate(prompts, tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["parser"] == "rules"
    assert evaluate(prompts, tmp_path / "out") == 2
    assert f"parser was 'rules', now '{best}'" in capsys.readouterr().err


@pytest.mark.slow
def test_scoring_refuses_a_missing_device_in_one_line(
    scenes: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for device in ("hpu", "meta"):
        options = ["--clip", "miniature", "--device", device]
        assert main(["evaluate", "--score-only", str(scenes[0]), *options]) == 2
        assert f"device '{device}' cannot be used here" in capsys.readouterr().err


def in_two_processes(arguments: Sequence[str]) -> int:
    """What `torchrun --standalone --nproc-per-node 2` does, with copies of this process in place of new ones."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    here = LaunchConfig(1, 1, 2, run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork")
    codes: dict[int, int] = elastic_launch(replace(here, max_restarts=0), main)(list(arguments))
    return max(codes.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_make_what_one_makes(prompts: Path, tmp_path: Path) -> None:
    one, two, shards = tmp_path / "one", tmp_path / "two", tmp_path / "shards"
    assert evaluate(prompts, one, *SMALL) == 0
    command = ["evaluate", "--benchmark", str(prompts), *QUICK, *SMALL, "--out", str(two)]
    launcher = forked(command, tmp_path / "shown", in_two_processes)
    launcher.join()
    assert launcher.exitcode == 0, (tmp_path / "shown.err").read_text()
    assert contents(two) == contents(one)
    for shard in ("1/2", "0/2"):
        assert not (shards / "images.jsonl").exists()
        assert evaluate(prompts, shards, *SMALL, "--shard", shard) == 0
    assert contents(shards) == contents(one)


def wait_for_another(arguments: Sequence[str]) -> int:
    """One of two processes: the first waits for the second, which ends without a word."""
    rank, store = arguments
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
    if rank == "1":
        os._exit(1)
    try:
        distributed.barrier()
    except ConnectionError as error:
        print(error, flush=True)
    return 0


def test_a_process_that_waits_for_one_that_has_ended_says_so(tmp_path: Path) -> None:
    both = [forked([str(rank), str(tmp_path / "store")], tmp_path / str(rank), wait_for_another) for rank in range(2)]
    for process in both:
        process.join()
    assert (tmp_path / "0.out").read_text().startswith("Another process of this run has ended. ")


@pytest.mark.slow
def test_a_picture_does_not_depend_on_what_was_done_before(tmp_path: Path) -> None:
    """A batch that is left over is made whole, as the first time."""
    listed = [BenchmarkPrompt("a", text) for text in ("a cat", "a dog", "a frog")]
    work = Run(listed, {"sd": SD}, [0, 1], steps=2, sampler="ddim", batch_size=4, parser="rules", size=(32, 64))
    pipeline = Pipeline(load())
    for out in (tmp_path / "one", tmp_path / "two"):
        run.start(work, out, "miniature", "0a")
        run.make(work, pipeline, out)
    log = tmp_path / "two" / "images-0-of-1.jsonl"
    kept = log.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(kept) == 6
    log.write_text("".join(kept[:1]), encoding="utf-8")
    (tmp_path / "two" / "sd" / "a dog" / "1.png").unlink()
    assert not run.finish(work, tmp_path / "two")
    run.make(work, pipeline, tmp_path / "two")
    assert all(run.finish(work, tmp_path / name) for name in ("one", "two"))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert Image.open(tmp_path / "one" / "sd" / "a dog" / "0.png").size == (64, 32)  # Pillow says width first


# --- scores ---


@pytest.fixture
def scenes(tmp_path: Path) -> tuple[Path, list[str]]:
    """A folder of true pictures of pairs of coloured objects, as another program would make it, and the prompts."""
    rng, composer, captions = np.random.default_rng(5), Composer(TRAINING), []
    folder = tmp_path / "theirs"
    while len(captions) < 4:
        scene = composer.compose(rng)
        if scene.noise == "clean" and len(scene.named) == 2 and all(colour for _, colour in scene.named):
            (folder / "other" / scene.caption).mkdir(parents=True)
            Image.fromarray(np.asarray(scene.image)).save(folder / "other" / scene.caption / "7.png")
            captions.append(scene.caption)
    return folder, captions


def test_pictures_of_another_program_are_scored(scenes: tuple[Path, list[str]]) -> None:
    folder, captions = scenes
    wrong = (
        folder
        / "other"
        / captions[0].replace(captions[0].split()[1], "purple" if "purple" not in captions[0] else "white")
    )
    shutil.copytree(folder / "other" / captions[0], wrong)
    (folder / "other" / captions[1] / "8.png").write_bytes(b"\x89PNG no picture")
    header = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\1IHDRx" + zlib.crc32(b"IHDRx").to_bytes(4, "big")
    (folder / "other" / captions[1] / "9.png").write_bytes(header)  # Pillow raises ValueError
    with pytest.warns(UserWarning, match=r"2 of 7 pictures have no scores .*8\.png.*9\.png"):
        found = {(line["prompt"], line["seed"]): line for line in score(folder, [JudgeScorer()])}
    nothing = {"extras": 0.0}
    for caption in captions:
        assert found[caption, 7]["scores"] == {"presence": 1.0, "binding": 1.0} | nothing
    assert found[wrong.name, 7]["scores"] == {"presence": 1.0, "binding": 0.0} | nothing
    assert all("cannot be read" in found[captions[1], seed]["error"] for seed in (8, 9))
    with pytest.raises(ValueError, match="holds no pictures; expected METHOD/PROMPT/SEED"):
        score(folder / "other" / captions[0], [])


def test_the_judge_says_nothing_of_what_it_does_not_know() -> None:
    image = Image.new("RGB", (64, 64), "white")
    texts = [
        "a crown",
        "a purple crown",
        "a zebra and a cat",
        "a spotted dog",
        "an owl",
        "a cat and a red car and a frog",
        "a brown dog and a red car",  # it reads no colours of animals
        "a pink car and a red car",
    ]
    scores = JudgeScorer()([image] * len(texts), [BenchmarkPrompt("a", text) for text in texts])
    assert [found["presence"] for found in scores] == [0.0, 0.0, None, None, None, 0.0, None, None]


def test_the_judge_says_whether_objects_are_in_their_boxes() -> None:
    """True pictures of two objects, whose places are known."""
    rng, composer, judge = np.random.default_rng(11), Composer(TRAINING), JudgeScorer(boxes=True)
    images, prompts, expected = [], [], []
    while len(images) < 60:
        scene = composer.compose(rng)
        if scene.noise != "clean" or len(scene.drawn) != 2:
            continue
        (first, a), (second, b) = (
            (one.noun, Box(*(edge / len(scene.image) for edge in one.box))) for one in scene.drawn
        )
        away = Box(b.left, b.top, b.left + 0.1, b.top + 0.1)
        for boxes, right in (
            (((first, a), (second, b)), 1.0),
            (((second, b),), 1.0),
            (((first, b), (second, a)), 0.0),
            (((first, a), (second, away)), 0.0),
            (((first, a), ("zebra", b)), None),
            ((), None),
        ):
            images.append(Image.fromarray(np.asarray(scene.image)))
            prompts.append(BenchmarkPrompt("a", scene.caption, boxes=boxes))
            expected.append(right)
    scores = judge(images, prompts)
    agreed = [found["placement"] == right for found, right in zip(scores, expected, strict=True)]
    assert sum(agreed) >= 57
    for found, right in zip(scores, expected, strict=True):
        assert (found["placement"] is None) == (right is None)
        if right is not None:
            assert found["placement and binding"] == (found["placement"] and found["binding"])
    assert JudgeScorer()(images[:1], prompts[:1]) == [{key: scores[0][key] for key in JudgeScorer.keys}]


@pytest.mark.slow
def test_boxes_of_another_programs_pictures_are_the_benchmarks(scenes: tuple[Path, list[str]]) -> None:
    folder, captions = scenes
    noun = captions[0].split()[2]
    benchmark = [BenchmarkPrompt("placed", captions[0], boxes=((noun, Box(0, 0, 1, 1)),))]
    found = {line["prompt"]: line for line in score(folder, [JudgeScorer(boxes=True)], benchmark=benchmark)}
    assert found[captions[0]]["boxes"] == {noun: [0, 0, 1, 1]}
    assert {text: line["scores"]["placement"] for text, line in found.items()} == {
        text: 1.0 if text == captions[0] else None for text in captions
    }
    markdown = report.write(folder)
    assert "**placement, %**" in markdown


class Counting:
    """Scores each picture 1 and counts the batches; stops at one of them as Ctrl-C would."""

    def __init__(self, key: str, stop_at: int | None = None) -> None:
        self.name, self.keys = f"who scores {key}", (key,)
        self.stop_at, self.calls = stop_at, 0

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[BenchmarkPrompt]) -> list[Scores]:
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.calls += 1
        return [{self.keys[0]: 1.0} for _ in images]


def test_scoring_goes_on_where_it_was_interrupted(scenes: tuple[Path, list[str]]) -> None:
    folder, _ = scenes
    with pytest.raises(KeyboardInterrupt):
        score(folder, [Counting("full", stop_at=2)], batch_size=1)
    unfinished = folder / "scores-unfinished.jsonl"
    with unfinished.open("ab") as file:  # what a kill in the middle of a write leaves
        file.write(b'{"method": "oth')
    rest = Counting("full")
    lines = score(folder, [rest], batch_size=1)
    assert (rest.calls, [line["scores"] for line in lines]) == (2, [{"full": 1.0}] * 4)
    assert not unfinished.exists()
    with pytest.raises(KeyboardInterrupt):
        score(folder, [Counting("full", stop_at=2)], batch_size=1)
    other = Counting("min")
    score(folder, [other], batch_size=1)  # another judge begins anew
    assert other.calls == 4


def test_a_picture_that_changed_during_an_interruption_is_scored_again(scenes: tuple[Path, list[str]]) -> None:
    folder, _ = scenes
    with pytest.raises(KeyboardInterrupt):
        score(folder, [Counting("full", stop_at=3)], batch_size=1)
    first, second = [line["file"] for line in lines(folder / "scores-unfinished.jsonl")[1:3]]
    Image.new("RGB", (8, 8)).save(folder / first)
    (folder / second).write_bytes(b"\x89PNG no picture")
    rest = Counting("full")
    with pytest.warns(UserWarning, match="1 of 4 pictures have no scores"):
        found = {line["file"]: line for line in score(folder, [rest], batch_size=1)}
    assert rest.calls == 2
    assert found[first]["sha256"] == hashlib.sha256((folder / first).read_bytes()).hexdigest()[:16]
    assert "cannot be read" in found[second]["error"]


def test_damaged_scores_are_named_before_anything_is_scored(scenes: tuple[Path, list[str]]) -> None:
    folder, _ = scenes
    score(folder, [Counting("full")])
    content = (folder / "scores.jsonl").read_text()
    other = Counting("min")
    for number, damaged in ((1, content.replace("{", "", 1)), (4, content[:-9])):  # the latter is cut
        (folder / "scores.jsonl").write_text(damaged)
        with pytest.raises(ValueError, match=rf"Line {number} of .*scores\.jsonl is damaged.* delete it"):
            score(folder, [other])
        with pytest.raises(ValueError, match=rf"Line {number} of .*scores\.jsonl is damaged"):
            report.write(folder)
    assert other.calls == 0
    (folder / "scores.jsonl").write_text(content)
    (folder / "judges.json").unlink()
    assert all(line["scores"] == {"full": 1.0, "min": 1.0} for line in score(folder, [other]))
    assert json.loads((folder / "judges.json").read_text())["full"] == "an unknown judge"


def test_scores_that_means_would_leave_out_are_named(scenes: tuple[Path, list[str]]) -> None:
    folder, _ = scenes
    score(folder, [Counting("full")])
    path = folder / "scores.jsonl"
    content = path.read_text()
    for damaged, says in (
        (content.replace("1.0", '"1.0"', 1), r"the score 'full' of .*\.png is 1\.0, a number unlike others"),
        (content.replace('{"full": 1.0}', "null", 1), "Line 1 of .*scores.jsonl is no score"),
        (content.replace('{"full": 1.0}', "[1.0]", 1), "Line 1 of .*scores.jsonl is no score"),
    ):
        assert damaged != content
        path.write_text(damaged)
        with pytest.raises(ValueError, match=says):
            report.write(folder)
    path.write_text(content.replace('{"full": 1.0}', '{"full": null}', 1))  # of which the judge has nothing to say
    report.write(folder)


@pytest.mark.parametrize("name", ["scores.jsonl", "images.jsonl", "report.html", "table.csv"])
def test_what_cannot_be_written_in_the_end_is_named_before_anything_is_scored(
    scenes: tuple[Path, list[str]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = scenes
    if name.endswith("jsonl"):
        (folder / name).symlink_to(folder / "nowhere" / name)
    else:
        (folder / name).mkdir()
    assert main(["evaluate", "--score-only", str(folder), "--judge"]) == 2
    assert str(folder / name) in capsys.readouterr().err
    assert not (folder / "scores-unfinished.jsonl").exists()


def test_lists_without_settings_are_not_gone_on_with(prompts: Path, tmp_path: Path) -> None:
    work = Run([BenchmarkPrompt("a", "a cat")], {"sd": SD}, [0], steps=2, sampler="ddim", batch_size=4, parser="rules")
    run.start(work, tmp_path, "miniature", "0a")
    row = {"method": "sd", "set": "a", "prompt": "a cat", "seed": 0, "file": None, "error": "refused"}
    (tmp_path / "images-0-of-1.jsonl").write_text(jsonl.text([row]))
    run.start(work, tmp_path, "miniature", "0a")  # as it was begun
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"lists pictures, but has no run\.json that says how they were made"):
        run.start(replace(work, steps=3), tmp_path, "miniature", "0a")
    assert not (tmp_path / "run.json").exists()


def test_scores_of_other_judges_stay_while_the_pictures_do(scenes: tuple[Path, list[str]]) -> None:
    folder, captions = scenes
    score(folder, [Counting("full"), Counting("min")])
    benchmark = [BenchmarkPrompt("pairs", caption) for caption in captions]
    found = score(folder, [Counting("min")], benchmark=benchmark)  # in another set
    assert all(line["set"] == "pairs" and line["scores"] == {"full": 1.0, "min": 1.0} for line in found)
    Image.new("RGB", (64, 64)).save(folder / "other" / captions[0] / "7.png")
    lines = {line["prompt"]: line["scores"] for line in score(folder, [JudgeScorer(), Counting("min")])}
    assert lines.pop(captions[0]).keys() == {*JudgeScorer.keys, "min"}
    assert [list(scores) for scores in lines.values()] == [["full", *JudgeScorer.keys, "min"]] * 3
    judges = json.loads((folder / "judges.json").read_text())
    assert judges.keys() == {"full", *JudgeScorer.keys, "min"}
    assert judges["full"] == "who scores full"


@pytest.mark.slow
def test_the_miniatures_judge_reads_only_the_miniatures_pictures_unless_told(
    scenes: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = scenes
    for model, options, judged in (
        (None, [], False),
        (None, ["--judge"], True),
        ("sd-v1", [], False),
        ("miniature", [], True),
        ("miniature", ["--no-judge"], False),
    ):
        (folder / "scores.jsonl").unlink(missing_ok=True)
        if model:
            (folder / "run.json").write_text(json.dumps({"model": model}))
        assert main(["evaluate", "--score-only", str(folder), *options]) == 0
        assert ("**presence" in capsys.readouterr().out) == judged
        assert all(("presence" in line["scores"]) == judged for line in lines(folder / "scores.jsonl"))


def test_sets_of_another_programs_pictures_are_the_benchmarks(tmp_path: Path) -> None:
    for prompt in ("a cat and a dog", "a purple crown and a blue suitcase", "something else"):
        (tmp_path / "theirs" / prompt).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "theirs" / prompt / "0.png")
    with pytest.warns(UserWarning, match="1 of 3 folders .* are no prompts of the benchmark.*'something else'"):
        found = score(tmp_path, [], benchmark=load_benchmark("ane"))
    assert [line["set"] for line in found] == ["animals", "objects", "other"]
    assert {line["set"] for line in score(tmp_path, [])} == {"all"}


def test_another_programs_seeds_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "theirs" / "a cat").mkdir(parents=True)
    for seed in ("10", "9", "0", "best"):
        Image.new("RGB", (8, 8)).save(tmp_path / "theirs" / "a cat" / f"{seed}.png")
    assert [line["seed"] for line in score(tmp_path, [])] == [0, 9, 10, "best"]
    for name in ("00.png", "0.PNG"):
        Image.new("RGB", (8, 8)).save(tmp_path / "theirs" / "a cat" / name)
    assert {line["seed"] for line in score(tmp_path, [])} == {0, "0", "00", 9, 10, "best"}


def test_another_programs_list_is_named_not_misread(tmp_path: Path) -> None:
    (tmp_path / "images.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(ValueError, match=r"Line 1 of .*images\.jsonl is no picture: it lacks file, method, prompt"):
        score(tmp_path, [])
    (tmp_path / "images.jsonl").write_text("3\n")
    with pytest.raises(ValueError, match=r"Line 1 of .*images\.jsonl is damaged"):
        score(tmp_path, [])


# --- statistics and table ---


def test_intervals_of_a_mean_count_prompts() -> None:
    rng = np.random.default_rng(0)
    levels = rng.normal(2.0, 1.0, 400)
    values = {(f"p{i}", k): level for i, level in enumerate(levels) for k in range(5)}  # equal ones are worth one
    found = estimate(values)
    assert found.count == 2000
    assert found.mean == pytest.approx(levels.mean())
    half = 1.96 * levels.std() / 20
    assert found.low == pytest.approx(levels.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(levels.mean() + half, abs=0.15 * half)
    assert estimate(values) == found
    with pytest.raises(ValueError, match="no values"):
        estimate({})


def test_paired_differences_leave_out_what_one_side_lacks() -> None:
    ours = {("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 2.0, ("c", 0): 9.0}
    theirs = {("a", 0): 0.0, ("a", 1): 1.0, ("b", 0): 2.0, ("d", 0): 5.0}
    found = difference(ours, theirs)
    assert (found.mean, found.count) == (1.0, 3)
    assert found.low == 0.0  # only b
    assert found.high == 1.5  # only a


@pytest.mark.slow
def test_the_table_says_what_the_scores_say(tmp_path: Path) -> None:
    def line(method: str, name: str, prompt: str, seed: int, presence: float | None) -> str:
        about = {"method": method, "set": name, "prompt": prompt, "seed": seed, "file": "x"}
        return json.dumps({**about, "scores": {"presence": presence, "full": 0.25}}) + "\n"

    text = line("sd", "one", "a", 0, 0.0) + line("sd", "one", "a", 1, 1.0) + line("sd", "two", "b", 0, None)
    text += line("ours", "one", "a", 0, 1.0) + line("ours", "one", "a", 1, 1.0) + line("ours", "two", "b", 0, 1.0)
    text += json.dumps({"method": "ours", "set": "one", "prompt": "c", "seed": 0, "file": None, "error": "no"}) + "\n"
    (tmp_path / "scores.jsonl").write_text(text)
    markdown = report.write(tmp_path)
    assert "| sd | 50.0 [50.0, 50.0] | 50.0 [50.0, 50.0] | - | 2 |" in markdown
    assert "| ours | 100.0 [100.0, 100.0]; +50.0 [+50.0, +50.0] |" in markdown
    assert "| sd | 0.250 [0.250, 0.250] |" in markdown
    assert (tmp_path / "table.md").read_text() == markdown
    cells = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert cells == [
        {key: value if isinstance(value, str) else str(value) for key, value in flat.items()}
        for flat in flattened(json.loads((tmp_path / "table.json").read_text()))
    ]
    with pytest.raises(ValueError, match=r"There is no .*scores\.jsonl; `evaluate --score-only"):
        report.write(tmp_path / "nowhere")


def flattened(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        against = row["against_baseline"] or {"mean": "", "low": "", "high": ""}
        yield {
            **{key: row[key] for key in ("method", "set", "score")},
            **{key: row["value"][key] for key in ("mean", "low", "high")},
            "pictures": row["value"]["count"],
            "difference": against["mean"],
            "difference_low": against["low"],
            "difference_high": against["high"],
            "paper": "" if row["paper"] is None else row["paper"],
        }


def test_no_warning_when_all_is_well(scenes: tuple[Path, list[str]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(score(scenes[0], [JudgeScorer()])) == 4


def test_folders_are_prompts_however_their_letters_are_written(tmp_path: Path) -> None:
    for name in ("a_red_car", unicodedata.normalize("NFD", "a piñata"), "a dog"):
        (tmp_path / "theirs" / name).mkdir(parents=True)
        save_png(Image.new("RGB", (8, 8)), tmp_path / "theirs" / name / "0.png")
    listed = [BenchmarkPrompt("mine", "a red car"), BenchmarkPrompt("mine", "a piñata")]
    lines = score(tmp_path, [], benchmark=listed)
    assert {(line["set"], line["prompt"]) for line in lines} == {
        *(("mine", prompt.text) for prompt in listed),
        ("other", "a dog"),
    }


def test_prompts_that_differ_in_a_sign_keep_their_folders(tmp_path: Path) -> None:
    names = ("a b car", "a_b car")
    for name in names:
        (tmp_path / "theirs" / name).mkdir(parents=True)
        save_png(Image.new("RGB", (8, 8)), tmp_path / "theirs" / name / "0.png")
    lines = score(tmp_path, [], benchmark=[BenchmarkPrompt(f"set {name}", name) for name in names])
    assert {(line["set"], line["prompt"]) for line in lines} == {(f"set {name}", name) for name in names}


@pytest.mark.slow
def test_a_folder_that_is_removed_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [BenchmarkPrompt("a", text) for text in ("a cat", "a dog")]
    work = Run(listed, {"sd": SD}, [0], steps=2, sampler="ddim", batch_size=1, parser="rules", size=(32, 32))
    pipeline, out, whole = Pipeline(load()), tmp_path / "out", run._make_batch

    def make_batch(*arguments: Any) -> list[dict[str, Any]]:
        shutil.rmtree(out)
        return whole(*arguments)

    run.start(work, out, "miniature", "0a")
    with monkeypatch.context() as removing:
        removing.setattr(run, "_make_batch", make_batch)
        with pytest.raises(
            ValueError, match=r"was removed while .*; delete what is left of it, and give the same command"
        ):
            run.make(work, pipeline, out)
    run.start(work, out, "miniature", "0a")  # the same command
    run.make(work, pipeline, out)
    assert run.finish(work, out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_others_can_be_ended(
    number: int, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_PATIENCE", 0)
    command = ["evaluate", "--benchmark", str(prompts), *QUICK, "--out", str(tmp_path / "out")]
    process, shown, began = forked(command, tmp_path / "shown"), tmp_path / "shown.err", time.monotonic()
    while not (shown.exists() and "waiting" in shown.read_text()) and time.monotonic() < began + 60:
        time.sleep(0.02)
    os.kill(process.pid or 0, number)
    process.join(30)
    assert process.exitcode == 128 + number
    assert "waiting for the other processes of this run (WORLD_SIZE is 2)\ninterrupted" in shown.read_text()


def test_pictures_are_those_that_nobody_hid(tmp_path: Path) -> None:
    """macOS puts `._NAME` beside each file on other disks, Jupyter copies in `.ipynb_checkpoints`."""
    for name in ("sd/a cat/0.png", "sd/a cat/1.PNG", "sd/a dog/0.jpg", "sd/a dog/0.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG")
    hidden = ("sd/a cat/._0.png", "sd/.ipynb_checkpoints/0.png", ".ipynb_checkpoints/a cat/0.png", "sd/._x/0.jpg")
    for name in hidden:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name in ("0.tif", "1.jfif", "2.avif", "3.HEIC", "4.ppm"):
        (tmp_path / "sd" / "a dog" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"^6 files are passed over, .* \(.*a dog/0\.jpg"):
        lines_of = score(tmp_path, [])
    assert [(line["file"], line["seed"]) for line in lines_of] == [("sd/a cat/0.png", 0), ("sd/a cat/1.PNG", 1)]
