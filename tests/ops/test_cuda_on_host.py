"""csrc/cuda.cu without a GPU: its kernels, run on the CPU lane by lane, give what the CPU kernels give.

cuda_on_host.h stands for CUDA. So indices, weights, reductions and launch shapes are tested here; types of 16 bits, the
memory model and speed need a GPU: tests/gpu.
"""

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import Case, assert_close, first_order, sample_inputs, second_order

from mtm_ops import _build, _native

FLAGS = "-std=c++20 -O1 -fPIC -shared -pthread -x c++".split()
HOST = """
#include "cuda_on_host.h"
#include "cuda.cu"
extern "C" int64_t count_atomics() { return atomics; }
"""
DRIVER = """
#include "launch.h"
extern "C" void shape_of(int64_t C, int64_t width, int64_t bytes, int64_t address, int64_t tasks, int32_t* out) {
    const LaunchShape s = choose_launch(C, width, bytes, uintptr_t(address), tasks);
    out[0] = s.vector, out[1] = s.team, out[2] = s.threads, out[3] = s.blocks;
}
"""
# (channels, groups). Widths of up to 4, 8, 16 and more vectors: every team; with and without vectors.
CHANNELS = [
    (1, 1),
    (3, 1),
    (6, 2),
    (7, 1),
    (8, 1),
    (8, 2),
    (13, 1),
    (24, 2),
    (24, 1),
    (40, 1),
    (40, 2),
    (130, 1),
    (132, 1),
]
FLOATS = [torch.float32, torch.float64]
SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
MAX_BLOCKS = 2**31 - 1  # of a CUDA grid


def build(text: str, target: Path) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not on PATH")
    folders = [f"-I{folder}" for folder in (_build.CSRC, Path(__file__).parent)]
    done = subprocess.run(
        [compiler, *FLAGS, *folders, "-", "-o", str(target)], input=text, capture_output=True, text=True
    )
    if done.returncode and "barrier: No such file" in done.stderr:
        pytest.skip("g++ has no <barrier> (C++20)")
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


@pytest.fixture(scope="session")
def host(tmp_path_factory) -> ctypes.CDLL:
    library = build(HOST, tmp_path_factory.mktemp("host") / "host.so")
    library.count_atomics.restype = ctypes.c_int64
    assert library.sample_params_size() == ctypes.sizeof(_native.SampleParams)
    return library


@pytest.fixture(scope="session")
def choose(tmp_path_factory):
    """(C, width, bytes, address, tasks) -> (vector, team, threads, blocks)."""
    library = build(DRIVER, tmp_path_factory.mktemp("driver") / "driver.so")

    def call(*numbers: int) -> tuple[int, ...]:
        out = (ctypes.c_int32 * 4)()
        library.shape_of(*map(ctypes.c_int64, numbers), out)
        return tuple(out)

    return call


@pytest.fixture
def on_host(host, monkeypatch) -> Iterator[None]:
    """The op's calls on CPU tensors go to the CUDA kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(_native, "launch", lambda *args: launch(host, *args))
        yield


def launch(library: ctypes.CDLL, name: str, storage: torch.dtype, device: torch.device, params) -> None:
    function = getattr(library, f"launch_{name}_{SUFFIX[storage]}")
    function.restype = ctypes.c_char_p
    assert function(ctypes.byref(params), None) is None


def hostile(case: Case) -> Case:
    """The case with NaN, infinity and a billion among its offsets."""
    offset = case.offset.clone()
    flat = offset.view(-1)
    for i, bad in enumerate((float("nan"), float("inf"), -float("inf"), 1e9, -1e9)):
        flat[i * 7 :: 61] = bad
    return Case(case.x, case.weight, offset, case.style, case.mask, case.options)


def misaligned(t: torch.Tensor) -> torch.Tensor:
    """Equal to t, one element off the allocator's alignment, so that vectors cannot be used."""
    room = t.new_empty(t.numel() + 1)
    return room[1:].view(t.shape).copy_(t)


def all_kernels(
    case: Case, deterministic: bool, rows: tuple[int, int], aligned: bool = True
) -> dict[str, torch.Tensor]:
    """What gather, backward and double_backward write for a range of rows, by the kernels that launch() goes to."""
    g = torch.Generator().manual_seed(5)

    def like(t: torch.Tensor) -> torch.Tensor:
        return torch.randn(t.shape, generator=g, dtype=torch.float64).to(t.dtype)

    options = case.options
    s = _native.Sampling(
        case.x,
        case.offset,
        case.mask,
        case.weight.shape[2:],
        options["stride"],
        options["padding"],
        options["dilation"],
    )
    s.params.deterministic = int(deterministic)
    place = (lambda t: t) if aligned else misaligned
    s.bind(x=place(s.tensors["x"]))
    out = torch.randn(rows[1] - rows[0], s.taps * s.C, generator=g, dtype=torch.float64).to(s.dtype)
    found = {"gather": s.gather(*rows, place(torch.full_like(out, torch.nan)))}
    s.bind_cotangents(like(case.x), like(case.offset), None if case.mask is None else like(case.mask))
    for name in ("backward", "double_backward"):
        s.bind_gradients()
        found[name] = getattr(s, name)(*rows, place(out.clone()))
        found |= {f"{name} {t}": s.tensors[t] for t in ("grad_x", "grad_offset", "grad_mask") if t in s.tensors}
    return found


def compare(host, monkeypatch, case: Case, deterministic: bool, rows: tuple[int, int], aligned: bool = True) -> None:
    want = all_kernels(case, deterministic, rows, aligned)
    with monkeypatch.context() as patch:
        patch.setattr(_native, "launch", lambda *args: launch(host, *args))
        got = all_kernels(case, deterministic, rows, aligned)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert value.isfinite().all(), name
        assert_close(got[name], value, case.x.dtype, name, 4)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("channels", "groups"), CHANNELS)
