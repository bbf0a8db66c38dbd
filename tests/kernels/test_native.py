"""The loader of C files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ebama.kernels import native


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_native_code_is_compiled_once_and_left_out_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("EBAMA_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.load("peak.c", real="no_such_type") is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert native.load("peak.c", real="float") is not None
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".so"]
    monkeypatch.setenv("CC", "false")  # would fail now
    assert native.load("peak.c", real="float") is not None
    assert native.load("peak.c", real="double") is None
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.load("peak.c", real="float") is None
    monkeypatch.delenv("CC")
    monkeypatch.setenv("EBAMA_NATIVE", "0")
    assert native.load("peak.c", real="float") is None
    monkeypatch.delenv("EBAMA_NATIVE")
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert native.load("peak.c", real="float") is None
