"""How the CPU's scatter is divided into units of work: evenly enough for 64 threads, judging by shapes alone.

The tests read the sizes of the units and simulate how busy the threads would be. They measure no time.
"""

import ctypes
import heapq

import pytest
import torch

from mtm_ops import _build, _native

GEOMETRY = ((3, 3), (1, 1), (1, 1), (1, 1))
OFFSET_STD_PX = 2.0


def chunks_of_units(B: int, C: int, H: int, W: int) -> list[list[int]]:
    """For each chunk of a layer's backward pass, the sizes of its units of work in the order they are taken."""
    torch.manual_seed(0)
    s = _native.Sampling(torch.zeros(B, C, H, W), torch.randn(B, 18, H, W) * OFFSET_STD_PX, None, *GEOMETRY)
    units_of = _build.load_cpu().scatter_units_f32
    units_of.restype = ctypes.c_int64
    chunks = []
    for begin, end in s.chunks():
        s.params.row_begin, s.params.row_end = begin, end
        sizes = (ctypes.c_int64 * units_of(ctypes.byref(s.params), None))()
        units_of(ctypes.byref(s.params), sizes)
        chunks.append(list(sizes))
    return chunks


def threads_busy(chunks: list[list[int]], threads: int) -> float:
    """Total work over the time that `threads` need. A free thread takes the next unit; all wait at a chunk's end."""
    taken = 0
    for units in chunks:
        free_at = [0] * threads
        for size in units:
            heapq.heapreplace(free_at, free_at[0] + size)
        taken += max(free_at)
    return sum(map(sum, chunks)) / taken


@pytest.mark.parametrize("threads", [2, 4, 16, 64])
@pytest.mark.parametrize(
    "shape", [(1, 64, 64, 64), (1, 128, 64, 64), (1, 256, 64, 64), (1, 512, 64, 64), (1, 64, 148, 148)], ids=str
)
def test_large_maps_keep_every_thread_busy_whatever_the_channels(shape, threads):
    assert threads_busy(chunks_of_units(*shape), threads) > 0.8 * threads


def test_small_maps_have_units_for_as_many_threads_as_their_work_is_worth():
    assert threads_busy(chunks_of_units(4, 512, 8, 8), 16) > 0.75 * 16
    assert threads_busy(chunks_of_units(4, 512, 16, 16), 32) > 0.8 * 32


def test_units_hold_every_corner_inside_the_image_once():
    C, H, W = 5, 20, 30
    offset = torch.zeros(1, 18, H, W)
    s = _native.Sampling(torch.zeros(1, C, H, W), offset + 0.5, None, *GEOMETRY)
    s.params.row_end = s.rows
    sizes = (ctypes.c_int64 * _build.load_cpu().scatter_units_f32(ctypes.byref(s.params), None))()
    _build.load_cpu().scatter_units_f32(ctypes.byref(s.params), sizes)
    inside = sum(
        0 <= y + ky + i < H and 0 <= x + kx + j < W
        for y in range(-1, H - 1) for x in range(-1, W - 1) for ky in range(3) for kx in range(3)
        for i in range(2) for j in range(2)
    )  # fmt: skip
    # Two adjacent corners in one block count as one share. Corners that a border or two blocks separate count singly.
    assert C * inside / 2 <= sum(sizes) <= C * inside
