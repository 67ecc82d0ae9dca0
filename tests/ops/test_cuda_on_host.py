"""The kernels of csrc/cuda.cu, run on the CPU lane by lane, give the same results as the CPU kernels.

cuda_on_host.h takes the place of CUDA. That covers indices, weights, reductions and launch shapes. float16 conversions,
the memory model and speed need a GPU; see tests/gpu.
"""

import ctypes
import itertools
import math

import pytest
import torch
from cuda_host import build, use_cuda_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import Case, assert_close, first_order, one_by_one, sample_inputs, second_order

from mtm_ops import _chunks, _matrix, _native

DRIVER = """
#include "launch.h"
extern "C" void shape_of(int64_t C, int64_t width, int64_t bytes, int64_t address, int64_t rows, int64_t taps,
                         int32_t* out) {
    const LaunchShape s = taps ? choose_launch(C, width, bytes, uintptr_t(address), rows, taps)
                               : choose_pixel_launch(C, width, bytes, uintptr_t(address), rows);
    out[0] = s.vector, out[1] = s.team, out[2] = s.tile, out[3] = s.threads, out[4] = s.blocks;
}
"""
# (channels, groups). Widths of up to 4, 8, 16 and more vectors reach every team size, with and without vectors.
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
MAX_BLOCKS = 2**31 - 1  # the limit of a CUDA grid


@pytest.fixture(autouse=True)
def small_parts(monkeypatch) -> None:
    """Split the index into several parts even for small maps."""
    monkeypatch.setattr(_chunks, "PART_ROWS", 64)


@pytest.fixture(scope="session")
def choose(tmp_path_factory):
    """(C, width, bytes, address, rows, taps) -> (vector, team, tile, threads, blocks). taps = 0: rows are pixels."""
    library = build(DRIVER, tmp_path_factory.mktemp("driver") / "driver.so")

    def call(*numbers: int) -> tuple[int, ...]:
        out = (ctypes.c_int32 * 5)()
        library.shape_of(*map(ctypes.c_int64, numbers), out)
        return tuple(out)

    return call


def hostile(case: Case) -> Case:
    """The case with NaN, infinities and +-1e9 among its offsets."""
    offset = case.offset.clone()
    flat = offset.view(-1)
    for i, bad in enumerate((float("nan"), float("inf"), -float("inf"), 1e9, -1e9)):
        flat[i * 7 :: 61] = bad
    return Case(case.x, case.weight, offset, case.style, case.mask, case.options)


def misaligned(t: torch.Tensor) -> torch.Tensor:
    """A copy shifted by one element from the allocator's alignment, so that the kernels cannot use vectors."""
    room = t.new_empty(t.numel() + 1)
    return room[1:].view(t.shape).copy_(t)


def sampling(case: Case, aligned: bool = True) -> _native.Sampling:
    o = case.options
    s = _native.Sampling(
        case.x, case.offset, case.mask, case.weight.shape[2:], o["stride"], o["padding"], o["dilation"]
    )
    if not aligned:
        s.bind(x=misaligned(s.tensors["x"]))
    return s


def all_kernels(case: Case, rows: tuple[int, int], aligned: bool = True, calls: int = 1) -> dict[str, torch.Tensor]:
    """What gather, backward and double_backward write for a range of rows, through the kernels that launch() selects.
    Gradients are accumulated `calls` times."""
    g = torch.Generator().manual_seed(5)

    def like(t: torch.Tensor) -> torch.Tensor:
        return torch.randn(t.shape, generator=g, dtype=torch.float64).to(t.dtype)

    s = sampling(case, aligned)
    place = (lambda t: t) if aligned else misaligned
    out = torch.randn(rows[1] - rows[0], s.taps * s.C, generator=g, dtype=torch.float64)
    out = out.to(case.x.dtype).to(s.storage)
    found = {"gather": s.gather(*rows, place(torch.full_like(out, torch.nan)))}
    s.bind_cotangents(like(case.x), like(case.offset), None if case.mask is None else like(case.mask))
    for name in ("backward", "double_backward"):
        s.bind_gradients(calls=calls)
        gradients = {t: s.tensors[t] for t in ("grad_x", "grad_offset", "grad_mask") if t in s.tensors}
        for t in gradients.values():
            t.zero_()  # the CUDA kernels do not write rows outside the range
        for _ in range(calls):
            found[name] = getattr(s, name)(*rows, place(out.clone()))
        found |= {f"{name} {t}": value for t, value in gradients.items()}
    return found


