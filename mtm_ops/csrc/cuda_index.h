// The inverse index for x's gradient on CUDA: which taps sampled a pixel. With it the gradient is a gather without
// atomics (cuda_grad_x.h). The index does not depend on the channels, so all of them share it.
//
// A tap samples up to four pixels, its corners, so it has up to four entries. Entries are sorted by pixel with a stable
// radix sort, so a pixel's sum has the same order, and the same bits, on every call. The sort's duration does not
// depend on the offsets. The rows of an image and offset group are divided into `parts` equal segments, each sorted by
// one block, so that few images keep many multiprocessors busy; a pixel's entries are the concatenation of its entries
// in each part. An index may contain the rows of several chunks of whole images: one launch then serves them all.
//
// Memory:  16 bytes per row, tap and group in index, index_keys and index_spare each (4 bytes an entry), and
//          4 (H*W + 1) bytes per segment in index_starts. mtm_ops/_chunks.py bounds it.
#pragma once

#include "cuda_device.h"

namespace {

constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
#ifndef MTM_CUDA_ON_HOST
constexpr int kSortThreads = 1024;  // many: a sort waits for memory at every step
#else
constexpr int kSortThreads = 512;
#endif
constexpr int kSortWarps = kSortThreads / 32;
constexpr int kSortAhead = 4;  // steps whose entries are loaded together
static_assert(kDigits <= kSortThreads, "a thread per digit");
constexpr uint32_t kOutside = 0xffffffffu;  // the key of a corner outside the image; it is left out of the index

// The rows that one block sorts: part `part` of the index's rows of one image, for one group.
struct Segment {
    uint32_t place;    // place of its first row within the image
    uint32_t rows;     // number of rows
    uint32_t row;      // its first row, counted from the index's first
    uint32_t entries;  // position of its first entry in index, index_keys and index_spare
    int64_t starts;    // position of pixel 0 in index_starts; a pixel's entries: [starts[pixel], starts[pixel + 1])
};

// indexed: the rows in the index; image: counted from their first.
__device__ __forceinline__ Segment locate_segment(const Chunk& indexed, uint32_t image, uint32_t g, uint32_t part) {
    const uint32_t first = image ? 0 : indexed.first_place;
    const uint32_t before = image ? image * indexed.places - indexed.first_place : 0;
    const uint32_t left = indexed.rows - before, room = indexed.places - first, rows = left < room ? left : room;
    const uint32_t step = rows / indexed.parts, from = step * part;
    Segment segment;
    segment.place = first + from;
    segment.rows = part + 1 < indexed.parts ? step : rows - from;
    segment.row = before + from;
    segment.entries = 4 * indexed.taps * (before * indexed.groups + g * rows + from);
    segment.starts = (int64_t(image * indexed.groups + g) * indexed.parts + part) * (indexed.pixels + 1);
    return segment;
}

struct SortScratch {
    uint32_t count[kSortWarps][kDigits];  // per warp and digit: first the count, then the next position
    uint32_t sum[kDigits];
};

// Entries first, first + 32 and so on, kSortAhead in total: their numbers, and their keys (kOutside beyond the end).
__device__ __forceinline__ void load_entries(const uint32_t* key, const uint32_t* in, uint32_t first, uint32_t end,
                                             uint32_t (&id)[kSortAhead], uint32_t (&k)[kSortAhead]) {
#pragma unroll
    for (int a = 0; a < kSortAhead; a++) id[a] = first + 32 * a < end ? (in ? in[first + 32 * a] : first + 32 * a) : 0;
#pragma unroll
    for (int a = 0; a < kSortAhead; a++) k[a] = first + 32 * a < end ? key[id[a]] : kOutside;
}

// Turns scratch.count from each warp's number of entries per digit into the position of the first. Returns the total
// number.
__device__ __forceinline__ uint32_t place_digits(SortScratch& scratch) {
    const uint32_t digit = threadIdx.x;
    uint32_t total = 0;
    if (digit < kDigits) {
        for (int w = 0; w < kSortWarps; w++) total += scratch.count[w][digit];
        scratch.sum[digit] = total;
    }
    __syncthreads();
    for (uint32_t step = 1; step < kDigits; step *= 2) {  // inclusive sums over the digits
        const uint32_t before = digit < kDigits && digit >= step ? scratch.sum[digit - step] : 0;
        __syncthreads();
        if (digit < kDigits) scratch.sum[digit] += before;
        __syncthreads();
    }
    if (digit < kDigits) {
        uint32_t next = scratch.sum[digit] - total;
        for (int w = 0; w < kSortWarps; w++) {
            const uint32_t of_warp = scratch.count[w][digit];
            scratch.count[w][digit] = next;
            next += of_warp;
        }
    }
    const uint32_t all = scratch.sum[kDigits - 1];
    __syncthreads();
    return all;
}

// Sorts n entries by one digit of their keys, and keeps the order of equal ones: out[..] = in[..], or the entries'
// numbers 0 to n - 1 if `in` is null. Drops entries outside the image; returns the number of the others. Called by a
// whole block.
__device__ __forceinline__ uint32_t sort_by_digit(const uint32_t* key, const uint32_t* in, uint32_t* out, uint32_t n,
                                                  int shift, SortScratch& scratch) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t begin = uint32_t(uint64_t(n) * warp / kSortWarps);
    const uint32_t end = uint32_t(uint64_t(n) * (warp + 1) / kSortWarps);
    uint32_t id[kSortAhead], k[kSortAhead];
    for (uint32_t i = threadIdx.x; i < kSortWarps * kDigits; i += kSortThreads) scratch.count[i / kDigits][i % kDigits] = 0;
    __syncthreads();
    for (uint32_t first = begin; first < end; first += 32 * kSortAhead) {
        load_entries(key, in, first + lane, end, id, k);
#pragma unroll
        for (int a = 0; a < kSortAhead; a++)
            if (k[a] != kOutside) atomicAdd(&scratch.count[warp][k[a] >> shift & (kDigits - 1)], 1u);
    }
    __syncthreads();
    const uint32_t kept = place_digits(scratch);
    for (uint32_t first = begin; first < end; first += 32 * kSortAhead) {
        load_entries(key, in, first + lane, end, id, k);
#pragma unroll
        for (int a = 0; a < kSortAhead; a++) {
            const uint32_t d = k[a] == kOutside ? kDigits : k[a] >> shift & (kDigits - 1);
            const uint32_t equal = __match_any_sync(kAllLanes, d), rank = __popc(equal & ((1u << lane) - 1));
            const uint32_t place = d < kDigits ? scratch.count[warp][d] + rank : 0;
            __syncwarp();
            if (d < kDigits && rank == 0) scratch.count[warp][d] += __popc(equal);
            __syncwarp();
            if (d < kDigits) out[place] = id[a];
        }
    }
    __syncthreads();
    return kept;
}

