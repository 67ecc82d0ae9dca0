"""csrc/sampling.h alone: it compiles for CPU and GPU, matches the reference, and has no undefined behaviour."""

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from op_cases import assert_close

from mtm_ops import _build
from mtm_ops.reference import sample_columns

USE = """
#include "sampling.h"

template <class T>
MTM_HD void use(const SampleParams& p, int64_t n, const T* in, T* out) {
    const Row row = locate_row(p, n);
    Tap<T> tap;
    locate_tap_of_row(p, row, 0, 0, tap);
    T weight[4];
    first_order(tap, in[0], in, out[0], out[1], out[2]);
    tangent_weights(tap, in[0], in[1], in[2], in[3], weight);
    second_order(tap, in[0], in[1], in[2], in[3], in, weight, out[3], out[4], out[5]);
    out[6] = T(mask_index(p, row, 0, 0) + offset_index(p, row, 0, 0));
}
"""
CPU = (
    USE
    + """
template void use<float>(const SampleParams&, int64_t, const float*, float*);
template void use<double>(const SampleParams&, int64_t, const double*, double*);
int main() {}
"""
)
GPU = (
    USE
    + """
template <class T>
__global__ void kernel(SampleParams p, const T* in, T* out) { use<T>(p, blockIdx.x, in, out); }
template __global__ void kernel<float>(SampleParams, const float*, float*);
template __global__ void kernel<double>(SampleParams, const double*, double*);
"""
)
DRIVER = """
#include "sampling.h"

// One tap on an image of one channel. in: offset y, x, mask, g, ggy, ggx, ggm; x and gg_x are [H, W].
// out: the column, then gradients to y, x, mask, then second-order ones to y, x, mask and g.
extern "C" void one_tap(int64_t H, int64_t W, const double* in, const double* x, const double* gg_x, double* out) {
    SampleParams p{};
    p.C = p.Ho = p.Wo = p.kh = p.kw = p.stride_y = p.stride_x = p.dilation_y = p.dilation_x = p.groups = 1;
    p.H = H, p.W = W, p.offset = in;
    Tap<double> tap;
    locate_tap_of_row(p, locate_row(p, 0), 0, 0, tap);
    double seen[4], gg_seen[4], dot[4], dot_gg[4], weight[4];
    for (int i = 0; i < 4; i++) {
        seen[i] = tap.pixel[i] < 0 ? 0 : x[tap.pixel[i]];
        gg_seen[i] = tap.pixel[i] < 0 ? 0 : gg_x[tap.pixel[i]];
        dot[i] = in[3] * seen[i], dot_gg[i] = in[3] * gg_seen[i];
    }
    out[0] = in[2] * weighted_sum(tap.value, seen);
    first_order(tap, in[2], dot, out[1], out[2], out[3]);
    tangent_weights(tap, in[2], in[4], in[5], in[6], weight);
    second_order(tap, in[2], in[4], in[5], in[6], dot, dot_gg, out[4], out[5], out[6]);
    out[7] = in[2] * weighted_sum(tap.value, gg_seen) + weighted_sum(weight, seen);
}
"""
# Runs every kernel on every hostile offset under the sanitisers. Arrays have exactly the size they need.
SANITISED = """
#include "cpu.cpp"
#include <cstdio>
#include <limits>

template <class T, class Launch>
void run(int64_t B, int64_t C, int64_t H, int64_t W, int64_t kh, int64_t kw, int64_t G, bool masked, Launch launch) {
    const T inf = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
    const T hostile[] = {0, T(0.5), T(-0.5), -1, T(-0.999999), 1, T(1e9), T(-1e9), inf, -inf, nan, T(3e38), T(-3e38),
                         T(9.3e18), T(-9.3e18), T(H), T(H) - T(1e-6), T(W) - 1, T(1e-45)};
    const int64_t n = sizeof(hostile) / sizeof(T), taps = kh * kw, rows = B * H * W;
    std::vector<T> x(B * H * W * C, T(1)), offset(2 * G * taps * rows), mask(G * taps * rows, T(0.5));
    for (size_t i = 0; i < offset.size(); i++) offset[i] = hostile[(i * 7 + i / n) % n];
    std::vector<T> grad_x(x), grad_offset(offset.size()), grad_mask(mask.size()), gg_offset(offset.size(), T(1));
    SampleParams p{};
    p.C = C, p.H = H, p.W = W, p.Ho = H, p.Wo = W, p.kh = kh, p.kw = kw, p.stride_y = p.stride_x = 1;
    p.padding_y = kh / 2, p.padding_x = kw / 2, p.dilation_y = p.dilation_x = 1, p.groups = G;
    p.x = p.gg_x = x.data(), p.offset = offset.data(), p.grad_x = grad_x.data(), p.grad_offset = grad_offset.data();
    p.gg_offset = gg_offset.data();
    if (masked) p.mask = p.gg_mask = mask.data(), p.grad_mask = grad_mask.data();
    for (int64_t begin = 0, step = 5; begin < rows; begin += step) {
        p.row_begin = begin, p.row_end = std::min(rows, begin + step);
        const int64_t count = p.row_end - begin;
        std::vector<T> columns(count * taps * C, T(1));
        p.columns = columns.data();
        launch(p);
        for (const T v : columns) if (!std::isfinite(v)) { std::puts("a column is not finite"); std::exit(1); }
    }
    for (const auto* all : {&grad_x, &grad_offset, &grad_mask})
        for (const T v : *all) if (!std::isfinite(v)) { std::puts("a gradient is not finite"); std::exit(1); }
}

int main() {
    const int64_t shapes[][6] = {{1, 1, 1, 1, 1, 1}, {2, 3, 4, 5, 3, 2}, {3, 257, 2, 3, 1, 3}, {2, 6, 3, 3, 3, 3}};
    for (const auto& s : shapes)
        for (int64_t G : {int64_t(1), s[1]})
            for (bool masked : {false, true}) {
                const auto all32 = [](const SampleParams& p) {
                    launch_gather_f32(&p), launch_backward_f32(&p), launch_double_backward_f32(&p);
                };
                const auto all64 = [](const SampleParams& p) {
                    launch_gather_f64(&p), launch_backward_f64(&p), launch_double_backward_f64(&p);
                };
                run<float>(s[0], s[1], s[2], s[3], s[4], s[5], G, masked, all32);
                run<double>(s[0], s[1], s[2], s[3], s[4], s[5], G, masked, all64);
            }
    for (int64_t rows : {1, 15, 16, 17, 40})
        for (int64_t columns : {1, 15, 16, 17, 40}) {
            std::vector<float> in(2 * rows * columns, 1.0f), out(in.size());
            launch_transpose_f32(in.data(), out.data(), 2, rows, columns);
            for (const float v : out) if (v != 1) return 1;
        }
    std::puts("fine");
}
"""


