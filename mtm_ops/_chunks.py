"""How a call is cut into chunks of rows (output pixels), and how much memory a chunk takes.

Both the CPU and the CUDA kernels process one chunk after another, so the columns are never stored completely. On a CPU
the rows are shared equally among the chunks. On CUDA a chunk is a number of whole images, as equal as possible, or an
equal share of one image. If it is whole images, an image's gradient is complete after one chunk and is written once, in
its own dtype.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

# Maximum bytes of columns per chunk: enough rows for an efficient matmul, few enough bytes for the last-level cache. On
# a CPU, at 512 channels, half of this was up to a tenth slower, and twice as much was no faster. CUDA: 8 images of
# [512, 32, 32] in half types, whose matmuls fill a GPU of 132 multiprocessors with tiles of 128x128; estimated, not
# measured.
CHUNK_BYTES = {"cpu": 10 << 20, "cuda": 80 << 20}
CHUNK_ROWS = {"cpu": 2048, "cuda": 1 << 31}
LEAST_ROWS = 64
# The inverse index of CUDA's x gradient (csrc/cuda_index.h): four corners per tap, each an entry, a key and a spare.
INDEX_BYTES = 4 * 3 * 4
SHARED_INDEX_BYTES = 16 << 20  # maximum size of an index for several chunks, which are then served by one launch
PART_ROWS, MOST_PARTS = 256, 16  # a block sorts at least so many rows; at most so many blocks per image


@dataclass(frozen=True)
class Rows:
    """The rows of one call: `images` of `places` rows each."""

    images: int
    places: int
    taps: int  # kh*kw
    C: int
    groups: int  # offset groups
    itemsize: int  # of the columns
    kernels: str  # "cpu" or "cuda"

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """Row ranges [begin, end) that together cover the call; none if there are no rows."""
        total, row_bytes = self.images * self.places, self.taps * self.C * self.itemsize
        if self.kernels == "cuda":
            row_bytes += self.taps * self.groups * INDEX_BYTES
        most = min(CHUNK_ROWS[self.kernels], max(LEAST_ROWS, CHUNK_BYTES[self.kernels] // row_bytes))
        if self.kernels == "cpu":
            # As equal as possible: a short chunk costs more than its share.
            rows = max(1, -(-total // max(1, -(-total // most))))
            return [(begin, min(begin + rows, total)) for begin in range(0, total, rows)]
        most = min(most, (2**32 - 1) // (4 * self.taps * self.groups))  # entries are numbered in 32 bits
        if self.places <= most:
            n = -(-self.images // (most // self.places))
            bounds = [self.images * i // n * self.places for i in range(n + 1)] if n else [0]
        else:
            n = -(-self.places // most)
            bounds = [b * self.places + self.places * i // n for b in range(self.images) for i in range(n)] + [total]
        return list(pairwise(bounds))

    @cached_property
    def longest(self) -> int:
        """Rows of the longest chunk."""
        return max((end - begin for begin, end in self.chunks), default=0)

    @cached_property
    def whole_images(self) -> bool:
        """Whether every chunk is made of whole images."""
        return all(begin % self.places == 0 and end % self.places == 0 for begin, end in self.chunks)

    @cached_property
    def index_parts(self) -> int:
        """Segments of the inverse index per image and group."""
        return max(1, min(MOST_PARTS, min(self.longest, self.places) // PART_ROWS))

    @cached_property
    def indexed(self) -> list[tuple[int, int]]:
        """Row ranges that get one inverse index each: one chunk, or several chunks of whole images."""
        ranges: list[tuple[int, int]] = []
        row_bytes = self.taps * self.groups * INDEX_BYTES
        for begin, end in self.chunks:
            if ranges and self.whole_images and (end - ranges[-1][0]) * row_bytes <= SHARED_INDEX_BYTES:
                ranges[-1] = ranges[-1][0], end
            else:
                ranges.append((begin, end))
        return ranges

    def indexed_with(self, begin: int, end: int) -> tuple[int, int]:
        """The index's row range that contains a chunk; for rows that are not a chunk, those rows themselves."""
        if (begin, end) not in self.chunks:
            return begin, end
        return next(r for r in self.indexed if r[0] <= begin < r[1])

    def index_sizes(self, pixels: int) -> tuple[int, int]:
        """How many 32-bit numbers each of the index's three lists has, and its table of starts; pixels: H*W."""
        rows = max((end - begin for begin, end in self.indexed), default=0)
        images = -(-rows // self.places) if self.whole_images else 1
        return 4 * self.taps * self.groups * rows, images * self.groups * self.index_parts * (pixels + 1)
