"""A parser's name may come from a file: nothing is imported to find out what it names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ebama.prompt import PromptError, parsers


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages, each of which leaves a mark if it is imported."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("bare", "installed_bare", "installed_model", "folder_model"):
        (tmp_path / name / "below").mkdir(parents=True)
        for package in (tmp_path / name, tmp_path / name / "below"):
            (package / "__init__.py").write_text("import pathlib\npathlib.Path(__file__ + '.mark').touch()\n")
    for name in ("installed_model", "folder_model"):
        (tmp_path / name / f"{name}-3.8.0").mkdir()
        (tmp_path / name / f"{name}-3.8.0" / "config.cfg").touch()
    for name in ("installed_bare", "installed_model"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        (tmp_path / f"{name}-1.0.dist-info" / "top_level.txt").write_text(f"{name}\n")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("bare", "bare.below", "installed_bare.below", "installed_model.below", "installed_model.", ".bare", ""),
        *("folder_model", "json.tool", "os", "__main__", "/etc", "../bare", "bare\0", "a" * 10**6, "installed-model"),
    ],
)
def test_names_of_no_installed_distribution_are_refused(name: str, site: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(PromptError, match=r"no such spaCy model is installed; there are .*rules") as caught:
        parsers.analyse("a red dog", name)
    assert len(str(caught.value)) < 300
    assert not list(site.rglob("*.mark"))
    assert not {module.partition(".")[0] for module in set(sys.modules) - before} & {"bare", "installed_bare"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["installed_bare", "torch", "spacy", "numpy"])
def test_an_installed_package_that_is_no_model_is_not_imported(name: str, site: Path) -> None:
    for use in (parsers.check, lambda parser: parsers.analyse("a red dog", parser)):
        with pytest.raises(PromptError, match=rf"'{name}' is installed, but spaCy cannot load it: it holds no model"):
            use(name)
    assert not list(site.rglob("*.mark"))


def test_an_installed_model_is_known_without_an_import_and_then_loaded(site: Path) -> None:
    parsers.check("installed_model")
    assert not list(site.rglob("*.mark"))
    with pytest.raises(PromptError, match="'installed_model' is installed, but spaCy cannot load it"):
        parsers.analyse("a red dog", "installed_model")  # an empty one
    assert len(list(site.rglob("*.mark"))) == 1
