"""The command line: pictures that can be made again, and one clear line for everything that cannot be done."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import forked
from PIL import Image
from weights_samples import random_model

from ebama.cli import main
from ebama.commands import model as commands_model
from ebama.commands.arguments import path
from ebama.models import MINIATURE
from ebama.output.png import read_metadata, save_png
from ebama.weights import StableDiffusion, save

ROOT = Path(__file__).parents[2]

PROMPT = "a purple crown and a blue suitcase"
FOLDER = "a-purple-crown-and-a-blue-suitcase"


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return random_model()


@pytest.fixture
def tiny(model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` runs on a random network of 16x16 latents, in the precision asked for; a given path is loaded."""
    loads = commands_model.load

    def load(path: Path | None = None, **options: Any) -> StableDiffusion:
        return loads(path, **options) if path else model

    monkeypatch.setattr(commands_model, "load", load)


def generate(out: Path, *arguments: str) -> int:
    return main(["generate", "--steps", "2", "--parser", "rules", "--out", str(out), *arguments])


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def refused(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line on stderr with which `arguments` are refused."""
    try:
        code: object = main(arguments)
    except SystemExit as stop:  # argparse's way
        code = stop.code
    shown = capfd.readouterr()
    assert code == 2
    assert shown.out == ""
    (line,) = shown.err.strip().splitlines()
    assert len(line) > 20
    return line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "prompt or --from-png"),
        ([""], "prompt is empty"),
        (["   "], "prompt is empty"),
        (["quickly and slowly"], "no noun"),
        ([PROMPT, "--method", "nothing"], "'nothing'"),
        ([PROMPT, "--compare", "sd", "nothing"], "'nothing'"),
        ([PROMPT, "--option", "nothing=3"], "no option nothing"),
        ([PROMPT, "--option", "step_size"], "NAME=VALUE"),
        ([PROMPT, "--option", "step_size=much"], "step_size is 'much'"),
        ([PROMPT, "--option", "step_size=-1"], "step_size is -1"),
        ([PROMPT, "--option", "center=maybe"], "center is 'maybe'"),
        ([PROMPT, "--option", "log_intensity=2"], "log_intensity is 2; expected true or false"),
        ([PROMPT, "--sampler", "nothing"], "'nothing'"),
        ([PROMPT, "--steps", "0"], "steps is 0"),
        ([PROMPT, "--steps", "1001"], "steps is 1001"),
        ([PROMPT, "--steps", "many"], "'many'"),
        ([PROMPT, "--seeds", "a:b"], "'a:b'"),
        ([PROMPT, "--seeds", "3:3"], "'3:3'"),
        ([PROMPT, "--seeds", "-1"], "--seeds"),
        ([PROMPT, "--guidance", "nan"], "guidance is nan"),
        ([PROMPT, "--size", "big"], "'big' is no size"),
        ([PROMPT, "--size", "768"], "'768' is no size"),
        ([PROMPT, "--size", "0x32"], "size is (0, 32)"),
        ([PROMPT, "--size", "33x32"], "size is (33, 32); expected a height and a width that are multiples of"),
        ([PROMPT, "--prediction", "x0"], "'x0'"),
        ([PROMPT, "--batch-size", "0"], "at least 1"),
        ([PROMPT, "--device", "abacus"], "'abacus'"),
        ([PROMPT, "--parser", "nothing"], "'nothing'"),
        ([PROMPT, "--group", "zebra:red"], "zebra"),
        ([PROMPT, "--nothing"], "--nothing"),
        ([PROMPT, "--weights", "no/such/file.ckpt"], "no/such/file.ckpt"),
        ([PROMPT, "--from-png", "some.png"], "prompt or --from-png"),
        (["--from-png", "no-such.png", "--steps", "20"], "leave --steps, --parser out"),
        (["red " * 80 + "crown"], "lies beyond the 75 tokens"),
    ],
)
@pytest.mark.filterwarnings("ignore:the text encoder sees")
@pytest.mark.usefixtures("tiny")
def test_generate_refuses_bad_input_in_one_line_and_writes_nothing(
    arguments: list[str], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebama.cli._show_warning", lambda *_: None)
    assert says in refused(capfd, ["generate", "--out", str(tmp_path / "out"), "--parser", "rules", *arguments])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--out", ""], ["--out", "o\r"], ["--weights", ""], ["--image", " "]])
def test_paths_of_nothing_are_refused(options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "a cat", *options])
    assert f"{options[1]!r} is no path; look at the variable or the script" in capfd.readouterr().err


def test_from_png_names_a_missing_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "no-such.png" in refused(capfd, ["generate", "--from-png", "no-such.png", "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["inspect"], ["inspect", "no-such-file"]])
def test_bad_commands_are_refused_in_one_line(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    refused(capfd, arguments)


@pytest.mark.parametrize(
    "arguments",
    [["generate", PROMPT], ["attention", PROMPT], ["sheet", PROMPT], ["evaluate"], ["serve", "--port", "0"]],
    ids=lambda arguments: arguments[0],
)
def test_every_command_opens_its_model_as_it_is_told(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def load(*given: Any, **options: Any) -> None:
        asked.append((*given, options))
        raise ValueError("this is as far as the command shall come here")

    monkeypatch.setattr(commands_model, "load", load)
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--weights", "w.ckpt", "--prediction", "v", "--dtype", "bfloat16"]) == 2
    assert asked == [(Path("w.ckpt"), {"device": "cpu", "dtype": torch.bfloat16, "prediction": "v"})]


@pytest.mark.parametrize("name", ["notes.txt", "model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("command", ["generate", "inspect"])
@pytest.mark.usefixtures("tiny")
def test_a_text_file_is_no_checkpoint(
    command: str, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("These are not weights.\n" * 50)
    path = str(tmp_path / name)
    arguments = {
        "generate": ["generate", PROMPT, "--weights", path, "--out", str(tmp_path)],
        "inspect": [command, path],
    }
    assert path in refused(capfd, arguments[command])
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("below", ["", "pictures", "pictures/of/today"])
@pytest.mark.usefixtures("tiny")
def test_generate_refuses_an_output_folder_that_cannot_be_written(
    below: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "--out" in refused(capfd, ["generate", PROMPT, "--out", str(file / below)])
    (tmp_path / FOLDER).touch()  # where the prompt's own folder would be
    assert FOLDER in refused(capfd, ["generate", PROMPT, "--out", str(tmp_path)])


@pytest.mark.usefixtures("tiny")
def test_generate_warns_of_words_beyond_the_text_encoder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prompt = f"{PROMPT}, " + "very " * 190 + "finally"
    assert generate(tmp_path, prompt, "--group", "crown:purple", "--method", "sd") == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "does not see: very very" in warnings[0]
    assert len(list(tmp_path.rglob("*.png"))) == 1


@pytest.mark.parametrize("stored", [None, [], {"pictures": ["a.png"]}])
@pytest.mark.usefixtures("tiny")
def test_from_png_refuses_a_png_without_a_recipe(
    stored: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "foreign.png"
    save_png(Image.new("RGB", (4, 4)), source, stored)
    assert "recipe" in refused(capfd, ["generate", "--from-png", str(source), "--out", str(tmp_path / "out")])
    source.write_text("no picture")
    assert "recipe" in refused(capfd, ["generate", "--from-png", str(source), "--out", str(tmp_path / "out")])
    assert [file.name for file in tmp_path.iterdir()] == ["foreign.png"]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_generate_names_files_by_method_and_options(tmp_path: Path) -> None:
    options = ["--method", "ebama+center=False", "--option", "step_size=0.5", "--compare", "ebama"]
    assert generate(tmp_path, PROMPT, *options) == 0
    names = ["ebama+center=False+step_size=0.5-seed0000.png", "ebama-seed0000.png", "sheet.png"]
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == names


@pytest.mark.parametrize(
    ("options", "positions"), [([], [5]), (["--ignore", ""], [2, 5]), (["--ignore", "cat, photo of it"], [2])]
)
@pytest.mark.usefixtures("tiny")
def test_generate_takes_words_that_are_no_objects(options: list[str], positions: list[int], tmp_path: Path) -> None:
    assert generate(tmp_path, "a photo of a cat", *options) == 0
    (path,) = tmp_path.rglob("*.png")
    assert [group["object"] for group in read_metadata(path)["groups"]] == [[position] for position in positions]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_generate_writes_an_image_for_each_method_and_seed_with_its_recipe(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--seeds", "0:2", "--compare", "sd", "--option", "step_size=0.5", "--option", "intensity_weight=1"]
    assert generate(tmp_path, PROMPT, *options, "--option", "center=false") == 0
    guided = "ebama+step_size=0.5+intensity_weight=1+center=false"
    names = [f"{name}-seed000{seed}.png" for name in (guided, "sd") for seed in (0, 1)] + ["sheet.png"]
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == names
    assert capfd.readouterr().out.split() == [str(tmp_path / FOLDER / name) for name in names]
    metadata = read_metadata(tmp_path / FOLDER / f"{guided}-seed0001.png")
    assert metadata["prompt"] == PROMPT
    assert metadata["seed"] == 1
    assert metadata["method"] == {
        "name": "ebama",
        "step_size": 0.5,
        "intensity_weight": 1,
        "guided_steps": None,
        "initial_steps": 1,
        "center": False,
        "log_intensity": False,
    }
    assert metadata["sampler"] == {"name": "pndm", "steps": 2, "eta": 0.0}
    assert metadata["groups"] == [{"object": [3], "modifiers": [[2]]}, {"object": [7], "modifiers": [[6]]}]
    assert not np.array_equal(pixels(tmp_path / FOLDER / names[0]), pixels(tmp_path / FOLDER / names[1]))
    with Image.open(tmp_path / FOLDER / "sheet.png") as sheet, Image.open(tmp_path / FOLDER / names[0]) as one:
        assert sheet.width > 2 * one.width
        assert sheet.height > 2 * one.height


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["--method", "sd"], ["--sampler", "ddim", "--negative", "a red cat"], ["--method", "sd", "--size", "16x32"]],
)
@pytest.mark.usefixtures("tiny")
def test_from_png_makes_the_same_pixels(
    options: list[str],
    model: StableDiffusion,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert generate(tmp_path, PROMPT, "--seeds", "5", *options) == 0
    (source,) = (tmp_path / FOLDER).iterdir()  # a single picture needs no sheet
    assert main(["generate", "--from-png", str(source), "--out", str(tmp_path / "again")]) == 0
    (again,) = (tmp_path / "again").iterdir()
    assert np.array_equal(pixels(source), pixels(again))
    assert "every pixel is the same" in capfd.readouterr().err
    assert read_metadata(again) == read_metadata(source)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        next(changed.unet.parameters()).add_(0.1)
    monkeypatch.setattr(commands_model, "load", lambda *_, **__: changed)
    assert main(["generate", "--from-png", str(source), "--out", str(tmp_path / "other")]) == 0
    assert re.search("pixels differ by .*; the weights are not those that", capfd.readouterr().err)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_from_png_says_whose_model_is_not_here(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert generate(tmp_path, PROMPT, "--seeds", "5") == 0
    (source,) = (tmp_path / FOLDER).iterdir()
    metadata = read_metadata(source)
    with Image.open(source) as image:
        save_png(image, source, metadata | {"weights": "/home/alice/m.ckpt"})
    capfd.readouterr()
    line = refused(capfd, ["generate", "--from-png", str(source), "--out", str(tmp_path / "again")])
    assert f"{source} was made by /home/alice/m.ckpt, which is not here; say with --weights where it is." in line


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_from_png_names_options_that_a_file_of_an_older_version_does_not_say(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate(tmp_path, PROMPT, "--seeds", "5", "--method", "ebama") == 0
    (source,) = (tmp_path / FOLDER).iterdir()
    metadata = read_metadata(source)
    older = {name: value for name, value in metadata["method"].items() if name not in ("initial_steps", "center")}
    with Image.open(source) as image:
        save_png(image, source, metadata | {"method": older})
    assert main(["generate", "--from-png", str(source), "--out", str(tmp_path / "again")]) == 0
    says = "every pixel is the same; the file does not say center, initial_steps, for which today's defaults were taken"
    assert says in capfd.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_from_png_reads_a_file_of_an_older_version_without_newer_facts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate(tmp_path, PROMPT, "--seeds", "5", "--method", "sd") == 0
    (source,) = (tmp_path / FOLDER).iterdir()
    metadata = read_metadata(source)
    with Image.open(source) as image:
        for name in ("latent", "model", "fingerprint", "versions"):
            del metadata[name]
        save_png(image, source, metadata)
    assert main(["generate", "--from-png", str(source), "--out", str(tmp_path / "again")]) == 0
    assert "every pixel is the same" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("dtype", "load"), ("sampler", {"name": "os.system"})])
@pytest.mark.usefixtures("tiny")
def test_from_png_refuses_a_value_that_no_run_had(
    name: str, value: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate(tmp_path, PROMPT, "--seeds", "5", "--method", "sd") == 0
    (source,) = (tmp_path / FOLDER).iterdir()
    with Image.open(source) as image:
        save_png(image, source, read_metadata(source) | {name: value})
    capfd.readouterr()
    line = refused(capfd, ["generate", "--from-png", str(source), "--out", str(tmp_path / "again")])
    assert source.name in line
    assert f"{name} is {value!r}" in line or "sampler.name is 'os.system'" in line
    assert not (tmp_path / "again").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_from_png_needs_no_parser_that_is_gone_and_compares_what_can_be(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate(tmp_path, PROMPT, "--seeds", "5", "--method", "syngen") == 0
    (source,) = (tmp_path / FOLDER).iterdir()
    with Image.open(source) as image:
        small, expected = image.resize((8, 4)), pixels(source)
    save_png(small, source, read_metadata(source) | {"parser": "en_core_web_of_another_machine"})
    assert main(["generate", "--from-png", str(source), "--out", str(tmp_path / "again")]) == 0
    assert "the file's picture is of another size, 8x4" in capfd.readouterr().err
    (again,) = (tmp_path / "again").iterdir()
    assert np.array_equal(pixels(again), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_generate_leaves_a_damaged_image_alone_and_writes_beside_it(tmp_path: Path) -> None:
    once = ["--method", "sd", "--seeds", "0:3"]
    assert generate(tmp_path, PROMPT, *once) == 0
    first, second, third = sorted((tmp_path / FOLDER).glob("sd-*"))
    first.write_bytes(first.read_bytes()[:-200])
    second.unlink()
    second.mkdir()
    assert generate(tmp_path, PROMPT, *once) == 0
    names = {path.name for path in (tmp_path / FOLDER).iterdir()}
    again = {"sd-seed0000-2.png", "sd-seed0001-2.png", "sheet-2.png"}
    assert names == {first.name, second.name, third.name, "sheet.png", *again}


@pytest.mark.usefixtures("tiny")
def test_generate_says_in_one_line_that_weights_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(commands_model, "load", fail)
    assert generate(tmp_path, PROMPT) == 2
    assert "The weights do not fit into the memory of 'cpu'" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_generate_overwrites_no_image_of_another_recipe(tmp_path: Path) -> None:
    once = ["--method", "sd", "--seeds", "0,1"]
    for options in ([], [], ["--guidance", "3"], ["--guidance", "3"]):
        assert generate(tmp_path, PROMPT, *once, *options) == 0
    names = ["sd-seed0000-2.png", "sd-seed0000.png", "sd-seed0001-2.png", "sd-seed0001.png", "sheet-2.png", "sheet.png"]
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == names
    assert [read_metadata(tmp_path / FOLDER / name)["guidance"] for name in names[:2]] == [3.0, 7.5]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_generate_records_weights_and_their_path(model: StableDiffusion, tmp_path: Path) -> None:
    save(model, tmp_path / "model")
    assert generate(tmp_path / "a", PROMPT, "--method", "sd") == 0
    assert generate(tmp_path / "b", PROMPT, "--method", "sd", "--weights", str(tmp_path / "model")) == 0
    (with_path,) = (tmp_path / "b").rglob("*.png")
    assert read_metadata(with_path)["weights"] == str(tmp_path / "model")
    assert np.array_equal(pixels(*(tmp_path / "a").rglob("*.png")), pixels(with_path))


@pytest.mark.slow
def test_inspect_counts_parameters_and_says_what_is_complete(
    model: StableDiffusion, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save(model, tmp_path / "model", dtype=torch.float16)
    assert main(["inspect", str(tmp_path / "model")]) == 0
    table = capfd.readouterr().out
    count = sum(weight.numel() for weight in model.unet.state_dict().values())
    assert f"{count:,}  float16" in table
    assert "complete: can be loaded" in table
    assert main(["inspect", str(tmp_path / "model"), "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["complete"] is True
    assert facts["layout"] == "diffusers"
    assert facts["components"]["unet"]["parameters"] == count


@pytest.mark.slow
def test_the_embedded_miniature_draws_and_names_words_it_does_not_know(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert generate(tmp_path, "a purple crown and a blue zebra", "--seeds", "0:2") == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "does not know: zebra." in warnings[0]
    assert len(list(tmp_path.rglob("ebama-seed*.png"))) == 2


@pytest.mark.slow
def test_generate_keeps_finished_files_when_interrupted(tmp_path: Path) -> None:
    """On the embedded miniature, in a process of its own, as Ctrl-C does it."""
    options = ["--method", "sd", "--seeds", "0:50", "--batch-size", "1", "--steps", "10", "--parser", "rules"]
    out, printed = tmp_path / "out", tmp_path / "shown.out"
    process = forked(["generate", PROMPT, *options, "--out", str(out)], tmp_path / "shown")
    while not (printed.exists() and printed.read_text().endswith("\n")) and process.is_alive():
        time.sleep(0.02)
    assert process.pid
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=60)
    assert process.exitcode == 130
    kept = [first, *_] = [Path(line) for line in printed.read_text().splitlines()]
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(kept)
    assert len(kept) < 50
    side = MINIATURE.sample_size * MINIATURE.vae.factor
    assert pixels(first).shape == (side, side, 3)
    shown = (tmp_path / "shown.err").read_text()
    assert "Traceback" not in shown
    assert shown.strip().splitlines()[-1].endswith("interrupted; files that were finished are kept")


@pytest.mark.slow
def test_pictures_can_be_read_whatever_the_environment_keeps_from_files(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        assert main(["generate", "a cat", "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    finally:
        os.umask(before)
    paths = list((tmp_path / "out").rglob("*"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [
        0o700 if path.is_dir() else 0o600 for path in paths
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["attention", "a red car"], ["sheet", "a red car"], ["evaluate", "--methods", "sd"]]
)
def test_drawing_that_would_fail_is_refused_before_it_begins(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: Fran\xe7ois\n")
    environment = {**os.environ, "MPLBACKEND": "Qt4Agg"}
    line = [sys.executable, str(ROOT / "train_free.py"), *command, "--steps", "2", "--out", str(tmp_path / "out")]
    ended = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ended.returncode == 2
    assert re.search(
        r"\nerror: matplotlib cannot read its settings \(.*\); mend or remove the matplotlibrc.*\n$", ended.stderr
    )
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_could_not_be_judged_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    assert main(["evaluate", "--methods", "sd", "--steps", "2", "--out", str(tmp_path / "out")]) == 2
    assert re.fullmatch("error: No usable temporary directory .*; let TMPDIR name one .*\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_too_many_others_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a cat", "--out", str(tmp_path.joinpath(*"a" * 600))]) == 2
    assert re.fullmatch(r"error: .*\.\.\. is a folder in 6\d\d others; choose another .*\n", capsys.readouterr().err)


def test_the_home_folder_is_known_behind_an_equals_sign() -> None:
    assert path("~/pictures") == Path.home() / "pictures"
    assert [str(path(text)) for text in ("a/~b", "~nobody.here/a", "a")] == ["a/~b", "~nobody.here/a", "a"]


def test_a_working_folder_that_was_deleted_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for command in (["methods"], ["generate", "a cat"], ["inspect", "x"]):
        assert main(command) == 2
        assert re.fullmatch("error: The folder .* has been deleted; change to another.\n", capsys.readouterr().err)
