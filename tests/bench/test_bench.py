"""What `bench` counts and how it is written down; how long anything takes is never looked at."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import forked
from reference import model
from torch import nn
from torch.nn import functional as F

from ebama import methods
from ebama.bench import diffusers_baseline
from ebama.bench.cases import CASES, Setting, expanded
from ebama.bench.meter import Counting, Meter, Round, Stop
from ebama.bench.processes import Child
from ebama.bench.report import Measured, Report, machine
from ebama.bench.run import measure
from ebama.cli import main
from ebama.weights import save


def metered(work: Callable[[Meter], object], rounds: int) -> tuple[Meter, list[Any]]:
    """The meter that the work was handed to, and what it sent in so many rounds."""
    ours, pipe = Pipe()
    for more in [True] * rounds + [False]:
        ours.send(more)
    meter = Meter(pipe, torch.device("cpu"), torch.float32, 8)
    with pytest.raises(Stop):
        work(meter)
    return meter, [ours.recv() for _ in range(rounds + 1)]


def gflop(case: str, **options: Any) -> float:
    """What one run of a case counts, in this process and without rounds."""
    setting = Setting(case, **options)
    _, sent = metered(lambda meter: CASES[setting.name](setting, meter), 0)
    return float(sent[0])


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are copies of this one, where no memory and no time is looked at: they import nothing anew."""
    copying = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: copying)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small model."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save(model(), folder)
    return str(folder)


def one(case: str = "forward", side: str = "ours", seconds: float = 2.0, **options: Any) -> Measured:
    rounds = tuple(Round(seconds * k, seconds, 100.0) for k in (1, 2, 3))
    return Measured(case, side, rounds, **({"gflop": 80.0, "peak": 1000.0, "threads": 1} | options))


def test_cases_expand_into_their_parts() -> None:
    assert expanded(["batch:32", "forward", "import"], ["sd"]) == [
        "batch:32",
        "forward",
        "import:package",
        "import:help",
        "import:pipeline",
    ]
    assert expanded(["images", "images:sd"], ["sd", "ane"]) == ["images:sd", "images:ane"]
    assert {case.partition(":")[0] for case in expanded(list(CASES), methods.names())} == set(CASES)


@pytest.mark.parametrize("case", ["nothing", "images:nothing", "batch:0", "batch:99999", "batch:x", "forward:x", ""])
def test_other_cases_are_refused(case: str) -> None:
    with pytest.raises(ValueError, match="There is no case"):
        expanded([case], methods.names())


def test_a_setting_survives_the_way_to_the_process() -> None:
    setting = Setting("batch:4", "diffusers", weights="there", threads=2, steps=3)
    assert pickle.loads(pickle.dumps(setting)) == setting
    assert (setting.name, setting.part) == ("batch", "4")


def test_counts_are_those_of_the_formulas() -> None:
    query = torch.rand(2, 3, 5, 8, requires_grad=True)
    key = torch.rand(2, 3, 7, 8)
    layer = nn.Linear(8, 4)
    with Counting() as forward, torch.no_grad():
        layer(torch.rand(6, 8))
        F.scaled_dot_product_attention(query, key, key)
    attention = 2 * 2 * 3 * (5 * 7 * 8) * 2
    assert forward.flops == 2 * 6 * 8 * 4 + attention
    with Counting() as both:
        F.scaled_dot_product_attention(query, key, key).sum().backward()
    assert both.flops > 2 * attention


def test_a_meter_reports_each_round() -> None:
    done: list[int] = []
    meter, sent = metered(lambda meter: meter.measure(lambda: done.append(len(done))), 2)
    assert done == [0, 1, 2]  # the first is counted, not timed
    assert sent[0] is None  # there is no product in it
    assert all(isinstance(r, Round) and r.seconds > 0 and r.cpu >= 0 and r.matmul > 0 for r in sent[1:])
    assert meter.peak() > 1


@pytest.mark.slow
def test_a_call_of_guidance_costs_two_rows_and_a_guided_one_a_pass_and_its_gradient_more() -> None:
    forward, unguided, guided = (gflop(case) for case in ("forward", "unguided", "guided"))
    assert unguided == pytest.approx(2 * forward, rel=1e-4)  # and their weighted sum
    assert 2.5 * forward < guided < 5 * forward  # a pass that stops early, and about twice that for its gradient


