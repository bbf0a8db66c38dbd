"""The documentation holds: its Python runs, its links lead somewhere, and equations.md points at the right lines.

`python tests/test_docs.py` writes the present line numbers into equations.md.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from ebama.cli import _parser as parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EQUATIONS = ROOT / "docs" / "equations.md"
REFERENCE = re.compile(r"\[(?P<path>[\w/]+\.py):(?P<line>\d+)\]\(\.\./(?P=path)#L(?P=line)\) \| `(?P<code>[^`]+)`")
PROGRAMS = ("in-your-own-network.md",)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks() -> list[tuple[str, str]]:
    """(page and number, source) of all Python in the pages; that of a page which is one program, but for what needs
    diffusers, together."""
    found = []
    for page in PAGES:
        python = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        if page.name in PROGRAMS:
            alone = [source for source in python if "diffusers" in source]
            python = ["\n".join(source for source in python if source not in alone), *alone]
        found += [(f"{name(page)}:{number}", source) for number, source in enumerate(python, start=1)]
    return found


def needs_real_weights(tree: ast.AST) -> bool:
    """Whether it opens "sd-v1-4...", a file that whoever runs the tests need not have."""
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(string.startswith("sd-v1-4") for string in strings)


@pytest.mark.slow
@pytest.mark.parametrize("source", [pytest.param(source, id=where) for where, source in blocks()])
def test_python_runs(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ast.parse(source)
    if needs_real_weights(tree):
        compile(tree, "block", "exec")
        return
    if "from diffusers" in source:
        pytest.importorskip("diffusers", reason="needs the extra `parity`")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "block.py").write_text(re.sub(r"\bsteps=\d+", "steps=2", source), encoding="utf-8")
    runpy.run_path("block.py")


def test_most_python_runs_without_real_weights() -> None:
    assert sum(not needs_real_weights(ast.parse(source)) for _, source in blocks()) >= 4


def commands() -> list[tuple[str, str]]:
    """(page, arguments) of every `train_free.py` in the pages."""
    found = []
    for page in (*PAGES, ROOT / "weights" / "miniature" / "README.md"):
        lines = re.findall(r"train_free\.py ([^`\n]*)", page.read_text(encoding="utf-8"))
        found += [(name(page), line.replace("…", "").replace("...", "")) for line in lines]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_can_be_given(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words != ["--help"]:
        assert parser().parse_args(words).command == words[0]  # SystemExit if it cannot be read


def test_there_are_commands() -> None:
    assert len(commands()) > 20


@cache
def anchors(page: Path) -> frozenset[str]:
    """GitHub's names of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def links(page: Path) -> list[str]:
    """Targets of links and images within the repository."""
    text = re.sub(r"`[^`\n]*`", "code", FENCED.sub("", page.read_text(encoding="utf-8")))
    return [target for target in re.findall(r"\]\(([^()\s]+)\)", text) if not re.match(r"[a-z]+:", target)]


def lost(page: Path, target: str) -> bool:
    path, _, fragment = target.partition("#")
    file = (page.parent / unquote(path)).resolve() if path else page
    if not file.exists() or ROOT not in (file, *file.parents):
        return True
    if not fragment:
        return False
    if file.suffix == ".md":
        return fragment not in anchors(file)
    line = re.fullmatch(r"L(\d+)", fragment)
    return line is None or int(line[1]) > len(file.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_pictures_are_there(page: Path) -> None:
    assert [target for target in links(page) if lost(page, target)] == []


def test_a_lost_link_is_noticed() -> None:
    page = ROOT / "README.md"
    assert lost(page, "docs/nothing.md")
    assert lost(page, "docs/methods.md#nothing")
    assert lost(page, "models/unet.py#L99999")
    assert not lost(page, "docs/methods.md#options-on-the-miniature")


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    assert [name(page) for page in PAGES[1:] if page not in {*reached, index}] == []


def named_tests() -> list[tuple[str, str]]:
    """(file, test) of every test that a page names, as `tests/a.py::test_b`."""
    text = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def test_the_tests_that_hold_something_are_there() -> None:
    found = named_tests()
    assert len(found) > 60
    functions = {path: set(re.findall(r"^ *def (\w+)", (ROOT / path).read_text(), re.MULTILINE)) for path, _ in found}
    assert [(path, test) for path, test in found if test not in functions[path]] == []


def lines_of(path: str, code: str) -> list[int]:
    """Numbers of the lines of a file that begin with that code."""
    source = (ROOT / path).read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(source, start=1) if line.strip().startswith(code)]


def test_equations_point_at_the_lines_that_compute_them() -> None:
    found = list(REFERENCE.finditer(EQUATIONS.read_text(encoding="utf-8")))
    assert len(found) >= 12
    wrong = {
        f"{reference['path']}:{reference['line']}: {reference['code']}": lines_of(reference["path"], reference["code"])
        for reference in found
        if lines_of(reference["path"], reference["code"]) != [int(reference["line"])]
    }
    assert not wrong, f"now at other lines, see `python tests/test_docs.py`: {wrong}"


def renumber() -> None:
    """Write the present line numbers into equations.md; an error for code that is not there exactly once."""

    def present(reference: re.Match[str]) -> str:
        path, code = reference["path"], reference["code"]
        (line,) = lines_of(path, code) or sys.exit(f"{path} has no line that begins with: {code}")
        return f"[{path}:{line}](../{path}#L{line}) | `{code}`"

    EQUATIONS.write_text(REFERENCE.sub(present, EQUATIONS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    renumber()
