"""The fused peak of smoothed maps: against plain loops, against pad + conv2d + amax, and its edges."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ebama import kernels, smoothing
from ebama.smoothing import gaussian_peak, gaussian_smooth

KERNELS = (1, 3, 5, 7)


@pytest.fixture(params=["peak.c", "torch"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Once with the compiled kernel, once as if there were no compiler."""
    if request.param == "torch":
        monkeypatch.setattr(smoothing, "_kernel", lambda dtype, device: None)
    elif smoothing._kernel(torch.float32, torch.device("cpu")) is None:
        pytest.skip("peak.c needs a C compiler, and EBAMA_NATIVE not to be 0")
    smoothing._matrices.cache_clear()
    yield
    smoothing._matrices.cache_clear()


either_way_too = pytest.mark.usefixtures("either_way")


def maps_of(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gaussian(kernel_size: int, sigma: float) -> list[float]:
    raw = [math.exp(-((i - kernel_size // 2) ** 2) / (2 * sigma**2)) for i in range(kernel_size)]
    return [value / sum(raw) for value in raw]


def reflected(i: int, size: int) -> int:
    return -i if i < 0 else 2 * (size - 1) - i if i >= size else i


def looped(plane: Tensor, kernel_size: int, sigma: float) -> tuple[float, Tensor]:
    """Value and gradient for one map [h, w], pixel by pixel and tap by tap."""
    (h, w), line, r = plane.shape, gaussian(kernel_size, sigma), kernel_size // 2
    best, gradient = -math.inf, torch.zeros(h, w, dtype=torch.float64)
    for y in range(h):
        for x in range(w):
            total, here = 0.0, torch.zeros(h, w, dtype=torch.float64)
            for i, vertical in enumerate(line):
                for j, horizontal in enumerate(line):
                    source = reflected(y + i - r, h), reflected(x + j - r, w)
                    total += vertical * horizontal * float(plane[source])
                    here[source] += vertical * horizontal
            if total > best:
                best, gradient = total, here
    return best, gradient


def convolved(maps: Tensor, kernel_size: int, sigma: float) -> Tensor:
    line = torch.tensor(gaussian(kernel_size, sigma), dtype=maps.dtype)
    padded = F.pad(maps.reshape(-1, 1, *maps.shape[-2:]), (kernel_size // 2,) * 4, mode="reflect")
    return F.conv2d(padded, torch.outer(line, line)[None, None]).amax((-2, -1)).view(maps.shape[:-2])


def with_gradient(maps: Tensor, *arguments: object, peak: object = gaussian_peak) -> tuple[Tensor, Tensor]:
    maps = maps.detach().requires_grad_()
    values = peak(maps, *arguments)  # type: ignore[operator]
    slopes = 1 + torch.arange(values.numel(), dtype=values.dtype).view(values.shape)
    return values.detach(), torch.autograd.grad(values, maps, slopes)[0]


@either_way_too
@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize("sigma", [0.25, 0.5**0.5, 4.0])
def test_equals_plain_loops(kernel_size: int, sigma: float) -> None:
    maps = maps_of(2, 5, 8)
    values, gradients = with_gradient(maps, kernel_size, sigma)
    for i, plane in enumerate(maps):
        value, gradient = looped(plane, kernel_size, sigma)
        assert float(values[i]) == pytest.approx(value, rel=1e-13)
        torch.testing.assert_close(gradients[i], (i + 1) * gradient, rtol=1e-12, atol=1e-15)


def test_default_kernel() -> None:
    """An impulse in the middle of a map leaves the square of the central weight, and its gradient is the kernel."""
    impulse = torch.zeros(1, 7, 7, dtype=torch.float64)
    impulse[0, 3, 3] = 1
    value, gradient = with_gradient(impulse)
    assert float(value) == pytest.approx(0.331911, abs=1e-6)
    line = torch.tensor([0.211942, 0.576117, 0.211942], dtype=torch.float64)
    torch.testing.assert_close(gradient[0, 2:5, 2:5], torch.outer(line, line), rtol=0, atol=1e-6)
    assert int(gradient.count_nonzero()) == 9


@either_way_too
@pytest.mark.parametrize("shape", [(16, 16), (4, 31), (40, 40)])  # the last is beyond the table of filters
@pytest.mark.parametrize("kernel_size", KERNELS)
def test_equals_pad_conv2d_amax(shape: tuple[int, int], kernel_size: int) -> None:
    maps = maps_of(5, 3, *shape)  # pooling takes eight maps (float32) or four at a time, and the rest one by one
    theirs = with_gradient(maps, kernel_size, 1.3, peak=convolved)
    for ours, other in zip(with_gradient(maps, kernel_size, 1.3), theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-14)
    for ours, other in zip(with_gradient(maps.float(), kernel_size, 1.3), theirs, strict=True):
        torch.testing.assert_close(ours.double(), other, rtol=1e-5, atol=1e-6)


@either_way_too
@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize("shape", [(2, 4, 6), (6, 5), (1, 2, 33, 33)])
def test_gradcheck(shape: tuple[int, ...], kernel_size: int) -> None:
    maps = maps_of(*shape).requires_grad_()
    fast = shape[-1] == 33
    assert torch.autograd.gradcheck(
        lambda m: gaussian_peak(m, kernel_size),
        maps,
        fast_mode=fast,
        check_forward_ad=True,
        check_batched_grad=not fast,
    )
    assert torch.autograd.gradgradcheck(lambda m: gaussian_peak(m, kernel_size).square(), maps, fast_mode=True)


@either_way_too
@pytest.mark.parametrize(("y", "x"), [(0, 0), (0, 6), (4, 0), (4, 6), (0, 3), (2, 6), (2, 3)])
def test_borders_fold_the_gradient_back(y: int, x: int) -> None:
    maps = torch.zeros(1, 5, 7, dtype=torch.float64)
    maps[0, y, x] = 1
    # An impulse beside a border is smoothed highest on itself; its gradient keeps the mass of the folded taps.
    _, gradient = with_gradient(maps)
    _, expected = looped(maps[0], 3, 0.5**0.5)
    torch.testing.assert_close(gradient[0], expected)
    assert float(gradient.sum()) == pytest.approx(1)
    assert int(gradient.count_nonzero()) == (3 - (y in (0, 4))) * (3 - (x in (0, 6)))


@either_way_too
@pytest.mark.parametrize(("first", "second"), [((3, 10), (10, 3)), ((3, 4), (3, 10)), ((2, 4), (12, 4))])
@pytest.mark.parametrize("size", [16, 40])
@pytest.mark.parametrize("count", [1, 11])
def test_ties_go_to_the_first_pixel_in_row_major_order(
    first: tuple[int, int], second: tuple[int, int], size: int, count: int
) -> None:
    alone = torch.zeros(count, size, size)
    alone[(slice(None), *first)] = 1
    both = alone.clone()
    both[(slice(None), *second)] = 1
    for one, two in zip(with_gradient(alone), with_gradient(both), strict=True):
        assert torch.equal(one, two)


@either_way_too
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("count", [3, 19])
def test_a_map_that_is_not_finite_gives_nan_and_spoils_no_other(bad: float, count: int) -> None:
    maps = maps_of(count, 16, 16, dtype=torch.float32)
    clean = gaussian_peak(maps)
    maps[1, 4, 9] = bad
    spoilt = gaussian_peak(maps)
    assert spoilt[1].isnan()
    others = torch.arange(count) != 1
    assert torch.equal(spoilt[others], clean[others])


@either_way_too
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    maps = (50000 * maps_of(3, 16, 16)).to(dtype)
    values, gradients = with_gradient(maps)
    exact_values, exact_gradients = with_gradient(maps.float())
    assert values.dtype == gradients.dtype == dtype
    assert torch.equal(values, exact_values.to(dtype))
    torch.testing.assert_close(gradients, exact_gradients.to(dtype))


@either_way_too
def test_autocast_changes_nothing() -> None:
    maps = maps_of(64, 16, 16, dtype=torch.float32)
    expected = with_gradient(maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = with_gradient(maps)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


@either_way_too
def test_any_leading_dimensions_and_strides() -> None:
    maps = maps_of(2, 3, 8, 12)
    expected = gaussian_peak(maps.view(6, 8, 12))
    assert torch.equal(gaussian_peak(maps), expected.view(2, 3))
    assert torch.equal(gaussian_peak(maps[0, 0]), expected[0])
    keys_last = maps.permute(0, 2, 3, 1).contiguous()
    assert torch.equal(gaussian_peak(keys_last.permute(0, 3, 1, 2)), expected.view(2, 3))
    assert torch.equal(gaussian_peak(keys_last[0].permute(2, 0, 1)), expected[:3])
    assert gaussian_peak(torch.empty(0, 8, 12)).shape == (0,)
    assert gaussian_peak(torch.empty(2, 0, 8, 12)).shape == (2, 0)


@either_way_too
def test_a_batch_equals_one_by_one_and_repeats_itself() -> None:
    maps = maps_of(32, 16, 16, dtype=torch.float32)
    values, gradients = with_gradient(maps)
    for one, other in zip(with_gradient(maps), (values, gradients), strict=True):
        assert torch.equal(one, other)
    for i, plane in enumerate(maps):
        torch.testing.assert_close(gaussian_peak(plane), values[i], rtol=1e-6, atol=0)


@either_way_too
def test_a_first_call_in_inference_mode_does_not_spoil_later_gradients() -> None:
    maps, sigma = maps_of(2, 9, 9), 0.77  # a sigma of its own, so that nothing is kept for it yet
    with torch.inference_mode():
        first = gaussian_peak(maps, 3, sigma)
    values, gradients = with_gradient(maps, 3, sigma)
    assert torch.equal(first, values)
    assert gradients.any()


@either_way_too
def test_function_transforms() -> None:
    """torch.func, for one map a call and for all of them at once, and what it differentiates twice."""
    maps = maps_of(9, 6, 7)
    values, gradients = with_gradient(maps)
    gradients /= torch.arange(1, 10)[:, None, None]
    torch.testing.assert_close(torch.func.vmap(gaussian_peak)(maps), values)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(gaussian_peak))(maps), gradients)
    torch.testing.assert_close(torch.func.grad(lambda m: gaussian_peak(m).sum())(maps), gradients)
    _, slopes = torch.func.jvp(gaussian_peak, (maps,), (maps,))
    torch.testing.assert_close(slopes, values)  # the peak is linear in a map until another pixel takes over
    hessian = torch.func.hessian(lambda m: gaussian_peak(m).square())(maps[0])
    torch.testing.assert_close(hessian, 2 * gradients[0][:, :, None, None] * gradients[0])


@either_way_too
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.hessian, torch.func.vmap])
def test_a_first_call_within_a_transform_spoils_nothing(transform: Callable[..., Callable[..., Tensor]]) -> None:
    maps = maps_of(2, 7, 9) if transform is torch.func.vmap else maps_of(7, 9)
    transformed = transform(gaussian_peak)(maps)  # nothing is kept for maps of this size
    values, gradients = with_gradient(maps)
    assert values.isfinite().all()
    assert gradients.any()
    torch.testing.assert_close(transform(gaussian_peak)(maps), transformed)


@either_way_too
def test_a_first_call_in_fake_mode_spoils_nothing() -> None:
    with FakeTensorMode():
        assert gaussian_peak(torch.rand(2, 7, 9)).shape == (2,)
    values, gradients = with_gradient(maps_of(2, 7, 9, dtype=torch.float32))
    assert values.isfinite().all()
    assert gradients.any()


@either_way_too
def test_slopes_that_share_one_number() -> None:
    maps = maps_of(5, 16, 16).requires_grad_()
    gaussian_peak(maps).sum().backward()  # the sum hands back one 1, repeated with stride 0
    (gradients,) = torch.autograd.grad(gaussian_peak(maps), maps, torch.ones(5, dtype=maps.dtype))
    assert torch.equal(maps.grad, gradients)  # type: ignore[arg-type]


def test_what_is_not_plain_memory_goes_through_torch() -> None:
    maps = maps_of(3, 8, 9)
    torch.testing.assert_close(gaussian_peak(torch._neg_view(-maps)), gaussian_peak(maps))
    recorded = make_fx(lambda maps: gaussian_peak(maps))(maps)
    others = maps_of(3, 8, 9, seed=1)
    torch.testing.assert_close(recorded(others), gaussian_peak(others))


def test_deterministic_algorithms_are_enough() -> None:
    maps = maps_of(64, 16, 16, dtype=torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        for one, other in zip(with_gradient(maps), with_gradient(maps), strict=True):
            assert torch.equal(one, other)
    finally:
        torch.use_deterministic_algorithms(False)


def test_operator_hands_out_the_place_of_the_peak_and_its_rows() -> None:
    maps = torch.zeros(4, 5, 7, dtype=torch.float64)
    maps[0, 2, 3] = maps[1, 4, 6] = 1
    maps[2, 0, 0], maps[3, 1, 1] = math.nan, math.inf
    pixels, vertical, horizontal = torch.ops.ebama.peak(maps.requires_grad_(), 3, 0.5**0.5)
    assert pixels.tolist() == [2 * 7 + 3, 4 * 7 + 6, 35, 35]  # h * w for a map that is not finite
    assert not vertical.requires_grad
    assert not horizontal.requires_grad
    side, middle, _ = gaussian(3, 0.5**0.5)
    expected = torch.tensor([[0, side, middle, side, 0], [0, 0, 0, 2 * side, middle]], dtype=torch.float64)
    torch.testing.assert_close(vertical[:2], expected)
    expected = torch.tensor([[side, middle, side, 0, 0], [0, 0, 0, 2 * side, middle]], dtype=torch.float64)
    torch.testing.assert_close(horizontal[:2, 2:], expected)
    assert vertical[2:].isnan().all()


@pytest.mark.slow
@either_way_too
@pytest.mark.parametrize("requires_grad", [False, True])
def test_operator_passes_the_checks_of_torch(requires_grad: bool) -> None:
    maps = maps_of(3, 8, 9).requires_grad_(requires_grad)
    torch.library.opcheck(torch.ops.ebama.peak.default, (maps, 3, 0.7))


def test_meta_tensors() -> None:
    assert gaussian_peak(torch.empty(2, 3, 8, 9, device="meta")).shape == (2, 3)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("transform", [torch.func.vmap, lambda peak: torch.func.vmap(torch.func.grad(peak))])
def test_transforms_are_recorded(mode: str, transform: Callable[..., Callable[..., Tensor]]) -> None:
    peaks = transform(lambda plane: gaussian_peak(plane))
    others = maps_of(3, 8, 9, seed=1)
    torch.testing.assert_close(make_fx(peaks, tracing_mode=mode)(maps_of(3, 8, 9))(others), peaks(others))


def test_maps_are_batched_along_any_dimension() -> None:
    maps = maps_of(2, 3, 8, 9)
    expected = gaussian_peak(maps)
    torch.testing.assert_close(torch.func.vmap(torch.func.vmap(gaussian_peak))(maps), expected)
    torch.testing.assert_close(torch.func.vmap(gaussian_peak, in_dims=3)(maps.permute(0, 2, 3, 1)), expected.T)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_exported_with_any_sizes(strict: bool) -> None:
    class Peak(torch.nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return gaussian_peak(maps, 3, 0.7)

    sizes = {name: torch.export.Dim(name, min=2) for name in ("n", "h", "w")}
    shapes = {"maps": dict(enumerate(sizes.values()))}
    exported = torch.export.export(Peak(), (maps_of(3, 8, 9),), dynamic_shapes=shapes, strict=strict)
    maps = maps_of(5, 12, 7)
    torch.testing.assert_close(exported.module()(maps), gaussian_peak(maps, 3, 0.7))


def test_numbers_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    maps = maps_of(2, 8, 9)
    assert torch.equal(gaussian_peak(maps, numpy.int64(5), numpy.float32(0.75)), gaussian_peak(maps, 5, 0.75))
    assert torch.equal(gaussian_smooth(maps, numpy.int64(5), numpy.float32(0.75)), gaussian_smooth(maps, 5, 0.75))


def test_kernel_that_finds_other_pixels_is_dropped_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(maps: Tensor, *_: object) -> Tensor:
        return torch.zeros(len(maps), dtype=torch.int64)

    def broken(*_: object) -> Tensor:
        raise RuntimeError("CUDA reports error 1.")

    maps = maps_of(2, 8, 9)
    expected = gaussian_peak(maps)
    for kernel in (wrong, broken):
        monkeypatch.setattr(kernels, "peak_kernel", lambda dtype, device, kernel=kernel: kernel)
        monkeypatch.setattr(smoothing, "_kernel", cache(smoothing._kernel.__wrapped__))
        with pytest.warns(UserWarning, match="kernel for torch.float64 on cpu fails its check") as warned:
            values = [gaussian_peak(maps) for _ in range(2)]
        assert all(torch.equal(value, expected) for value in values)
        assert len(warned) == 1


def test_threads_find_the_same_peaks() -> None:
    maps = [maps_of(3, 8 + i % 5, 9, seed=i) for i in range(40)]
    expected = [gaussian_peak(one, 3, 0.9) for one in maps]
    smoothing._matrices.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(lambda one: gaussian_peak(one, 3, 0.9), maps), expected, strict=True):
            assert torch.equal(one, other)


def compile_matches(backend: str) -> None:
    """Without a graph break, for several sizes, counts and sigmas, each with its gradient."""
    torch.compiler.reset()
    compiled = torch.compile(gaussian_peak, backend=backend, fullgraph=True)
    for shape, sigma in [((2, 16, 16), 0.7), ((64, 16, 16), 0.7), ((2, 3, 8, 12), 0.7), ((2, 40, 40), 1.5)]:
        maps = maps_of(*shape, dtype=torch.float32)
        compiled_values = with_gradient(maps, 3, sigma, peak=compiled)
        for one, other in zip(compiled_values, with_gradient(maps, 3, sigma), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_traced_without_a_graph_break() -> None:
    compile_matches("aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="generating code needs a C++ compiler")
def test_compiled() -> None:
    compile_matches("inductor")


@pytest.mark.parametrize(
    ("maps", "arguments", "error", "message"),
    [
        (torch.zeros(2, 16, 16, dtype=torch.int64), (), TypeError, "maps are torch.int64; .* expects real floating"),
        (torch.zeros(4, 2, 16, 16, dtype=torch.bool), (), TypeError, "maps are torch.bool"),
        (torch.zeros(16, 16, dtype=torch.complex64), (), TypeError, "maps are torch.complex64"),
        (np.zeros((16, 16)), (), TypeError, "maps are a ndarray"),
        ([[0.0]], (), TypeError, "maps are a list"),
        (torch.zeros(2, 16, 16), (4,), ValueError, "kernel_size is 4; expected a positive odd integer"),
        (torch.zeros(2, 16, 16), (-1,), ValueError, "kernel_size is -1"),
        (torch.zeros(2, 16, 16), (3.5,), ValueError, r"kernel_size is 3\.5"),
        (torch.zeros(2, 16, 16), (3, 0.0), ValueError, r"sigma is 0\.0; expected a positive number"),
        (torch.zeros(2, 16, 16), (3, math.nan), ValueError, "sigma is nan"),
        (torch.zeros(2, 16, 16), (3, math.inf), ValueError, "sigma is inf"),
        (torch.zeros(2, 16, 16), (3, torch.tensor(0.7)), ValueError, r"sigma is tensor\(0\.7000\)"),
        (torch.zeros(2, 16, 16), (3, True), ValueError, "sigma is True"),
        (torch.zeros(2, 16, 16), (3, "0.7"), ValueError, r"sigma is '0\.7'"),
        (torch.zeros(2, 16, 16), (torch.tensor(3),), ValueError, r"kernel_size is tensor\(3\)"),
        (torch.zeros(2, 16, 16), (True,), ValueError, "kernel_size is True"),
        (torch.zeros(2, 16, 16), ("3",), ValueError, "kernel_size is '3'"),
        (torch.zeros(16), (), ValueError, r"maps have shape \[16\]; expected \[..., h, w\]"),
        (torch.zeros(2, 1, 16), (), ValueError, "maps are 1 x 16; a kernel of size 3 .* at least 2 x 2"),
        (torch.zeros(16, 3), (7,), ValueError, "maps are 16 x 3; a kernel of size 7 .* at least 4 x 4"),
        (torch.zeros(2, 0, 16), (), ValueError, "maps are 0 x 16"),
    ],
)
def test_errors(maps: Tensor, arguments: tuple[float, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gaussian_peak(maps, *arguments)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        gaussian_smooth(maps, *arguments)  # type: ignore[arg-type]


@either_way_too
def test_the_smallest_maps_that_can_be_reflected() -> None:
    for kernel_size, size in ((1, 1), (3, 2), (5, 3), (7, 4), (9, 5)):
        plane = maps_of(size, size)
        value, gradient = looped(plane, kernel_size, 1.0)
        ours, slope = with_gradient(plane, kernel_size, 1.0)
        assert float(ours) == pytest.approx(value, rel=1e-13)
        torch.testing.assert_close(slope, gradient, rtol=1e-12, atol=1e-15)


@either_way_too
def test_extreme_sigmas() -> None:
    plane = maps_of(6, 6)
    for dtype, sigma in itertools.product((torch.float64, torch.float32), (1e-200, 1e-30, 1e-4, 1e-3)):
        assert float(gaussian_peak(plane.to(dtype), 3, sigma)) == float(plane.to(dtype).max())
    box = F.avg_pool2d(F.pad(plane[None, None], (1, 1, 1, 1), mode="reflect"), 3, stride=1).max()
    torch.testing.assert_close(gaussian_peak(plane, 3, 1e9), box)