@pytest.mark.slow
def test_pictures_cost_their_calls_and_as_much_in_a_batch(tiny: str) -> None:
    unguided, decode = gflop("unguided", weights=tiny), gflop("decode", weights=tiny)
    picture = gflop("images:sd", weights=tiny, steps=2)
    assert picture > 3 * unguided + decode  # and the text
    assert picture == pytest.approx(3 * unguided + decode, rel=0.1)
    two, one_alone = (gflop(f"batch:{count}", weights=tiny, steps=2) for count in (2, 1))
    assert two == pytest.approx(2 * one_alone, rel=0.05)
    assert gflop("smoothing") > 0


def test_medians_rate_and_share_follow_from_the_rounds() -> None:
    measured = one()
    assert (measured.seconds, measured.cpu, measured.rate, measured.share) == (4.0, 2.0, 20.0, pytest.approx(0.2))
    assert one(gflop=None).share is None


def test_a_report_is_saved_read_back_and_written_as_markdown(tmp_path: Path) -> None:
    pair = (one(), one(side="diffusers", seconds=4.0, peak=4000.0, gflop=None), one("import:help", peak=None))
    report = Report("miniature", "train_free.py bench", machine(), pair)
    path = tmp_path / "deep" / "bench.json"
    report.save(path)
    assert json.loads(path.read_text())["measured"][0].items() >= {"seconds": 4.0, "cpu": 2.0, "rate": 20.0}.items()
    assert Report.load(path) == report
    head, _, row, last = report.table().splitlines()
    assert head.count("|") == row.count("|") == last.count("|")
    assert row.startswith("| forward | 4 (2-6) | 2 | 80 | 20 | 20% | 1,000 |")
    assert row.endswith("| 0.50x | 0.50x | 0.25x |")
    about, _, table = report.markdown().partition("\n\n")
    assert about.startswith("`train_free.py bench`: medians of 3 rounds on ")
    assert f"torch {torch.__version__}" in about
    assert table == report.table()