// index[i] = (k * segment.rows + r) * 4 + corner, for every corner inside the image of tap k of row r of a segment, in
// ascending order of (pixel, k, r, corner); index_starts: where each pixel's entries begin.
//
// In:          offset T.   Out: index, index_starts; index_keys and index_spare are scratch.
// Threads:     a block per segment.
// Determinism: atomics only count, in shared memory; counts do not depend on their order.
template <class T>
__global__ void __launch_bounds__(kSortThreads) index_kernel(SampleParams p, Chunk indexed) {
    __shared__ SortScratch scratch;
    const uint32_t segments = indexed.images * indexed.groups * indexed.parts, taps = indexed.taps, pixels = indexed.pixels;
    for (uint32_t s = blockIdx.x; s < segments; s += gridDim.x) {
        const uint32_t image_group = s / indexed.parts, image = image_group / indexed.groups;
        const uint32_t g = image_group - image * indexed.groups;
        const Segment segment = locate_segment(indexed, image, g, s - image_group * indexed.parts);
        uint32_t* key = static_cast<uint32_t*>(p.index_keys) + segment.entries;
        uint32_t* out = static_cast<uint32_t*>(p.index) + segment.entries;
        uint32_t* spare = static_cast<uint32_t*>(p.index_spare) + segment.entries;
        for (uint32_t t = threadIdx.x; t < taps * segment.rows; t += kSortThreads) {
            const uint32_t k = t / segment.rows, r = t - k * segment.rows;
            Tap<T> tap;
            locate(p, indexed, row_at(indexed, image, segment.place + r), g, k, tap);
#pragma unroll
            for (int a = 0; a < 4; a++) key[4 * t + a] = tap.pixel[a] < 0 ? kOutside : uint32_t(tap.pixel[a]);
        }
        __syncthreads();
        int passes = 1;
        while (passes < 32 / kDigitBits && (pixels - 1) >> (passes * kDigitBits)) passes++;
        const uint32_t* sorted = nullptr;
        uint32_t n = 4 * taps * segment.rows;
        for (int pass = 0; pass < passes; pass++) {  // the last pass writes to `out`
            uint32_t* to = (passes - pass) % 2 ? out : spare;
            n = sort_by_digit(key, sorted, to, n, pass * kDigitBits, scratch);
            sorted = to;
        }
        uint32_t* starts = static_cast<uint32_t*>(p.index_starts) + segment.starts;
        for (uint32_t i = threadIdx.x; i <= n; i += kSortThreads) {
            const uint32_t end = i < n ? key[sorted[i]] : pixels;
            for (uint32_t pixel = i ? key[sorted[i - 1]] + 1 : 0; pixel <= end; pixel++) starts[pixel] = i;
        }
        __syncthreads();
    }
}

}  // namespace
