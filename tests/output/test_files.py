"""Written files: whole, in nobody's place, and refused before any work if they cannot be made."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from ebama.evaluation import jsonl
from ebama.output import claims
from ebama.output.claims import alone, new_folder, write_first, write_new
from ebama.output.files import check_file, check_folder, is_replaceable, to_json, write_text
from ebama.output.png import read_metadata, save_new_png


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "one")
    with pytest.raises(TypeError):
        write_text(tmp_path / "a", 2)  # type: ignore[arg-type]
    assert (tmp_path / "a").read_text() == "one"
    assert names(tmp_path) == {"a"}


def test_texts_that_utf_8_cannot_hold_are_written_all_the_same(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "é \udcff")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "é \\udcff"


def test_links_stay_and_their_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("below/there", "below/not-yet"):
        link = tmp_path / name.replace("below/", "to-")
        link.symlink_to(name)
        for text in ("one", "two"):
            write_text(link, text)
            assert link.is_symlink()
            assert (tmp_path / name).read_text() == text
    assert names(tmp_path / "below") == {"there", "not-yet"}


def test_what_is_no_regular_file_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    write_text(tmp_path / "null", "gone")
    assert (tmp_path / "null").is_symlink()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):  # nobody reads it, and nothing waits
        write_text(tmp_path / "pipe", "text")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 9) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path) == {"null", "pipe"}


def test_what_nobody_reads_is_refused_before_any_work(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, why in (("pipe", "cannot be written"), ("socket", "cannot be written"), ("link", "is a link into")):
            with pytest.raises(ValueError, match=rf"{name} {why}.*; choose another file"):
                check_file(tmp_path / name)
    (tmp_path / "nowhere").mkdir()
    check_file(tmp_path / "link")
    check_file(Path("/dev/null"))


@pytest.mark.slow
@pytest.mark.parametrize(("stream", "mode"), [("stdout", "w"), ("stderr", "a")])
def test_this_processs_own_output_is_not_replaced(tmp_path: Path, stream: str, mode: str) -> None:
    path = tmp_path / "shown"
    code = f"""
import sys
from pathlib import Path
from ebama.output.files import is_replaceable, write_text
print("before", file=sys.{stream})
for name in ("shown", "/dev/{stream}"):
    assert not is_replaceable(Path(name))
    write_text(Path(name), f"{{name}}\\n")
