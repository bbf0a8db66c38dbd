"""What is installed, and who may import whom: each folder can be lifted into another project."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
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
# What each part may import beyond the standard library and its own folder; the first prefix that fits counts.
ALLOWED = (
    ("models/text.py", {"torch", "transformers"}),
    ("models/", {"torch", "einops"}),
    ("samplers/", {"torch"}),
    ("weights/miniature/curve.py", {"numpy", "matplotlib"}),
    *(
        (
            f"weights/miniature/{name}.py",
            {"torch", "safetensors", "numpy", "transformers", "ebama.evaluation.templates"},
        )
        for name in ("readers", "train_clip", "train_captioner")
    ),
    (
        "weights/miniature/",
        {"torch", "safetensors", "numpy", "PIL", "resvg_py", "tqdm", "ebama.models", "ebama.samplers", "ebama.weights"},
    ),
    ("weights/", {"torch", "safetensors", "transformers", "ebama.models"}),
    ("ebama/energy.py", {"torch", "einops"}),
    ("ebama/smoothing.py", {"torch"}),
    (
        "ebama/app/",
        {"fastapi", "starlette", "numpy", "matplotlib", "ebama.models", "ebama.samplers", "ebama.weights"},
    ),
    ("ebama/commands/serve.py", {"fastapi", "uvicorn"}),
    (
        "ebama/",
        {"torch", "einops", "numpy", "PIL", "tqdm", "transformers", "spacy", "safetensors", "matplotlib"}
        | {"ebama.models", "ebama.samplers", "ebama.weights"},
    ),
)
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


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_import_table(path: Path) -> None:
    allowed = next(names for prefix, names in ALLOWED if path.as_posix().startswith(prefix))
    for module in imports(path):
        if module.startswith("./"):
            assert module.startswith(f"./{path.parts[0]}"), f"{path} reaches out of its folder: {module}"
        elif module.partition(".")[0] not in sys.stdlib_module_names:
            assert fits(module, allowed), f"{path} imports {module}; allowed: {sorted(allowed)}"


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("ebama/smoothing.py", {"./ebama/native"}),
        ("ebama/energy.py", {"./ebama/smoothing"}),
        ("ebama/token_softmax.py", {"./ebama/energy"}),
    ],
)
def test_the_energy_knows_no_pipeline_prompt_or_file(path: str, below: set[str]) -> None:
    assert {module for module in imports(Path(path)) if module.startswith("./")} <= below
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
@pytest.mark.parametrize("folder", ["models", "samplers"])
def test_a_folder_can_be_lifted_into_another_project(folder: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / folder, tmp_path / "borrowed", ignore=shutil.ignore_patterns("__pycache__"))
    code = {
        "models": """
import sys, torch
sys.modules["ebama"] = sys.modules["transformers"] = None
from borrowed import UNet, UNetConfig
config = UNetConfig(widths=(8, 16), attention=(True, False), heads=(2, 2), blocks=1, context_width=8, norm_groups=4)
print(*UNet(config)(torch.randn(1, 4, 8, 8), 5, torch.randn(1, 77, 8)).shape)""",
        "samplers": """
import sys, torch
sys.modules["ebama"] = None
from borrowed import PNDM
print(*PNDM(3).sample(lambda z, t: z, torch.randn(1, 4, 8, 8)).shape)""",
    }
    assert run(code[folder], tmp_path) == "1 4 8 8"


@pytest.mark.slow
def test_a_wheel_holds_every_source_and_data_file(tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    skip = shutil.ignore_patterns("__pycache__", ".*", "venv", "build", "outputs", "*.egg-info", "tests")
    shutil.copytree(ROOT, source, ignore=skip)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        held = set(wheel.namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in held} == {"ebama"}
    for path in (*SOURCES, *(file.relative_to(ROOT) for _, _, files in data_files() for file in files)):
        assert path.as_posix().removeprefix("ebama/") in {name.removeprefix("ebama/") for name in held}
    assert any(name.endswith("licenses/LICENSE") for name in held)
