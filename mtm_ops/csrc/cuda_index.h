// x's gradient on CUDA, without atomics: an inverse index tells each pixel which taps sampled it, and a gather adds up
// what they pass on. The index does not depend on the channels, which all share it.
//
// A tap is near up to four pixels, its corners: that is four entries. Entries are sorted by pixel with a stable radix
// sort, so a pixel's sum has the same order, hence the same bits, on every call. How long the sort takes does not depend
// on the offsets. The rows of an image and offset group are sorted in `parts` equal segments, a block each, so that few
// images keep many multiprocessors busy; a pixel's entries are those of one part after the other.
//
// Memory:  16 bytes per row, tap and group in index, index_keys and index_spare each (4 bytes an entry), and
//          4 (H*W + 1) bytes per segment in index_starts.
// Limits:  H*W below 2^31, and 4*taps times the rows of a call below 2^32: mtm_ops/_native.py sees to them.
#pragma once

#include "cuda_device.h"

namespace {

constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
static_assert(kDigits == kThreadsPerBlock, "a thread per digit");
constexpr uint32_t kOutside = 0xffffffffu;  // the key of a corner outside the image; it is left out of the index

// The rows that one block sorts: part `part` of this call's rows of one image, for one group.
struct Segment {
    uint32_t place;    // of its first row within the image
    uint32_t rows;     // how many
    uint32_t row;      // the first, counted from the call's first
    uint32_t entries;  // place of its first entry in index, index_keys and index_spare
    int64_t starts;    // place of pixel 0 in index_starts: entries [starts[pixel], starts[pixel + 1]) are that pixel's
};

// image counts from the call's first.
__device__ __forceinline__ Segment locate_segment(const Chunk& chunk, uint32_t image, uint32_t g, uint32_t part) {
    const uint32_t first = image ? 0 : chunk.first_place, before = image * chunk.places - (image ? chunk.first_place : 0);
    const uint32_t left = chunk.rows - before, room = chunk.places - first, rows = left < room ? left : room;
    const uint32_t step = rows / chunk.parts, from = step * part;
    Segment segment;
    segment.place = first + from;
    segment.rows = part + 1 < chunk.parts ? step : rows - from;
    segment.row = before + from;
    segment.entries = 4 * chunk.taps * (before * chunk.groups + g * rows + from);
    segment.starts = (int64_t(image * chunk.groups + g) * chunk.parts + part) * (chunk.pixels + 1);
    return segment;
}

struct SortScratch {
    uint32_t count[kWarpsPerBlock][kDigits];  // per warp and digit: how many, then where the next one goes
    uint32_t sum[kDigits];
};

// Sorts n entries by one digit of their keys, keeping the order of equal ones: out[..] = in[..], or their numbers 0 to
// n - 1 where `in` is null. Leaves out those outside, and returns the number of the others. For a whole block.
__device__ __forceinline__ uint32_t sort_by_digit(const uint32_t* key, const uint32_t* in, uint32_t* out, uint32_t n,
                                                  int shift, SortScratch& scratch) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, digit = threadIdx.x;
    const uint32_t begin = uint32_t(uint64_t(n) * warp / kWarpsPerBlock);
    const uint32_t end = uint32_t(uint64_t(n) * (warp + 1) / kWarpsPerBlock);
    for (int w = 0; w < kWarpsPerBlock; w++) scratch.count[w][digit] = 0;
    __syncthreads();
    for (uint32_t i = begin + lane; i < end; i += 32) {
        const uint32_t k = key[in ? in[i] : i];
        if (k != kOutside) atomicAdd(&scratch.count[warp][k >> shift & (kDigits - 1)], 1u);
    }
    __syncthreads();
    uint32_t total = 0;
    for (int w = 0; w < kWarpsPerBlock; w++) total += scratch.count[w][digit];
    scratch.sum[digit] = total;
    __syncthreads();
    for (uint32_t step = 1; step < kDigits; step *= 2) {  // sums up to and with each digit
        const uint32_t before = digit >= step ? scratch.sum[digit - step] : 0;
        __syncthreads();
        scratch.sum[digit] += before;
        __syncthreads();
    }
    uint32_t next = scratch.sum[digit] - total;
    for (int w = 0; w < kWarpsPerBlock; w++) {
        const uint32_t of_warp = scratch.count[w][digit];
        scratch.count[w][digit] = next;
        next += of_warp;
    }
    const uint32_t kept = scratch.sum[kDigits - 1];
    __syncthreads();
    for (uint32_t first = begin; first < end; first += 32) {
        const uint32_t i = first + lane;
        const uint32_t id = i < end ? (in ? in[i] : i) : 0, k = i < end ? key[id] : kOutside;
        const uint32_t d = k == kOutside ? kDigits : k >> shift & (kDigits - 1);
        const uint32_t equal = __match_any_sync(kAllLanes, d), rank = __popc(equal & ((1u << lane) - 1));
        const uint32_t place = d < kDigits ? scratch.count[warp][d] + rank : 0;
        __syncwarp();
        if (d < kDigits && rank == 0) scratch.count[warp][d] += __popc(equal);
        __syncwarp();
        if (d < kDigits) out[place] = id;
    }
    __syncthreads();
    return kept;
}