@pytest.mark.slow
def test_batches_are_drawn_from_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = tuple(one(f"batch:{n}", seconds=float(n)) for n in (1, 2, 10))
    report = Report("miniature", "x", machine(), measured)
    assert report.batches() == [(1, 2.0, 1.0), (2, 4.0, 2.0), (10, 20.0, 10.0)]
    path, picture = tmp_path / "bench.json", tmp_path / "cost.png"
    report.save(path)
    assert main(["bench", "--read", str(path), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert set(tmp_path.iterdir()) == {path, picture}
    replace(report, measured=measured[:1]).save(path)
    assert main(["bench", "--read", str(path), "--plot", str(picture)]) == 2
    assert "nothing to draw" in capsys.readouterr().err


def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.json").write_text("{}")
    bare = {"model": "miniature", "command": "x", "machine": {}, "measured": []}
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    Report("miniature", "x", machine(), (one(),)).save(tmp_path / "null.json")
    (tmp_path / "null.json").write_text((tmp_path / "null.json").read_text().replace('"cpu": 2.0', '"cpu": null'))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "x.json")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for arguments, words in (
        (["--only", "speed"], "There is no case 'speed'"),
        (["--only", "batch:99999999999999999999"], "batch:N with N of at most four digits"),
        (["--threads", "100000"], "--threads is 100000; expected at most 1,024"),
        (["--threads", "9" * 25], "expected at most 1,024"),
        (["--read", str(tmp_path / "null.json")], "the rounds of 'forward' are not all of numbers"),
        (["--json", str(tmp_path / "pipe")], "pipe cannot be written"),
        (["--json", str(tmp_path / "link")], "is a link into"),
        (["--full", "--only", "images:sd"], "on the miniature only"),
        (["--read", str(tmp_path / "other.json")], "holds no benchmark"),
        (["--read", str(tmp_path / "bare.json")], "holds no benchmark"),
        (["--read", "x.json", "--only", "forward", "--json", "y.json"], "leave out --only, --json"),
        (["--only", "forward", "--plot", "x.png"], "--plot needs several batches; forward"),
        (["--only", "batch:1,batch:2", "--plot", "x.svg"], "x.svg should end in .png"),
        (["--only", "forward", "--json", str(tmp_path / "other.json" / "x.json")], "Nothing can be written to"),
        (["--only", "forward", "--against", "diffusers"], "pip install 'ebama[parity]'"),
    ):
        assert main(["bench", *arguments]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_diffusers_has_all_cases_but_these() -> None:
    assert [c for c in expanded(list(CASES), methods.names()) if not diffusers_baseline.has(c)] == [
        *(f"images:{name}" for name in methods.names() if name != "ane"),
        "batch:1",
        "batch:4",
        "import:package",
        "import:help",
    ]


@pytest.mark.slow
def test_bench_measures_in_processes_and_prints_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    options = ["--only", "forward", "--repeat", "1", "--threads", "1"]
    assert main(["bench", *options, "--json", str(path)]) == 0
    values = json.loads(path.read_text())
    (forward,) = values["measured"]
    assert (forward["case"], forward["side"], len(forward["rounds"]), forward["threads"]) == ("forward", "ours", 1, 1)
    assert forward["gflop"] == pytest.approx(gflop("forward"))
    assert forward["peak"] > 100
    out = capsys.readouterr().out
    assert out == f"{Report.load(path).markdown()}\n"
    assert "| forward | " in out
    assert main(["bench", "--read", str(path)]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(ValueError, match=r"case forward \(ours\) ended with code 1: .*nowhere"):
        measure(Setting("forward", weights="/nowhere"), ["ours"], 1)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_process_that_is_killed_says_so() -> None:
    with (
        Child("the test", _kill_itself) as child,
        pytest.raises(ValueError, match="the test ended with code -9: killed, perhaps for want of memory"),
    ):
        child.answer()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes end otherwise there")
def test_a_process_ends_with_the_one_that_began_it() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    parent = context.Process(target=_begin_and_wait, args=(theirs,))
    parent.start()
    child = ours.recv()
    parent.kill()
    parent.join()
    end = time.monotonic() + 20
    while _is_alive(child):
        assert time.monotonic() < end
        time.sleep(0.1)


def _begin_and_wait(pipe: Any) -> None:
    with Child("the test", _work_on) as child:
        pipe.send(child.answer())
        child.answer()


def _work_on(pipe: Any) -> None:
    pipe.send(os.getpid())
    while True:  # and never looks at its pipe
        pass


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z" if Path("/proc/self").exists() else True


def _kill_itself(pipe: Any) -> None:
    signal.raise_signal(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_ours_and_diffusers_are_measured_in_turn(tiny: str) -> None:
    pytest.importorskip("diffusers")
    setting = Setting("guided", weights=tiny, threads=1)
    _, sent = metered(lambda meter: diffusers_baseline.CASES["unguided"](setting, meter), 1)
    assert (sent[0], type(sent[1])) == (None, Round)
    ours, theirs = measure(setting, ["ours", "diffusers"], 2)
    assert (ours.side, theirs.side) == ("ours", "diffusers")
    assert len(ours.rounds) == len(theirs.rounds) == 2
    assert theirs.gflop is None
    assert replace(ours, side="", rounds=(), peak=0) == Measured("guided", "", (), ours.gflop, 0, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_cases_are_measured_one_by_one_and_imports_without_a_peak(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    assert main(["bench", "--only", "import:package,import:help", "--repeat", "1", "--json", str(path)]) == 0
    found = [(one.case, one.side, len(one.rounds), one.peak) for one in Report.load(path).measured]
    assert found == [("import:package", "ours", 1, None), ("import:help", "ours", 1, None)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at Linux's list of processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_benchmark_leaves_nothing_behind(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process = forked(["bench", "--only", "forward", "--repeat", "500"], tmp_path / "shown")
    assert process.pid
    try:
        while not (workers := workers_of(process.pid)) and process.is_alive():
            time.sleep(0.05)
        assert list(tmp_path.glob("tmp*"))
        os.kill(process.pid, number)
        process.join(timeout=120)
    finally:
        process.kill()
    assert process.exitcode == 128 + number
    assert "Traceback" not in (tmp_path / "shown.err").read_text()
    assert len(workers) == 1
    deadline = time.monotonic() + 120
    while (left := [worker for worker in workers if Path(f"/proc/{worker}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    assert not list(tmp_path.glob("tmp*"))


def workers_of(parent: int) -> list[int]:
    """The processes of Python's `multiprocessing` that a process started."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    pids = [int(pid) for pid in (children.read_text().split() if children.exists() else ())]
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
