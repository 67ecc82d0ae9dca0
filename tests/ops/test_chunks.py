"""How the rows of a CUDA call are cut into chunks, and how much memory the columns and the inverse index take.

`hold` checks the limits for the layers that matter and for calls that hypothesis makes up.
"""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtm_ops._chunks import CHUNK_BYTES, INDEX_BYTES, LEAST_ROWS, SHARED_INDEX_BYTES, Rows


def hold(rows: Rows) -> None:
    """Chunks cover the rows in order and hold whole images or parts of one; index ranges consist of whole chunks."""
    ends = [0]
    for begin, end in rows.chunks:
        assert begin == ends[-1] < end
        ends.append(end)
    assert ends[-1] == rows.images * rows.places
    assert {r for pair in rows.indexed for r in pair} <= set(ends)
    assert [rows.indexed_with(*chunk) for chunk in rows.chunks] == [
        next(r for r in rows.indexed if r[0] <= begin and end <= r[1]) for begin, end in rows.chunks
    ]
    row_bytes, index_bytes = rows.taps * rows.C * rows.itemsize, rows.taps * rows.groups * INDEX_BYTES
    least = LEAST_ROWS * (row_bytes + index_bytes)
    most = max(CHUNK_BYTES["cuda"], least)
    for begin, end in rows.chunks:
        assert (end - begin) * (row_bytes + index_bytes) <= most
    for begin, end in rows.indexed:
        assert (end - begin) * index_bytes <= max(SHARED_INDEX_BYTES, most)
        assert 4 * rows.taps * rows.groups * (end - begin) < 2**32
        assert rows.whole_images or end - begin <= rows.places
    entries, starts = rows.index_sizes(pixels := 2 * rows.places)
    assert entries == 4 * rows.taps * rows.groups * max((e - b for b, e in rows.indexed), default=0)
    assert starts <= rows.groups * (pixels + 1) * 16 * max(1, rows.images)


@pytest.mark.parametrize("itemsize", [2, 4, 8])
@pytest.mark.parametrize("B", [0, 1, 4, 32, 64])
def test_layers_this_exists_for(B, itemsize):
    for C, H in itertools.product((64, 256, 512), (8, 16, 32, 64, 128)):
        rows = Rows(B, H * H, 9, C, 1, itemsize, "cuda")
        hold(rows)
        sizes = [end - begin for begin, end in rows.chunks]
        if sizes:
            assert max(sizes) - min(sizes) <= (H * H if rows.whole_images else 1), "unequal"


def test_the_layer_of_the_targets():
    """The layer of the performance targets. fp16: four chunks of eight images, one index. fp32: eight of four."""
    half, full = (Rows(32, 1024, 9, 512, 1, itemsize, "cuda") for itemsize in (2, 4))
    assert half.chunks == [(8192 * i, 8192 * (i + 1)) for i in range(4)]
    assert full.chunks == [(4096 * i, 4096 * (i + 1)) for i in range(8)]
    assert half.indexed == full.indexed == [(0, 32768)]
    assert half.index_parts == 4


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    images=st.integers(0, 40),
    places=st.integers(1, 3000),
    taps=st.integers(1, 49),
    width=st.integers(1, 600),
    groups=st.sampled_from((1, 2, 8, 64)),
    itemsize=st.sampled_from((2, 4, 8)),
)
def test_any_call(images, places, taps, width, groups, itemsize):
    hold(Rows(images, places, taps, width * groups, groups, itemsize, "cuda"))


def test_a_map_of_many_pixels_is_cut_within_images():
    rows = Rows(3, 2048 * 2048, 9, 64, 1, 2, "cuda")
    hold(rows)
    assert not rows.whole_images
    assert rows.indexed == rows.chunks