// index[i] = (k * segment.rows + r) * 4 + corner, for every corner inside the image of tap k of row r of a segment, in
// ascending order of (pixel, k, r, corner); index_starts: where each pixel's begin.
//
// In:          offset T.   Out: index, index_starts; index_keys and index_spare are scratch.
// Threads:     a block per segment.
// Determinism: atomics count alone, in shared memory; counts do not depend on their order.
template <class T>
__global__ void __launch_bounds__(kThreadsPerBlock) index_kernel(SampleParams p, Chunk chunk) {
    __shared__ SortScratch scratch;
    const uint32_t segments = chunk.images * chunk.groups * chunk.parts, taps = chunk.taps, pixels = chunk.pixels;
    for (uint32_t s = blockIdx.x; s < segments; s += gridDim.x) {
        const uint32_t image_group = s / chunk.parts, image = image_group / chunk.groups;
        const uint32_t g = image_group - image * chunk.groups;
        const Segment segment = locate_segment(chunk, image, g, s - image_group * chunk.parts);
        uint32_t* key = static_cast<uint32_t*>(p.index_keys) + segment.entries;
        uint32_t* out = static_cast<uint32_t*>(p.index) + segment.entries;
        uint32_t* spare = static_cast<uint32_t*>(p.index_spare) + segment.entries;
        for (uint32_t t = threadIdx.x; t < taps * segment.rows; t += kThreadsPerBlock) {
            const uint32_t k = t / segment.rows, r = t - k * segment.rows;
            Tap<T> tap;
            locate(p, chunk, row_at(chunk, image, segment.place + r), g, k, tap);
#pragma unroll
            for (int a = 0; a < 4; a++) key[4 * t + a] = tap.pixel[a] < 0 ? kOutside : uint32_t(tap.pixel[a]);
        }
        __syncthreads();
        int passes = 1;
        while (passes < 32 / kDigitBits && (pixels - 1) >> (passes * kDigitBits)) passes++;
        const uint32_t* sorted = nullptr;
        uint32_t n = 4 * taps * segment.rows;
        for (int pass = 0; pass < passes; pass++) {  // the last one ends in `out`
            uint32_t* to = (passes - pass) % 2 ? out : spare;
            n = sort_by_digit(key, sorted, to, n, pass * kDigitBits, scratch);
            sorted = to;
        }
        uint32_t* starts = static_cast<uint32_t*>(p.index_starts) + segment.starts;
        for (uint32_t i = threadIdx.x; i <= n; i += kThreadsPerBlock) {
            const uint32_t end = i < n ? key[sorted[i]] : pixels;
            for (uint32_t pixel = i ? key[sorted[i - 1]] + 1 : 0; pixel <= end; pixel++) starts[pixel] = i;
        }
        __syncthreads();
    }
}

// Which tap a lane adds next, and how.
template <class T>
struct Addend {
    uint32_t column;  // number of the tap's columns: row of the call, then tap
    T weight;
};

// Addend number i of a pixel, counted through its parts in order.
template <class T, bool Second>
__device__ __forceinline__ Addend<T> find_addend(const SampleParams& p, const Chunk& chunk, uint32_t image, uint32_t g,
                                                 uint32_t pixel, uint32_t i) {
    Segment segment;
    uint32_t begin = 0;
    for (uint32_t part = 0;; part++) {
        segment = locate_segment(chunk, image, g, part);
        const uint32_t* starts = static_cast<const uint32_t*>(p.index_starts) + segment.starts + pixel;
        const uint32_t count = starts[1] - starts[0];
        begin = starts[0];
        if (i < count) break;
        i -= count;
    }
    const uint32_t id = static_cast<const uint32_t*>(p.index)[segment.entries + begin + i];
    const uint32_t t = id / 4, k = t / segment.rows, r = t - k * segment.rows;
    const Row row = row_at(chunk, image, segment.place + r);
    Tap<T> tap;
    T weight[4];
    locate(p, chunk, row, g, k, tap);
    scatter_weights<T, Second>(p, row, g, k, tap, weight);
    // Selected, not indexed: an index known only at run time would put the weights into memory.
    const T upper = id & 1 ? weight[1] : weight[0], lower = id & 1 ? weight[3] : weight[2];
    return {(segment.row + r) * chunk.taps + k, id & 2 ? lower : upper};
}