@pytest.fixture(scope="module")
def compiler() -> tuple[str, ...]:
    found = _build.find_compiler()
    if found is None:
        pytest.skip("no C++ compiler")
    return found


def compile_text(compiler: tuple[str, ...], text: str, target: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    suffix = ".cu" if Path(compiler[0]).name == "nvcc" else ".cpp"
    source = target.with_name(target.stem + "_source" + suffix)
    source.write_text(text)
    command = [*compiler, "-std=c++17", f"-I{_build.CSRC}", *flags, str(source), "-o", str(target)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("standard", ["-std=c++17", "-std=c++20"])
def test_compiles_alone_without_a_warning(standard, compiler, tmp_path):
    flags = ("-Wall", "-Wextra", "-Werror", "-Wpedantic", "-Wshadow", standard)
    done = compile_text(compiler, CPU, tmp_path / "alone", *flags)
    assert done.returncode == 0, done.stderr


def test_kernels_compile_without_a_warning(compiler, tmp_path):
    done = compile_text(
        compiler,
        '#include "cpu.cpp"\n',
        tmp_path / "k.o",
        "-c",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fopenmp-simd",
        "-Wno-unknown-pragmas",
    )
    assert done.returncode == 0, done.stderr


def test_compiles_for_gpus_from_turing_to_blackwell(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not on PATH")
    codes = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (75, 80, 90, 120)]
    done = compile_text((nvcc,), GPU, tmp_path / "gpu.o", "-c", "-Werror", "all-warnings", *codes)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def one_tap(compiler, tmp_path_factory):
    target = tmp_path_factory.mktemp("driver") / "driver.so"
    done = compile_text(compiler, DRIVER, target, "-O2", "-fPIC", "-shared")
    assert done.returncode == 0, done.stderr
    function = ctypes.CDLL(str(target)).one_tap

    def call(values: torch.Tensor, x: torch.Tensor, gg_x: torch.Tensor) -> torch.Tensor:
        out = torch.full((8,), float("nan"), dtype=torch.float64)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (values, x, gg_x, out)]
        function(ctypes.c_int64(x.shape[0]), ctypes.c_int64(x.shape[1]), *pointers)
        return out

    return call


def by_autograd(values: torch.Tensor, x: torch.Tensor, gg_x: torch.Tensor) -> torch.Tensor:
    """What one_tap must compute, from the reference's sampling and two autograd derivatives."""
    offset = values[:2].clone().view(1, 2, 1, 1).requires_grad_()
    mask = values[2:3].clone().view(1, 1, 1, 1).requires_grad_()
    g = values[3:4].clone().view(1, 1, 1, 1).requires_grad_()
    image = x.clone().view(1, 1, *x.shape).requires_grad_()
    # The kernel computes one output pixel; with this stride, the convolution's output on a larger image is one pixel.
    stride = (x.shape[0], x.shape[1])
    column = sample_columns(image, offset, mask, (1, 1), stride, (0, 0), (1, 1))
    to_x, to_offset, to_mask = torch.autograd.grad(column, (image, offset, mask), g, create_graph=True)
    scalar = (
        (to_x.flatten() * gg_x.flatten()).sum()
        + (to_offset.flatten() * values[4:6]).sum()
        + (to_mask * values[6]).sum()
    )
    again = torch.autograd.grad(scalar, (offset, mask, g))
    return torch.cat([t.detach().flatten() for t in (column, to_offset, to_mask, *again)])


def test_every_weight_is_the_references(one_tap):
    g = torch.Generator().manual_seed(0)
    places = [-1.5, -1.0, -0.75, -1e-9, 0.0, 0.3, 1.0, 1.999, 2.0, 2.5, 3.0, 3.25, 4.0, 1e9, float("nan"), float("inf")]
    x, gg_x = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
    for y_px, x_px in itertools.product(places, places):
        rest = torch.randn(5, generator=g, dtype=torch.float64)
        values = torch.cat([torch.tensor([y_px, x_px], dtype=torch.float64), rest])
        got, want = one_tap(values, x, gg_x), by_autograd(values, x, gg_x)
        assert got.isfinite().all(), (y_px, x_px)
        if want.any():
            assert_close(got, want, torch.float64, str((y_px, x_px)))
        else:
            assert not got.any(), (y_px, x_px)


def test_no_kernel_reads_or_writes_outside_or_does_what_is_undefined(compiler, tmp_path):
    flags = ("-g", "-O1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
    target = tmp_path / "sanitised"
    if compile_text(compiler, "int main() {}\n", target, *flags).returncode:
        pytest.skip("the compiler has no sanitisers")
    done = compile_text(compiler, SANITISED, target, *flags)
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([str(target)], capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout) == (0, "fine\n"), ran.stdout + ran.stderr[-3000:]
