"""Freed memory that is kept: where it can be, and what a process saves by it."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from ebama.cli import main
from ebama.runtime import allocator

FAULTS = """
import resource, sys
from ctypes import CDLL, c_size_t, c_void_p, memset
from ebama.runtime.allocator import keep_freed_memory

c = CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = c_void_p, (c_size_t,), (c_void_p,)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = c.malloc(2**26)
    memset(block, 1, 2**26)
    c.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

ordinary = [faults() for _ in range(3)][-1]
assert keep_freed_memory()
kept = [faults() for _ in range(3)][-1]
print(ordinary, kept)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_large_blocks_are_handed_out_again() -> None:
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    ordinary, kept = map(int, found.stdout.split())
    assert ordinary > 20 * (kept + 1)


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_keep_freed_memory_is_false_without_glibc(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def refuse(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert allocator.keep_freed_memory() is False


def test_the_command_line_asks_for_reuse_of_freed_blocks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[bool] = []
    monkeypatch.setattr("ebama.cli.keep_freed_memory", lambda: called.append(True))
    assert main(["methods"]) == 0
    assert called
    assert "ebama" in capsys.readouterr().out