__device__ __forceinline__ uint32_t count_addends(const SampleParams& p, const Chunk& chunk, uint32_t image, uint32_t g,
                                                  uint32_t pixel) {
    uint32_t count = 0;
    for (uint32_t part = 0; part < chunk.parts; part++) {
        const int64_t at = locate_segment(chunk, image, g, part).starts + pixel;
        const uint32_t* starts = static_cast<const uint32_t*>(p.index_starts) + at;
        count += starts[1] - starts[0];
    }
    return count;
}

// grad_x(pixel, c) = sum over the corners at that pixel of weight * g(c), g the columns; weight as scatter_weights.
//
// In:          index, offset, mask, columns, with Second gg_offset and gg_mask.   Out: grad_x [B, H, W, C], T or, with
//              p.stored_grad_x, S. Written in the first call for an image's first row, else added to.
// Threads:     a team per pixel, group and slice of Team * Vector channels. A lane looks up one addend in Team of them.
// Determinism: the order of a pixel's sum is the index's.
// Reference:   first and second order autograd of mtm_ops/reference.py, sample_columns.
template <class S, class T, int Vector, int Team, bool Second>
__global__ void __launch_bounds__(kThreadsPerBlock, 4) grad_x_kernel(SampleParams p, Chunk chunk) {
    const uint32_t lane = threadIdx.x % Team;
    const unsigned team = Team == 32 ? kAllLanes : ((1u << Team % 32) - 1) << (threadIdx.x % 32 / Team * Team);
    const uint32_t slices = (chunk.width + Team * Vector - 1) / (Team * Vector), per_pixel = slices * chunk.groups;
    const int64_t teams = int64_t(chunk.images) * chunk.pixels * per_pixel;
    const int64_t step = int64_t(gridDim.x) * (blockDim.x / Team);
    for (int64_t i = int64_t(blockIdx.x) * (blockDim.x / Team) + threadIdx.x / Team; i < teams; i += step) {
        const int64_t image_pixel = i / per_pixel;
        const uint32_t image = uint32_t(image_pixel / chunk.pixels), pixel = uint32_t(image_pixel - int64_t(image) * chunk.pixels);
        const uint32_t rest = uint32_t(i - image_pixel * per_pixel), g = rest / slices;
        const uint32_t in_group = ((rest - g * slices) * Team + lane) * Vector, c = g * chunk.width + in_group;
        const bool live = in_group < chunk.width;
        const uint32_t count = count_addends(p, chunk, image, g, pixel);
        const S* columns = static_cast<const S*>(p.columns) + c;
        T sum[Vector] = {};
        for (uint32_t base = 0; base < count; base += Team) {
            Addend<T> mine{0, T(0)};
            if (base + lane < count) mine = find_addend<T, Second>(p, chunk, image, g, pixel, base + lane);
            const int here = count - base < Team ? int(count - base) : Team;
#pragma unroll 4
            for (int j = 0; j < here; j++) {
                const uint32_t column = __shfl_sync(team, mine.column, j, Team);
                const T weight = __shfl_sync(team, mine.weight, j, Team);
                if (!live) continue;
                const Pack<S, Vector> v = load_pack<S, Vector>(columns + int64_t(column) * chunk.C);
#pragma unroll
                for (int a = 0; a < Vector; a++) sum[a] += weight * widen<T>(v.v[a]);
            }
        }
        if (!live) continue;
        const int64_t at = ((chunk.first_image + image) * chunk.pixels + pixel) * chunk.C + c;
        const bool write = p.first_call && (image || chunk.first_place == 0);
        if (p.stored_grad_x) {
            add_or_write<T, S, Vector>(static_cast<S*>(p.grad_x) + at, sum, write);
        } else {
            add_or_write<T, T, Vector>(static_cast<T*>(p.grad_x) + at, sum, write);
        }
    }
}

}  // namespace
