"""peak.cu: compiled by NVRTC where it is installed, run by an emulation of blocks and threads, and on a GPU."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ebama import smoothing
from ebama.kernels import nvrtc
from ebama.smoothing import gaussian_peak

SOURCE = Path(nvrtc.__file__).with_name("peak.cu")
REALS = {"float": torch.float32, "double": torch.float64}


@pytest.fixture(scope="module", params=[("float", 32), ("double", 16)], ids=str)
def emulated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[nvrtc.PeakKernel, torch.dtype]]:
    """The kernel as nvrtc.py loads and launches it, by functions of the driver that run its source on the CPU."""
    compiler, (real, threads) = shutil.which("c++"), request.param
    if compiler is None:
        pytest.skip("the emulation of a GPU needs a C++ compiler")
    library = tmp_path_factory.mktemp("gpu") / "driver.so"
    macros = [f"-Dreal={real}", f"-DTHREADS={threads}", f'-DKERNEL="{SOURCE}"']
    emulation = Path(__file__).with_name("emulated_gpu.cpp")
    command = [compiler, "-std=c++17", "-shared", "-fPIC", "-pthread", *macros, str(emulation), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvrtc, "THREADS", threads)
        yield nvrtc.load(ctypes.CDLL(str(library)), 0, b"code", lambda: 0), REALS[real]


def random_maps(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.slow
def test_emulated_kernel_agrees_with_plain_torch_on_the_fixed_maps(
    emulated: tuple[nvrtc.PeakKernel, torch.dtype],
) -> None:
    kernel, dtype = emulated
    assert smoothing._agrees(kernel, dtype, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 16, 16), (2, 4, 31), (2, 40, 33), (0, 8, 8), (5, 5, 4)])
def test_emulated_kernel_finds_the_peaks_of_random_maps(
    emulated: tuple[nvrtc.PeakKernel, torch.dtype], shape: tuple[int, int, int], kernel_size: int
) -> None:
    kernel, dtype = emulated
    maps = random_maps(*shape, dtype=dtype, seed=sum(shape))
    vertical, horizontal, _ = smoothing._matrices(*shape[1:], kernel_size, 0.9, dtype, maps.device)
    pixels = kernel(maps, vertical, horizontal, kernel_size // 2)
    smoothed = (vertical @ maps @ horizontal.T).flatten(1)
    torch.testing.assert_close(smoothed.gather(1, pixels[:, None])[:, 0], smoothed.amax(1), rtol=1e-6, atol=0)


@pytest.mark.slow
def test_emulated_kernel_takes_the_first_pixel_of_a_tie_and_tells_maps_that_are_not_finite(
    emulated: tuple[nvrtc.PeakKernel, torch.dtype],
) -> None:
    kernel, dtype = emulated
    maps = torch.zeros(6, 16, 16, dtype=dtype)
    maps[0, 3, 10] = maps[0, 10, 3] = maps[1, 12, 4] = maps[1, 2, 4] = 1
    maps[2] = -random_maps(16, 16, dtype=dtype) - 1
    maps[3, 15, 15], maps[4, 0, 0], maps[5, 7, 7] = float("nan"), float("inf"), float("-inf")
    vertical, horizontal, _ = smoothing._matrices(16, 16, 3, 0.5**0.5, dtype, maps.device)
    pixels = kernel(maps.transpose(1, 2).contiguous().transpose(1, 2), vertical, horizontal, 1).tolist()
    highest = int((vertical @ maps[2] @ horizontal.T).argmax())
    assert pixels == [3 * 16 + 10, 2 * 16 + 4, highest, 256, 256, 256]


def test_gaussian_peak_through_the_emulated_kernel(
    emulated: tuple[nvrtc.PeakKernel, torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, dtype = emulated
    maps = random_maps(2, 3, 9, 12, dtype=dtype).requires_grad_()
    expected = gaussian_peak(maps)
    monkeypatch.setattr(smoothing, "_kernel", lambda dtype, device: kernel)
    actual = gaussian_peak(maps)
    assert torch.equal(actual, expected)
    (gradient,) = torch.autograd.grad(actual.sum(), maps)
    assert torch.equal(gradient, torch.autograd.grad(expected.sum(), maps)[0])


def test_errors_of_the_driver_are_raised(emulated: tuple[nvrtc.PeakKernel, torch.dtype]) -> None:
    kernel, dtype = emulated
    with pytest.raises(RuntimeError, match=r"CUDA reports error 101\."):
        nvrtc.load(kernel.driver, 7, b"code", kernel.stream)
    strange = dataclasses.replace(kernel, function=ctypes.c_void_p(1))
    square = torch.eye(4, dtype=dtype)
    with pytest.raises(RuntimeError, match=r"CUDA reports error 1\."):
        strange(square[None], square, square, 0)
    assert kernel(square[None], square, square, 0).tolist() == [0]  # no context was left behind


@pytest.mark.parametrize("real", list(REALS))
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90"])
def test_nvrtc_compiles_the_kernel(real: str, architecture: str) -> None:
    try:
        code = nvrtc.compile_source("peak.cu", architecture, real=real, THREADS="128")
    except OSError as error:
        pytest.skip(str(error))
    assert code.startswith(b"\x7fELF")
    assert b"peak" in code


def test_nvrtc_says_what_is_wrong_with_a_source() -> None:
    try:
        with pytest.raises(RuntimeError, match=r'cannot compile peak.cu for sm_80: .*"no_such_type" is undefined'):
            nvrtc.compile_source("peak.cu", "sm_80", real="no_such_type", THREADS="128")
    except OSError as error:
        pytest.skip(str(error))


def test_no_kernel_without_nvidia_gpu_or_when_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert nvrtc.peak_kernel("float", device) is None
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (1, 0))  # no NVRTC, or none that old
    assert nvrtc.peak_kernel("float", device) is None
    monkeypatch.setenv("EBAMA_NATIVE", "0")
    assert nvrtc.peak_kernel("float", device) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA")
@pytest.mark.parametrize("dtype", list(REALS.values()))
def test_on_a_gpu(dtype: torch.dtype) -> None:
    maps = random_maps(64, 16, 16, dtype=dtype).requires_grad_()
    assert smoothing._kernel(dtype, torch.device("cuda", 0)) is not None
    on_gpu = maps.detach().to("cuda:0").requires_grad_()
    expected, actual = gaussian_peak(maps), gaussian_peak(on_gpu)
    torch.testing.assert_close(actual.cpu(), expected)
    (gradient,) = torch.autograd.grad(actual.sum(), on_gpu)
    torch.testing.assert_close(gradient.cpu(), torch.autograd.grad(expected.sum(), maps)[0])
