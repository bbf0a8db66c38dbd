"""What is installed, and who may import whom: each folder can be lifted into another project."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest

tomllib = (
    pytest.importorskip("tomllib", reason="needs Python 3.11") if sys.version_info < (3, 11) else __import__("tomllib")
)

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS = {
    "ebama": "ebama",
    "ebama.models": "models",
    "ebama.samplers": "samplers",
    "ebama.weights": "weights",
}
# The rooms, ground floor first: what each may import of other packages, and of the rooms above it in this table ("*":
# any of them).
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "models/": ({"torch", "einops"}, set()),
    "samplers/": ({"torch"}, set()),
    "ebama/kernels/": ({"torch"}, set()),
    "ebama/smoothing.py": ({"torch"}, {"ebama/kernels/"}),
    "ebama/maps.py": ({"torch"}, set()),
    "ebama/hidden.py": ({"torch"}, set()),
    "ebama/energy.py": ({"torch"}, {"ebama/smoothing.py", "ebama/maps.py", "ebama/hidden.py"}),
    "weights/": ({"torch", "safetensors", "tokenizers", "transformers", "jinja2", "yaml"}, {"models/", "samplers/"}),
    "ebama/checks.py": (set(), set()),
    "ebama/boxes.py": (set(), {"ebama/checks.py"}),
    "ebama/prompt/": ({"spacy", "tokenizers", "transformers", "jinja2"}, {"ebama/boxes.py", "ebama/checks.py"}),
    "ebama/output/": ({"PIL", "numpy"}, {"samplers/", "ebama/checks.py", "ebama/prompt/"}),
    "ebama/guidance/": ({"torch"}, {"models/", "ebama/maps.py", "ebama/hidden.py", "ebama/checks.py", "ebama/prompt/"}),
    "ebama/methods/": (
        {"torch", "einops"},
        {"models/", "ebama/energy.py", "ebama/maps.py", "ebama/smoothing.py", "ebama/prompt/", "ebama/guidance/"}
        | {"ebama/boxes.py", "ebama/checks.py", "ebama/hidden.py"},
    ),
    "ebama/trace/": (
        {"torch", "einops", "numpy", "matplotlib", "PIL", "safetensors", "jinja2"},
        {"models/", "weights/", "ebama/maps.py", "ebama/smoothing.py", "ebama/prompt/", "ebama/output/"}
        | {"ebama/guidance/", "ebama/checks.py"},
    ),
    "ebama/runtime/": ({"torch", "tqdm"}, {"models/", "weights/"}),
    "ebama/starts/": (
        {"torch", "einops", "numpy", "PIL"},
        {"models/", "samplers/", "weights/", "ebama/checks.py", "ebama/output/", "ebama/guidance/", "ebama/runtime/"},
    ),
    "ebama/sampling.py": (
        {"torch"},
        {"samplers/", "ebama/guidance/", "ebama/runtime/", "ebama/trace/", "ebama/starts/"},
    ),
    "ebama/result.py": ({"torch", "PIL"}, {"ebama/output/", "ebama/trace/"}),
    "ebama/arguments.py": (
        {"torch"},
        {"weights/", "ebama/checks.py", "ebama/guidance/", "ebama/prompt/", "ebama/trace/"},
    ),
    "ebama/pipeline.py": ({"torch", "PIL"}, {"*"}),
    "ebama/__init__.py": (set(), {"*"}),
    "ebama/evaluation/": ({"torch", "numpy", "PIL", "tqdm", "transformers", "matplotlib", "jinja2"}, {"*"}),
    "ebama/training/": (
        {"torch", "numpy", "PIL", "tqdm", "transformers", "matplotlib", "safetensors", "resvg_py"},
        {"*"},
    ),
    "ebama/bench/": ({"torch", "matplotlib", "safetensors"}, {"*"}),
    "ebama/app/": ({"fastapi", "starlette", "pydantic", "numpy", "PIL"}, {"*"}),
    "ebama/commands/": ({"torch", "numpy", "PIL", "fastapi", "uvicorn"}, {"*"}),
    "ebama/cli.py": (set(), {"*"}),
}
MOST_FILES = 12
"""Modules side by side in a folder, at most: beyond that nobody finds anything by looking."""
SOURCES = sorted(
    path.relative_to(ROOT) for folder in FOLDERS.values() for path in (ROOT / folder).rglob("*.py") if path.is_file()
)


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, wherever in it, with relative ones spelled out by folder."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            folder = path.parents[node.level - 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (f"./{folder.joinpath(*name.split('.')).as_posix()}" for name in names)


def fits(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def test_there_are_sources() -> None:
    assert len(SOURCES) > 30
    assert set(imports(Path("ebama/energy.py"))) >= {"torch", "torch.nn", "./ebama/smoothing"}


def room_of(path: str) -> str:
    return next(room for room in ROOMS if path.startswith(room))


def own_path(module: str) -> str | None:
    """Where a module of ours lies in the checkout, as far as its name tells; None for one of another package."""
    if module.startswith("./") or module == "ebama" or module.startswith("ebama."):
        path = module.removeprefix("./") if module.startswith("./") else module.replace(".", "/")
        path = path.removeprefix("ebama/") if path.split("/")[1:2] in (["models"], ["samplers"], ["weights"]) else path
    else:
        return None
    if (ROOT / f"{path}.py").is_file():
        return f"{path}.py"
    return f"{path}/" if (ROOT / path).is_dir() else None  # None: a name that the package itself defines


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_room_imports_only_what_its_row_of_the_table_names(path: Path) -> None:
    room = room_of(path.as_posix())
    packages, rooms = ROOMS[room]
    names = list(ROOMS)
    for module in imports(path):
        if (own := own_path(module)) is not None:
            target = room_of(own)
            above = target in rooms or ("*" in rooms and names.index(target) < names.index(room))
            assert target == room or above, f"{path} imports {module}; {room} may import {sorted(rooms)}"
        elif not module.startswith("./") and module.partition(".")[0] not in sys.stdlib_module_names:
            assert fits(module, packages), f"{path} imports {module}; allowed: {sorted(packages)}"


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=str)
def test_no_folder_is_too_full_to_find_anything_in(folder: Path) -> None:
    most = 20 if folder.as_posix() == "ebama/methods" else MOST_FILES  # there each file is a system
    assert len([path for path in SOURCES if path.parent == folder]) <= most


@pytest.mark.parametrize("path", ["ebama/smoothing.py", "ebama/maps.py", "ebama/energy.py"])
def test_the_energy_reads_no_file(path: str) -> None:
    assert not {"pathlib", "io", "os", "json"} & set(imports(Path(path)))


def test_packages_are_the_folders() -> None:
    found = set()
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)
    assert all((ROOT / folder / "__init__.py").is_file() for folder in SETUPTOOLS["package-dir"].values())


def data_files() -> Iterator[tuple[str, str, list[Path]]]:
    """Package, pattern and the files in the checkout that it stands for."""
    for package, patterns in SETUPTOOLS["package-data"].items():
        top = max((name for name in FOLDERS if package == name or package.startswith(f"{name}.")), key=len)
        folder = ROOT.joinpath(FOLDERS[top], *package.removeprefix(top).strip(".").split("."))
        yield from ((package, pattern, sorted(folder.glob(pattern))) for pattern in patterns)


@pytest.mark.parametrize(("package", "pattern", "files"), list(data_files()))
def test_every_data_pattern_names_files(package: str, pattern: str, files: list[Path]) -> None:
    assert [file for file in files if file.is_file()]


def test_no_data_file_is_left_out() -> None:
    named = {file for _, _, files in data_files() for file in files}
    held = {
        file
        for folder in FOLDERS.values()
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and not file.name.startswith(".")
    }
    assert held <= named


def run(code: str, cwd: Path = ROOT) -> str:
    """What a fresh interpreter prints; it sees the checkout only if it starts there."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_package_is_light_to_import() -> None:
    code = """
import sys, ebama
print(*(m for m in ("torch", "transformers", "spacy", "numpy", "PIL", "json") if m in sys.modules))"""
    assert run(code) == ""


