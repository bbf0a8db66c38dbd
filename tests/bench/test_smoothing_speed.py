"""The benchmark of the fused peak."""

from __future__ import annotations

import pytest
import torch

from ebama.bench import smoothing
from ebama.smoothing import gaussian_peak


@pytest.mark.slow
def test_prints_two_rows_for_each_count(capsys: pytest.CaptureFixture[str]) -> None:
    smoothing.main(counts=(2, 64), calls=1, seconds=0.01)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["maps", "2", "2", "64", "64"]


def test_convolution_gives_the_same_peaks() -> None:
    maps = torch.rand(3, 9, 12)
    torch.testing.assert_close(smoothing.convolved_peak(maps), gaussian_peak(maps), rtol=1e-6, atol=0)
