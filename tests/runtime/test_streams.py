"""Printing, signals and exhausted memory: a run ends in one line, or goes on."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import forked

from ebama import cli, commands
from ebama.runtime.exhaustion import is_exhausted
from ebama.runtime.stops import Stopped, held_stops, raised_stops
from ebama.runtime.streams import LastingStream, lasting_output

ROOT = Path(__file__).resolve().parents[2]


class Broken(io.StringIO):
    """Fails as a system does; counts how often it is asked."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.asked = number, 0

    def write(self, text: str) -> int:
        self.asked += 1
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_printing_to_what_is_gone_goes_on(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Broken(number)
    monkeypatch.setattr("sys.stdout", gone)
    with lasting_output() as output:
        for _ in range(3):
            print("a picture", flush=True)
    assert gone.asked == 1
    assert (output.error is None) == (number == errno.EPIPE)  # a reader that has read enough is no error
    assert sys.stdout is gone


@pytest.mark.parametrize("end", [SystemExit(0), KeyboardInterrupt(), ValueError("x"), None], ids=repr)
def test_an_early_end_leaves_nothing_that_fails_later(
    end: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:  # closing it writes what is left in its buffer
        monkeypatch.setattr(sys, "stdout", full)
        with suppress(SystemExit, KeyboardInterrupt, ValueError), lasting_output() as output:
            print("usage")
            if end:
                raise end
        assert isinstance(output.error, OSError)
        assert output.error.errno == errno.ENOSPC


def _without_streams(closed: Sequence[str]) -> int:
    for number in closed:
        os.close(int(number))
    with lasting_output(), tempfile.TemporaryFile() as file:
        assert file.fileno() > 2
        assert all(os.get_inheritable(number) for number in range(3))
    return 0


@pytest.mark.parametrize("closed", ["0", "1", "01", "02", "12", "012"])
def test_numbers_of_closed_streams_are_given_to_no_file(closed: str, tmp_path: Path) -> None:
    process = forked(list(closed), tmp_path / "shown", _without_streams)
    process.join()
    assert process.exitcode == 0


def test_closed_and_missing_streams_are_printed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stdout", closed)
    monkeypatch.setattr("sys.stderr", None)
    with lasting_output():
        print("a picture")
        print("a warning", file=sys.stderr)
        sys.stderr.flush()


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "\\xe9\\u732b\\udcff"), ("latin-1", "é\\u732b\\udcff"), ("utf-8", "é猫\\udcff")]
)
def test_what_an_encoding_lacks_is_escaped(encoding: str, shown: str) -> None:
    raw = io.BytesIO()
    stream = LastingStream(io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    assert stream.write("é猫\udcff") == 3
    stream.flush()
    assert raw.getvalue().decode(encoding) == shown
    assert stream.error is None
    assert stream.encoding == encoding


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU"])
def test_stops_are_raised_and_the_old_way_comes_back(name: str) -> None:
    number = getattr(signal, name)
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(number, usual)
    try:
        with pytest.raises(Stopped) as caught, raised_stops():
            os.kill(os.getpid(), number)
        assert caught.value.code == 128 + number
        assert signal.getsignal(number) is usual
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        with raised_stops():
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


def test_other_threads_are_not_told_of_stops() -> None:
    done: list[bool] = []

    def work() -> None:
        with raised_stops():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("can't start new thread"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (RuntimeError("shapes do not agree"), False),
        (ImportError("No module named 'resvg_py'"), False),
        (ValueError("memory is 'much'"), False),
    ],
)
def test_exhausted_memory_is_known_by_whatever_says_so(error: Exception, exhausted: bool) -> None:
    assert is_exhausted(error) == exhausted


def ending(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the command line exits with if a command ends so."""

    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr(commands.methods, "_run", fail)
    return cli.main(["methods"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("steps is 0;\n expected more"), 2, "error: steps is 0; expected more"),
        (ValueError(""), 2, "error: ValueError"),
        (FileNotFoundError(2, "No such file", "a.png"), 2, "error: [Errno 2] No such file: 'a.png'"),
        (OverflowError("too large"), 2, "error: too large"),
        (UserWarning("unknown words"), 2, "error: unknown words"),
        (MemoryError(), 2, "error: Memory ran out."),
        (MemoryError("Lower batch_size."), 2, "error: Lower batch_size."),
        (RuntimeError("could not create a primitive"), 2, "error: Memory ran out. could not create a primitive"),
        (KeyboardInterrupt(), 130, "interrupted; files that were finished are kept"),
    ],
)
def test_every_ending_is_one_line(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(error, monkeypatch) == code
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("swallowed", [True, False])
def test_a_stop_is_one_line_whatever_became_of_it(
    number: int, swallowed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: Any) -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            if swallowed:  # as an import does that was interrupted
                raise ImportError("cannot load module more than once per process") from None
            raise

    monkeypatch.setattr(commands.methods, "_run", stop)
    before = signal.signal(number, signal.default_int_handler)
    try:
        assert cli.main(["methods"]) == 128 + number
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err == "interrupted; files that were finished are kept\n"


class Stopping(io.StringIO):
    """To which nothing is written without the next request to end."""

    def write(self, text: str) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        return super().write(text)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 128 + signal.SIGHUP, "interrupted; files that were finished are kept"),
        (ValueError("steps is 0"), 2, "error: steps is 0"),
    ],
    ids=["stop", "error"],
)
def test_stops_while_the_end_is_told_change_nothing(
    error: ValueError | None, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(_: Any) -> None:
        if error:
            raise error
        os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(commands.methods, "_run", end)
    monkeypatch.setattr(sys, "stderr", Stopping())
    before = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    }
    try:
        assert cli.main(["methods"]) == code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert sys.stderr.getvalue() == f"{line}\n"


def test_a_long_line_is_shortened(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(ValueError(f"steps is {'9' * 10**6}; expected less"), monkeypatch) == 2
    line = capsys.readouterr().err
    assert len(line) < 1100
    assert line.startswith("error: steps is 9")
    assert line.endswith("9; expected less\n")


def test_a_mistake_in_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="shapes do not agree"):
        ending(RuntimeError("shapes do not agree"), monkeypatch)


def test_warnings_as_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(commands.methods, "_run", lambda _: warnings.warn("unknown words", stacklevel=1))
    assert cli.main(["methods"]) == 0
    assert capsys.readouterr().err == "warning: unknown words\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cli.main(["methods"]) == 2
    assert capsys.readouterr().err == "error: unknown words\n"


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">/dev/full", "| true", ">&-", "2>&1 | true", "2>&-"])
def test_a_command_whose_output_is_gone_leaves_no_traceback(redirection: str, tmp_path: Path) -> None:
    command = f'"{sys.executable}" train_free.py --help {redirection}'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_an_interruption_while_the_program_starts_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise KeyboardInterrupt")  # the first module that the command line imports
    (tmp_path / "start.py").write_text(
        f"import runpy\nrunpy.run_path({str(ROOT / 'train_free.py')!r}, run_name='__main__')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, tmp_path / "start.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_waits_for_what_must_not_be_done_by_half(number: int) -> None:
    before, done = signal.signal(number, signal.SIG_DFL), []

    def work() -> None:
        with held_stops():
            signal.raise_signal(number)
            done.append("whole")

    try:
        with pytest.raises(Stopped) as caught, raised_stops() as raised:
            work()
    finally:
        signal.signal(number, before)
    assert done == ["whole"]
    assert raised == [caught.value]
    assert caught.value.code == 128 + number