def compare(host, monkeypatch, case: Case, rows: tuple[int, int], aligned: bool = True, calls: int = 1) -> None:
    want = all_kernels(case, rows, aligned, calls)
    with monkeypatch.context() as patch:
        use_cuda_kernels(patch, host)
        got = all_kernels(case, rows, aligned, calls)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert value.isfinite().all(), name
        assert_close(got[name], value, case.x.dtype, name, 4)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("channels", "groups"), CHANNELS)
def test_kernels_give_what_the_cpus_give(channels, groups, dtype, host, monkeypatch):
    """Three images of six rows. The range starts inside the first and ends inside the last; offsets are hostile."""
    case = hostile(sample_inputs(B=3, C=channels, O=2, groups=groups, mask=channels % 2 == 0, dtype=dtype))
    compare(host, monkeypatch, case, (4, 14))


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (8, 1), (16, 2), (130, 1), (136, 1), (264, 1)])
def test_kernels_in_bfloat16_give_what_the_cpus_give_in_float32(channels, groups, calls, host, monkeypatch):
    """x's gradient is bfloat16 if it is written once (calls = 1), else float32. Vectors have eight elements."""
    case = hostile(sample_inputs(B=3, C=channels, O=2, groups=groups, dtype=torch.bfloat16))
    for rows in ((0, 18), (4, 14)):
        compare(host, monkeypatch, case, rows, calls=calls)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_misaligned_tensors_go_without_vectors_and_agree(dtype, host, monkeypatch):
    for channels in (8, 24):
        case = sample_inputs(B=2, C=channels, O=2, dtype=dtype)
        compare(host, monkeypatch, case, (0, 12), aligned=False)


@pytest.mark.parametrize("rows", [(0, 1), (5, 7), (6, 12), (17, 18)], ids=str)
def test_any_range_of_rows(rows, host, monkeypatch):
    """One row, rows across two images, a whole image, the last row."""
    compare(host, monkeypatch, sample_inputs(B=3, C=5, O=2), rows)


def test_a_second_call_for_the_same_rows_adds(host, monkeypatch):
    compare(host, monkeypatch, hostile(sample_inputs(B=3, C=5, O=2)), (4, 14), calls=2)


def test_no_rows_write_nothing(on_host):
    for B, at in ((2, 0), (2, 12), (2, 7), (0, 0)):
        found = all_kernels(sample_inputs(B=B, C=8, O=2), (at, at))
        assert not any(t.any() for t in found.values())


def big(H: int = 17, W: int = 16, dtype: torch.dtype = torch.float32) -> Case:
    """Maps with more pixels than the sort has digits, so that the index has several parts."""
    return one_by_one(B=2, C=4, O=2, size=(H, W), kernel=(3, 3), padding=(1, 1), style=False, dtype=dtype)