@pytest.mark.slow
def test_help_needs_no_torch() -> None:
    code = """
import runpy, sys
sys.argv = ["train_free.py", "--help"]
try:
    runpy.run_path("train_free.py", run_name="__main__")
except SystemExit as stop:
    assert stop.code == 0
assert "torch" not in sys.modules"""
    assert "generate" in run(code)


def test_ebama_knows_its_parts_and_no_other_name() -> None:
    import ebama

    assert "ebama" in ebama.Pipeline.__module__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ebama.nothing


@pytest.mark.slow
def test_a_folder_can_be_lifted_into_another_project(tmp_path: Path) -> None:
    """Each alone: under another name, so that neither finds the other beside it."""
    for folder in ("models", "samplers"):
        borrowed = tmp_path / f"borrowed_{folder}"
        shutil.copytree(ROOT / folder, borrowed, ignore=shutil.ignore_patterns("__pycache__"))
    code = """
import sys, torch
sys.modules["ebama"] = sys.modules["transformers"] = None
from borrowed_models import UNet, UNetConfig
config = UNetConfig(widths=(8, 16), attention=(True, False), heads=(2, 2), blocks=1, context_width=8, norm_groups=4)
print(*UNet(config)(torch.randn(1, 4, 8, 8), 5, torch.randn(1, 77, 8)).shape)
from borrowed_samplers import PNDM
print(*PNDM(3).sample(lambda z, t: z, torch.randn(1, 4, 8, 8)).shape)"""
    assert run(code, tmp_path).splitlines() == ["1 4 8 8"] * 2


@pytest.mark.slow
def test_a_wheel_holds_every_source_and_data_file(tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    skip = shutil.ignore_patterns("__pycache__", ".*", "venv", "build", "outputs", "*.egg-info", "tests")
    shutil.copytree(ROOT, source, ignore=skip)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(source)]
    with suppress(metadata.PackageNotFoundError):  # what builds it is fetched only where it is not there
        if int(metadata.version("setuptools").partition(".")[0]) >= 77:
            command.insert(4, "--no-build-isolation")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        held = set(wheel.namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in held} == {"ebama"}
    for path in (*SOURCES, *(file.relative_to(ROOT) for _, _, files in data_files() for file in files)):
        assert path.as_posix().removeprefix("ebama/") in {name.removeprefix("ebama/") for name in held}
    assert any(name.endswith("licenses/LICENSE") for name in held)