print("after", file=sys.{stream})
"""
    assert is_replaceable(path)
    with path.open(mode) as shown:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, **{stream: shown})
    assert path.read_text().split() == ["before", "shown", f"/dev/{stream}", "after"]


def write(text: str) -> Callable[[Path], object]:
    return lambda partial: partial.write_text(text)


def test_a_new_file_takes_nobodys_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "a-2.txt").symlink_to("nowhere")
    assert write_new(tmp_path / "a.txt", write("one")) == tmp_path / "a-3.txt"
    assert write_new(tmp_path / "a.txt", write("two")) == tmp_path / "a-4.txt"
    same = write_new(tmp_path / "a.txt", write("three"), lambda path: path.read_text() == "two")
    assert (same, same.read_text()) == (tmp_path / "a-4.txt", "three")
    assert names(tmp_path) == {"a.txt", "a-2.txt", "a-3.txt", "a-4.txt"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_name_that_cannot_be_filled_is_not_taken(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("os.replace", refuse)
    for claim in (
        lambda: write_new(tmp_path / "a.png", write("one")),
        lambda: write_first(tmp_path / "run.json", "{}"),
    ):
        with pytest.raises(OSError, match=os.strerror(number)):
            claim()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("links", [True, False])
def test_each_of_many_at_once_gets_a_name(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "this file system has no links")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    barrier = threading.Barrier(8)

    def work(number: int) -> tuple[Path, Path, bool]:
        barrier.wait()
        first = write_first(tmp_path / "run.json", str(number))
        return write_new(tmp_path / "a.txt", write(str(number))), new_folder(tmp_path / "deep" / "b"), first

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert len({path for path, _, _ in results}) == len({folder for _, folder, _ in results}) == 8
    assert [path.read_text() for path, _, _ in results] == [str(number) for number in range(8)]
    assert [first for _, _, first in results].count(True) == 1
    assert results[int((tmp_path / "run.json").read_text())][2]
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_pictures_of_other_recipes_stay_and_the_same_recipe_is_written_once(tmp_path: Path) -> None:
    def save(number: int) -> Path:
        return save_new_png(Image.new("RGB", (4, 4)), tmp_path / "a.png", {"seed": number % 3, "versions": number})

    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(save, range(12)))
    assert len(set(paths)) == len(list(tmp_path.iterdir())) == 3
    assert [read_metadata(path)["seed"] for path in paths] == [number % 3 for number in range(12)]


def test_work_alone_waits_for_others_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside: list[str] = []
    entered, done = threading.Event(), threading.Event()

    def work() -> None:
        with alone(tmp_path, "draws here"):
            inside.append("first")
            entered.set()
            done.wait()
            inside.append("first ends")

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()
    threading.Timer(0.05, done.set).start()
    with alone(tmp_path, "draws here"):
        inside.append("second")
    thread.join()
    assert inside == ["first", "first ends", "second"]
    assert capsys.readouterr().err == "waiting: another process draws here\n"
    with alone(tmp_path, "draws here"):
        pass
    assert capsys.readouterr().err == ""


def test_where_the_system_knows_no_claims_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claims.alone(tmp_path, "draws here"):
        write_text(tmp_path / "a", "one")
    assert (tmp_path / "a").read_text() == "one"


@pytest.mark.parametrize("below", ["", "pictures", "pictures/of/today"])
@pytest.mark.parametrize("kind", ["dangling", "loop", "file", "pipe", "long"])
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(kind: str, below: str, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("other")
    (tmp_path / "other").symlink_to("loop")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = names(tmp_path)
    out = tmp_path / ("x" * 300 if kind == "long" else kind) / below
    with pytest.raises(
        ValueError, match=r"^Nothing can be written to .* \([A-Z].*\); choose another folder with --out\.$"
    ):
        check_folder(out)
    assert names(tmp_path) == before


def test_folders_and_files_that_can_be_made_are_not_made_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    monkeypatch.chdir(tmp_path)
    for name in ("there", "link", "new", "new/deep", "link/new", "."):
        check_folder(Path(name))
        check_file(Path(name) / "file.json")
    check_file(Path("/dev/null"))
    assert names(tmp_path) == {"there", "link"}
    for name in ("there", "link", "/dev/null/file", "nowhere/../there"):
        with pytest.raises(ValueError, match="written"):
            check_file(Path(name))


@pytest.mark.parametrize("value", ["\udcff", "\udc00\ud800", "é猫🐱", "\\", '"'])
def test_json_can_be_written_as_utf_8_whatever_it_says(value: str) -> None:
    text = to_json({value: [value]})
    assert json.loads(text.encode()) == {value: [value]}


def test_a_disk_that_is_full_is_named_by_the_file(tmp_path: Path) -> None:
    """The system says of what could not be opened which file that was, but not of what could not be written."""
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "full").symlink_to("/dev/full")
    text, image = "x" * 5000, Image.effect_noise((64, 64), 9)
    writes: dict[str, Callable[[Path], object]] = {
        "text": lambda path: write_text(path, text),
        "link": lambda path: write_text(path, text),
        "full": lambda path: write_text(path, text),
        "first": lambda path: write_first(path, text),
        "lines": lambda path: jsonl.append(path, [{"text": text}]),
        "picture": lambda path: save_new_png(image, path, {}),
        "new": lambda path: write_new(path, lambda partial: partial.write_text(text)),
        "nowhere/new": lambda path: write_new(path, lambda partial: partial.write_text(text)),
    }
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        for name, write in writes.items():
            with pytest.raises(OSError, match=r"File too large|No space left|No such file") as caught:
                write(tmp_path / name)
            assert caught.value.filename == str(tmp_path / {"link": "there"}.get(name, name))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert names(tmp_path) == {"link", "full", "lines"}