def with_offsets(case: Case, kind: str) -> Case:
    """The case with offsets that move every tap to one pixel, to one column, or out of the image."""
    offset = case.offset.clone()
    B, _, Ho, Wo = offset.shape
    pairs = offset.view(B, 9, 2, Ho, Wo)
    if kind == "one pixel":
        taps = torch.arange(9)
        pairs[:, :, 0] = 7.25 - (torch.arange(Ho)[:, None] - 1 + (taps // 3)[:, None, None])
        pairs[:, :, 1] = 5.5 - (torch.arange(Wo)[None, :] - 1 + (taps % 3)[:, None, None])
    elif kind == "one column":
        pairs[:, :, 1] = 5.5 - (torch.arange(Wo)[None, :] - 1 + (torch.arange(9) % 3)[:, None, None])
    else:
        offset.fill_({"outside": 1e9, "NaN": math.nan, "infinite": -math.inf}[kind])
    return Case(case.x, case.weight, offset, case.style, case.mask, case.options)


CROWDS = ["one pixel", "one column", "outside", "NaN", "infinite"]


@pytest.mark.parametrize("kind", CROWDS)
def test_offsets_that_crowd_or_leave_give_what_the_cpus_give(kind, host, monkeypatch):
    case = with_offsets(big(dtype=torch.float64), kind)
    compare(host, monkeypatch, case, (0, 2 * 17 * 16))


@pytest.mark.parametrize("kind", ["spread", *CROWDS])
@pytest.mark.parametrize("size", [(5, 4), (16, 16), (17, 16)], ids=str)
def test_the_index_lists_each_corner_once_by_pixel_in_a_stable_order(size, kind, on_host):
    case = big(*size) if kind == "spread" else with_offsets(big(*size), kind)
    s = sampling(case)
    s.bind_gradients()
    s.backward(0, s.rows, torch.randn(s.rows, s.taps * s.C))
    parts, places, pixels = s.plan.index_parts, s.plan.places, size[0] * size[1]
    assert parts == max(1, pixels // 64)
    starts = s.tensors["index_starts"].view(2, parts, pixels + 1)
    bounds = [places // parts * i for i in range(parts)] + [places]
    for b, part in itertools.product(range(2), range(parts)):
        rows = bounds[part + 1] - bounds[part]
        at = 4 * s.taps * (b * places + bounds[part])
        want = wanted_entries(case, b, bounds[part], rows)
        index = s.tensors["index"][at : at + len(want)]
        assert index.tolist() == [entry for _, entry in want]
        ends = torch.tensor([pixel for pixel, _ in want], dtype=torch.int64)
        assert torch.equal(starts[b, part], torch.searchsorted(ends, torch.arange(pixels + 1)).int())


def wanted_entries(case: Case, b: int, first: int, rows: int) -> list[tuple[int, int]]:
    """(pixel, entry) of every corner inside the image for rows [first, first + rows), in the order of the index."""
    H, W = case.x.shape[2:]
    found = []
    for k, r in itertools.product(range(9), range(rows)):
        oy, ox = divmod(first + r, W)
        y, x = (float(case.offset[b, 2 * k + i, oy, ox]) for i in range(2))
        y, x = (oy - 1 + k // 3) + y, (ox - 1 + k % 3) + x
        if not (-1 < y < H and -1 < x < W):
            continue
        for corner in range(4):
            cy, cx = math.floor(y) + corner // 2, math.floor(x) + corner % 2
            if 0 <= cy < H and 0 <= cx < W:
                found.append((cy * W + cx, (k * rows + r) * 4 + corner))
    return sorted(found, key=lambda entry: entry[0])


def test_the_sort_takes_no_longer_for_offsets_that_crowd(host, on_host):
    """Time is counted in meetings of threads, because each step of the sort takes a fixed number of them."""

    def meetings(case: Case) -> int:
        s = sampling(case)
        s.bind_gradients((True, False, False))
        before = host.count_meetings()
        s.backward(0, s.rows, torch.zeros(s.rows, s.taps * s.C))
        return host.count_meetings() - before

    spread = meetings(big())
    # With all taps outside there is nothing to add. With one pixel, all addends go to the same few teams.
    assert meetings(with_offsets(big(), "outside")) < spread
    assert meetings(with_offsets(big(), "one pixel")) < 1.2 * spread


def test_bits_do_not_depend_on_the_order_in_which_threads_run(host, on_host):
    case = with_offsets(big(), "one column")
    results = []
    for seed in (1, 2, 3):
        host.shuffle_by(seed)
        results.append(all_kernels(case, (0, 2 * 17 * 16)))
    host.shuffle_by(1)
    for found in results[1:]:
        assert all(torch.equal(found[name], value) for name, value in results[0].items())


def test_atomics_count_the_corners_of_the_index_and_nothing_else(host, on_host):
    """Two orders of gradients; each builds the index in one pass."""
    case = sample_inputs(B=2, C=3, O=2)
    inside = sum(len(wanted(case, b)) for b in range(2))
    before = host.count_atomics()
    all_kernels(case, (0, 12))
    assert host.count_atomics() - before == 2 * inside


def wanted(case: Case, b: int) -> list[int]:
    """One entry for each corner inside image b, for the geometry of sample_inputs."""
    H, W = case.x.shape[2:]
    found = []
    for k, oy, ox in itertools.product(range(6), range(2), range(3)):
        y = oy * 2 - 1 + k // 2 * 2 + float(case.offset[b, 2 * k, oy, ox])
        x = ox + k % 2 + float(case.offset[b, 2 * k + 1, oy, ox])
        corners = itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1))
        found += [1 for cy, cx in corners if 0 <= cy < H and 0 <= cx < W]
    return found


@pytest.mark.parametrize("keep", [True, False], ids=["columns", "no-columns"])
@pytest.mark.parametrize("pass_", ["backward", "double_backward"])
@pytest.mark.parametrize("needs", list(itertools.product((False, True), repeat=3)), ids=str)
def test_gradients_that_are_not_wanted_are_not_formed(needs, pass_, keep, host, on_host):
    """x's gradient takes two launches (index and gather); the columns and the taps' gradients share one."""
    case = sample_inputs(B=2, C=3, O=2)
    everything, s = sampling(case), sampling(case)
    g = torch.randn(12, everything.taps * 3, dtype=torch.float64)
    for each in (everything, s):
        each.bind_cotangents(case.x.flip(0), case.offset.flip(0), case.mask.flip(0))
    everything.bind_gradients()
    columns = getattr(everything, pass_)(0, 12, g.clone())
    s.bind_gradients(needs)
    s.params.keep_columns = int(keep)
    before = host.count_launches()
    found = getattr(s, pass_)(0, 12, g.clone())
    assert torch.equal(found, columns if keep else g)
    assert host.count_launches() - before == 2 * needs[0] + (keep or needs[1] or needs[2])
    for name, need in zip(("grad_x", "grad_offset", "grad_mask"), needs, strict=True):
        assert (name in s.tensors) == need
        assert not need or torch.equal(s.tensors[name], everything.tensors[name])


@pytest.mark.parametrize("chunk_rows", [64, 300, 1023, 1100, 5000])
def test_chunks_are_whole_images_or_equal_parts_of_one(chunk_rows, on_host, monkeypatch):
    monkeypatch.setitem(_chunks.CHUNK_ROWS, "cuda", chunk_rows)
    case = one_by_one(B=5, C=2, O=2, size=(32, 32), kernel=(1, 1), style=False)
    s = sampling(case)
    sizes = [end - begin for begin, end in s.chunks()]
    assert sum(sizes) == 5 * 1024
    assert max(sizes) <= chunk_rows
    if chunk_rows < 1024:
        assert not s.plan.whole_images
        assert max(sizes) - min(sizes) <= 1
        assert all(begin // 1024 == (end - 1) // 1024 for begin, end in s.chunks())
    else:
        assert s.plan.whole_images
        assert max(sizes) - min(sizes) in (0, 1024)
    got, want = first_order(case, "native"), first_order(case, "reference")
    for name, value in want.items():
        assert_close(got[name], value, torch.float64, name, 4)


@pytest.mark.parametrize("rows", [1 << 31, 12, 6, 5], ids=["at once", "two images", "one", "parts"])
@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "mask"])
def test_the_whole_op_to_the_second_order_over_the_cuda_kernels(mask, rows, on_host, monkeypatch):
    monkeypatch.setitem(_chunks.CHUNK_ROWS, "cuda", rows)
    case = sample_inputs(B=3, C=4, groups=2, mask=mask)
    for order in (first_order, second_order):
        got, want = order(case, "native"), order(case, "reference")
        for name, value in want.items():
            assert value is not None
            assert_close(got[name], value, torch.float64, f"{order.__name__} {name}", 4)


def test_the_cases_above_reach_every_launch_variant(choose):
    for bytes_ in (4, 8):
        reached = {
            choose(C, C // G, bytes_, address, 10, 9)[:2]
            for (C, G), address in itertools.product(CHANNELS, (0, bytes_))
        }
        assert reached == {(1, 8), (1, 32), *itertools.product((16 // bytes_,), (8, 16, 32))}


def hold(choose, C: int, G: int, bytes_: int, address: int, rows: int, taps: int) -> None:
    """Check what the kernels assume about a launch shape."""
    width = C // G
    vector, team, tile, threads, blocks = choose(C, width, bytes_, address, rows, taps)
    assert vector in (1, 16 // bytes_)
    assert team in ((8, 16, 32) if vector > 1 else (8, 32))
    assert tile % (32 // team) == 0
    assert 32 // team <= tile <= 32
    assert threads == 256
    if vector > 1:  # every thread's address is a multiple of 16 bytes, and no vector spans two groups
        assert address % 16 == 0
        assert all(n * bytes_ % 16 == 0 for n in (C, width))
    assert 1 <= blocks <= MAX_BLOCKS
    warps = -(-rows // tile) * taps if taps else -(-rows * -(-width // (team * vector)) // tile)
    assert blocks * 8 >= warps or blocks >= 1 << 20, "few blocks for many warps; the kernels go on in strides"
    assert (blocks - 1) * 8 < max(warps, 1), "a block without work"


def test_launch_shapes_of_every_layer_this_exists_for(choose):
    sizes = itertools.product((4, 8, 16, 32, 64), (64, 128, 256, 512), (8, 16, 32, 64), (2, 4, 8))
    for B, C, H, bytes_ in sizes:
        rows = _chunks.Rows(B, H * H, 9, C, 1, bytes_, "cuda").longest
        hold(choose, C, 1, bytes_, 0, rows, 9)
        hold(choose, C, 1, bytes_, 0, rows, 0)
        vector, team, tile, _, _ = choose(C, C, bytes_, 0, rows, 9)
        assert vector == 16 // bytes_
        assert team == max(8, min(32, C // vector)), "threads of a team without work"
        warps = -(-rows // tile) * 9
        assert tile == 32 // team or warps >= 1 << 13, "long tiles while multiprocessors are idle"


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 5000),
    G=st.integers(1, 64),
    bytes_=st.sampled_from((2, 4, 8)),
    address=st.integers(0, 2**47),
    rows=st.one_of(st.integers(0, 10**4), st.integers(0, 2**31)),
    taps=st.integers(0, 100),
)
def test_launch_shapes_of_any_call(choose, width, G, bytes_, address, rows, taps):
    hold(choose, width * G, G, bytes_, address, rows, taps)
    hold(choose, width * G, G, bytes_, address * 16, rows, taps)


@pytest.mark.parametrize("rows", [0, 1, 2**20 * 8 - 1, 2**20 * 8, 2**20 * 8 + 1, 2**31, 2**32 + 1, 2**40])
def test_launch_shapes_at_the_grids_limits(rows, choose):
    for C in (1, 4, 512):
        hold(choose, C, 1, 4, 0, rows, 9)
        hold(choose, C, 1, 4, 0, rows, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 1, 7), (3, 5, 31), (1, 64, 66), (2, 70, 130), (1, 33, 32)], ids=str)
def test_transposition_between_layouts(shape, dtype, on_host):
    """Full and partial tiles, with 16-bit elements moved two or one at a time."""
    t = torch.arange(math.prod(shape), dtype=torch.int16).view(torch.float16).view(shape)
    t = t if dtype == torch.float16 else torch.arange(math.prod(shape), dtype=dtype).view(shape)
    bits = {torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    for source in (t, misaligned(t)):
        found = _matrix.transpose(source)
        assert torch.equal(found.view(bits), t.transpose(1, 2).contiguous().view(bits))