def test_kernels_give_what_the_cpus_give(channels, groups, dtype, host, monkeypatch):
    """Three images of six rows each, from inside the first to inside the last; hostile offsets."""
    case = hostile(sample_inputs(B=3, C=channels, O=2, groups=groups, mask=channels % 2 == 0, dtype=dtype))
    compare(host, monkeypatch, case, False, (4, 14))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
def test_the_kernel_without_atomics_gives_what_the_cpus_give(mask, dtype, host, monkeypatch):
    for channels, groups in ((1, 1), (6, 2), (130, 1)):
        case = hostile(sample_inputs(B=3, C=channels, O=2, groups=groups, mask=mask, dtype=dtype))
        compare(host, monkeypatch, case, True, (4, 14))


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "deterministic"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_misaligned_tensors_go_without_vectors_and_agree(dtype, deterministic, host, monkeypatch):
    for channels in (8, 24):
        case = sample_inputs(B=2, C=channels, O=2, dtype=dtype)
        compare(host, monkeypatch, case, deterministic, (0, 12), aligned=False)


@pytest.mark.parametrize("rows", [(0, 1), (5, 7), (6, 12), (17, 18)], ids=str)
@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "deterministic"])
def test_any_range_of_rows(deterministic, rows, host, monkeypatch):
    """One row, the seam of two images, a whole image, the last row."""
    compare(host, monkeypatch, sample_inputs(B=3, C=5, O=2), deterministic, rows)


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "deterministic"])
def test_no_rows_write_nothing(deterministic, host, monkeypatch):
    monkeypatch.setattr(_native, "launch", lambda *args: launch(host, *args))
    for B, at in ((2, 0), (2, 12), (2, 7), (0, 0)):
        found = all_kernels(sample_inputs(B=B, C=8, O=2), deterministic, (at, at))
        assert not any(t.any() for t in found.values())


def test_atomics_are_used_for_grad_x_alone_and_not_at_all_when_deterministic(host, monkeypatch):
    monkeypatch.setattr(_native, "launch", lambda *args: launch(host, *args))
    case = sample_inputs(B=2, C=3, O=2)
    counts = []
    for deterministic in (False, True):
        before = host.count_atomics()
        all_kernels(case, deterministic, (0, 12))
        counts.append(host.count_atomics() - before)
    assert counts[0] > 0
    assert counts[0] % case.x.shape[1] == 0
    assert counts[1] == 0


@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
def test_the_whole_op_to_the_second_order_over_the_cuda_kernels(mask, on_host):
    case = sample_inputs(C=4, groups=2, mask=mask)
    for order in (first_order, second_order):
        got, want = order(case, "native"), order(case, "reference")
        for name, value in want.items():
            assert value is not None
            assert_close(got[name], value, torch.float64, f"{order.__name__} {name}", 4)


def test_the_cases_above_reach_every_launch_variant(choose):
    for bytes_ in (4, 8):
        reached = {
            choose(C, C // G, bytes_, address, 90)[:2] for (C, G), address in itertools.product(CHANNELS, (0, bytes_))
        }
        assert reached == set(itertools.product((1, 16 // bytes_), (4, 8, 16, 32)))


def hold(choose, C: int, G: int, bytes_: int, address: int, tasks: int) -> None:
    """What the kernels take for granted of a launch shape."""
    width = C // G
    vector, team, threads, blocks = choose(C, width, bytes_, address, tasks)
    assert vector in (1, 16 // bytes_)
    assert team in (4, 8, 16, 32)
    assert 32 % team == 0
    assert threads % 32 == 0
    assert threads <= 1024
    assert threads % team == 0
    if vector > 1:  # every thread's address is a multiple of 16 bytes, and no vector crosses a group
        assert address % 16 == 0
        assert all(n * bytes_ % 16 == 0 for n in (C, width))
    assert 1 <= blocks <= MAX_BLOCKS
    per_block = threads // team
    stride = blocks * per_block  # in tasks; the kernels go on in strides until all are done
    assert stride >= tasks or stride >= 1 << 22, "few blocks for many tasks"
    assert (blocks - 1) * per_block < max(tasks, 1), "a block without work"


def test_launch_shapes_of_every_layer_this_exists_for(choose):
    sizes = itertools.product((4, 8, 16, 32, 64), (64, 128, 256, 512), (8, 16, 32, 64), (2, 4, 8))
    for B, C, H, bytes_ in sizes:
        chunk = min(B * H * H, max(64, _native.CHUNK_BYTES["cuda"] // (9 * C * bytes_)))
        hold(choose, C, 1, bytes_, 0, chunk * 9)
        vector, team, _, _ = choose(C, C, bytes_, 0, chunk * 9)
        assert vector == 16 // bytes_
        assert team == min(32, C // vector), "threads of a team without work"


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 5000),
    G=st.integers(1, 64),
    bytes_=st.sampled_from((2, 4, 8)),
    address=st.integers(0, 2**47),
    tasks=st.one_of(st.integers(0, 10**4), st.integers(0, 2**50)),
)
def test_launch_shapes_of_any_call(choose, width, G, bytes_, address, tasks):
    hold(choose, width * G, G, bytes_, address, tasks)
    hold(choose, width * G, G, bytes_, address * 16, tasks)


@pytest.mark.parametrize("tasks", [0, 1, 2**20 * 8 - 1, 2**20 * 8, 2**20 * 8 + 1, 2**31, 2**32 + 1, 2**40])
def test_launch_shapes_at_the_grids_limits(tasks, choose):
    for C in (1, 4, 512):
        hold(choose, C, 1, 4, 0, tasks)
