"""The notebooks run, each in a kernel of its own, and what they show is what is committed.

`python tests/test_notebooks.py` runs them whole and writes their outputs; names behind it choose some.
"""

from __future__ import annotations

import ast
import asyncio
import json
import multiprocessing
import os
import re
import sys
import tempfile
import warnings
from contextlib import suppress
from functools import cache, partialmethod
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
QUICK = {
    "steps": "2",
    "seeds": "range(1)",
    "updates": "2",
    "variants": '["ebama+intensity_weight=0", "initno+max_rounds=1+iterations=1+final_iterations=1,ebama"]',
}
"""Values of the cells tagged `parameters`, as the test runs them: the code is the same, the pictures are none."""
OUTPUTS = {"first-look": 7, "new-energy": 3, "own-network": 5, "comparing-methods": 4}
"""Cells that show something, at least."""
LIMIT = 1_000_000  # bytes
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore:IProgress not found"}
"""Of a kernel: this checkout, no bars, and no advice of tqdm's to install widgets for them."""
FRESH = "new-energy"
"""The notebook whose kernel imports everything itself, so that whatever importing says is seen; the others' are copies
of this process, in which that has been done."""


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def tagged(cell: dict[str, Any], tag: str) -> bool:
    return tag in cell["metadata"].get("tags", ())


def is_executed(notebook: dict[str, Any]) -> bool:
    return not tagged(notebook["cells"][0], "not-executed")


def shown(notebook: dict[str, Any]) -> list[list[Any]]:
    """What each cell of code shows: kinds of data, and printed texts without their numbers."""

    def kind(output: dict[str, Any]) -> Any:
        if output["output_type"] == "stream":
            return output["name"], re.sub(r"[-+]?\d[\d.e+-]*|nan| +", "", "".join(output["text"]))
        return output["output_type"], sorted(output["data"])

    return [[kind(output) for output in cell["outputs"]] for cell in notebook["cells"] if cell["cell_type"] == "code"]


def executed(notebook: dict[str, Any], folder: Path, parameters: dict[str, str]) -> dict[str, Any]:
    """The notebook as a fresh kernel runs it in that folder; without times, and of each output what is best shown."""
    import nbformat
    from nbclient import NotebookClient

    node = nbformat.reads(json.dumps(notebook), as_version=4)
    for cell in node.cells:
        if tagged(cell, "parameters"):
            for name, value in parameters.items():
                cell.source = re.sub(rf"^{name} = .*", f"{name} = {value}", cell.source, flags=re.MULTILINE)
    NotebookClient(
        node,
        timeout=1200,
        startup_timeout=1200,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    ).execute(env={**os.environ, **ENVIRONMENT})
    done: dict[str, Any] = json.loads(nbformat.writes(node))
    for cell, before in zip(done["cells"], notebook["cells"], strict=True):
        cell["source"] = before["source"]
        for output in cell.get("outputs", ()):
            if "data" in output:
                best = {"text/html", "image/png"} & set(output["data"]) or {"text/plain"}
                output["data"] = {kind: output["data"][kind] for kind in sorted(best)}
                output["metadata"] = {}
    return done


class Copied:
    """A kernel in a copy of this process: what Jupyter asks of a process that it starts."""

    stdin = stdout = stderr = None

    def __init__(self, command: list[str], env: dict[str, str], cwd: str, **_: Any) -> None:
        arguments = command[command.index("ipykernel_launcher") + 1 :]
        self._process = multiprocessing.get_context("fork").Process(target=_kernel, args=(arguments, env, cwd))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid
        with suppress(OSError):  # both do it: Jupyter ends the whole group, which must never be the tests'
            os.setpgid(self.pid, self.pid)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


@cache
def warmed() -> None:
    """Everything that notebooks import, once for all copies."""
    import matplotlib.pyplot  # noqa: F401

    from ebama import Pipeline
    from ebama.evaluation.judges import scorer  # noqa: F401
    from ebama.trace import curves, figures  # noqa: F401
    from ebama.weights import load

    Pipeline(load()).read("a cat")


def _kernel(arguments: list[str], env: dict[str, str], cwd: str) -> None:
    import matplotlib
    from ipykernel.kernelapp import IPKernelApp
    from IPython.core.interactiveshell import InteractiveShell
    from tqdm import tqdm

    with suppress(OSError):
        os.setpgid(0, 0)
    os.chdir(cwd)
    os.environ |= env
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    warnings.resetwarnings()
    warnings.filterwarnings("ignore", "IProgress not found")
    sys.modules.pop("matplotlib.pyplot", None)  # imported anew, it asks what shows figures
    matplotlib.rcdefaults()
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # it read the environment when it was imported
    asyncio.set_event_loop(asyncio.new_event_loop())
    InteractiveShell.clear_instance()
    IPKernelApp.launch_instance(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if is_executed(read(path))], ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_committed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nbclient", reason="needs nbclient")
    pytest.importorskip("ipykernel.kernelapp", reason="needs ipykernel")
    notebook = read(path)
    if path.stem != FRESH:
        warmed()
        monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", Copied)
    assert shown(executed(notebook, tmp_path, QUICK)) == shown(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_small_and_tidy(path: Path) -> None:
    notebook, text = read(path), path.read_text(encoding="utf-8")
    assert len(text.encode()) < LIMIT
    assert text == written(notebook)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not re.search(r"/(home|root|work|tmp|Users)/|[A-Z]:\\\\", re.sub(r"base64,[\w+/=]*", "", text))
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    if not is_executed(notebook):
        assert "not executed" in source(notebook["cells"][0]).lower()
        assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []
        for cell in code:
            compile(source(cell), path.name, "exec")
        return
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len([cell for cell in code if cell["outputs"]]) >= OUTPUTS[path.stem]
    assert {output.get("name") for output in outputs} <= {None, "stdout"}  # no warnings
    assert any({"text/html", "image/png"} & set(output.get("data", ())) for output in outputs)


def test_links_of_notebooks_lead_somewhere_and_each_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert {path.stem for path in NOTEBOOKS} == {*OUTPUTS, "real-weights"}
    for path in NOTEBOOKS:
        assert f"](notebooks/{path.name})" in index
        texts = [source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown"]
        for target in re.findall(r"\]\(([^()\s]+)\)", "\n".join(texts)):
            assert (path.parent / target.partition("#")[0]).is_file(), target


def test_a_new_energy_is_ten_lines() -> None:
    (path,) = [path for path in NOTEBOOKS if path.stem == "new-energy"]
    cells = [source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    (function,) = [
        node
        for cell in cells
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.FunctionDef) and [one.arg for one in node.args.args] == ["self", "task"]
    ]
    assert function.end_lineno is not None
    assert function.end_lineno - function.lineno + 1 == 10


def written(notebook: dict[str, Any]) -> str:
    """As Jupyter writes it, texts as lists of lines."""
    for cell in notebook["cells"]:
        cell["source"] = source(cell).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def refresh(paths: list[Path]) -> None:
    """Run notebooks whole and write their outputs."""
    for path in paths:
        notebook = read(path)
        if is_executed(notebook):
            with tempfile.TemporaryDirectory() as folder:
                notebook["cells"] = executed(notebook, Path(folder), {})["cells"]
        path.write_text(written(notebook), encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    refresh([path for path in NOTEBOOKS if path.stem in sys.argv[1:] or not sys.argv[1:]])
