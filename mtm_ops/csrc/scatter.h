// The scatter of the sampling's gradients into x's, on the CPU: parallel, with the same bits for any number of threads.
//
// A tap adds its column to four pixels anywhere in the image, so rows cannot be divided among threads. Instead the
// pixels are: a block of neighbouring pixels belongs to one thread at a time. A stable counting sort lists, for each
// block, what the rows add to it, in the order of the rows. So a pixel's sum always follows the order of the rows,
// whatever the blocks and the number of threads. There is one unit of work per block and channel slice.
#pragma once

#include "sampling.h"

#include <algorithm>
#include <memory>
#include <vector>

namespace {

// Below this many elements, waking the threads takes longer than the work.
constexpr int64_t kWorthThreads = 1 << 15;

inline bool worth_threads(const SampleParams& p) {
    return (p.row_end - p.row_begin) * p.kh * p.kw * p.C >= kWorthThreads;
}

template <class T>
T mask_of(const SampleParams& p, const Row& row, int64_t g, int64_t k) {
    return p.mask ? static_cast<const T*>(p.mask)[mask_index(p, row, g, k)] : T(1);
}

constexpr int64_t kBlockLog2 = 4;         // 16 pixels: few, to get many units of work: [1, 64, 64, 64] has 256
constexpr int64_t kMostBlocks = 1024;     // per image: the sort keeps a count for each
constexpr int64_t kSliceChannels = 256;   // a block's slice fits the first-level cache, with what is added to it
constexpr int64_t kSortRows = 64;         // rows that one thread lists at a time
constexpr int64_t kAhead = 6;             // shares whose columns are prefetched: they lie far apart

// How a call's scatter is divided, by shapes only. A bin is one block of pixels of one image and offset group.
struct ScatterPlan {
    int64_t first_image, images, block_log2, blocks, bins, slices, sort_units;  // 2^block_log2 pixels a block

    explicit ScatterPlan(const SampleParams& p) {
        const int64_t places = p.Ho * p.Wo, pixels = p.H * p.W;
        first_image = p.row_begin / places;
        images = (p.row_end + places - 1) / places - first_image;
        block_log2 = kBlockLog2;
        while ((pixels - 1) >> block_log2 >= kMostBlocks) block_log2++;
        blocks = ((pixels - 1) >> block_log2) + 1;
        bins = images * p.groups * blocks;
        slices = (p.C / p.groups + kSliceChannels - 1) / kSliceChannels;
        sort_units = (p.row_end - p.row_begin + kSortRows - 1) / kSortRows;
    }

    // The first channel of a slice within its group, and how many it has.
    int64_t slice_begin(const SampleParams& p, int64_t slice) const { return p.C / p.groups * slice / slices; }
    int64_t slice_width(const SampleParams& p, int64_t slice) const {
        return slice_begin(p, slice + 1) - slice_begin(p, slice);
    }
};

constexpr int32_t kPair = INT32_MIN;

// What one tap adds to one block: weight[0] * column to a pixel and, if it is a pair, weight[1] * column to the next.
template <class T>
struct Share {
    int32_t place;   // index of the pixel within its block; for a pair, that minus 2^31
    int32_t column;  // (row - row_begin) * kh*kw + k
    T weight[2];
};

// Lists the shares of rows [begin, end), in order: each into share[i], and its bin into bin[i]. Returns their number,
// at most 4 per tap. weights(row, g, k, tap, weight[4]) computes the corners' weights. No branches here: offsets would
// make them unpredictable.
template <class T, class Weights>
int64_t list_shares(const SampleParams& p, const ScatterPlan& plan, int64_t begin, int64_t end, const Weights& weights,
                    Share<T>* share, int32_t* bin) {
    const int64_t taps = p.kh * p.kw, in_block = (int64_t(1) << plan.block_log2) - 1;
    int64_t count = 0;
    for (int64_t n = begin; n < end; n++) {
        const Row row = locate_row(p, n);
        for (int64_t k = 0; k < taps; k++) {
            for (int64_t g = 0; g < p.groups; g++) {
                Tap<T> tap;
                T weight[4];
                locate_tap_of_row(p, row, g, k, tap);
                weights(row, g, k, tap, weight);
                const int64_t bins = ((row.image - plan.first_image) * p.groups + g) * plan.blocks;
                const int32_t column = int32_t((n - p.row_begin) * taps + k);
                for (int left = 0; left < 4; left += 2) {  // the upper two corners, then the lower two
                    const int64_t a = tap.pixel[left], b = tap.pixel[left + 1];
                    const int64_t a_block = a >> plan.block_log2, b_block = b >> plan.block_log2;
                    const bool pair = a_block == b_block;  // also if both are outside; those are not counted
                    share[count] = {int32_t(a & in_block) | (pair ? kPair : 0), column, {weight[left], weight[left + 1]}};
                    bin[count] = int32_t(bins + a_block);
                    count += a >= 0;
                    share[count] = {int32_t(b & in_block), column, {weight[left + 1], T(0)}};
                    bin[count] = int32_t(bins + b_block);
                    count += (b >= 0) & !pair;
                }
            }
        }
    }
    return count;
}

// All shares, grouped by bin, in the order of the rows.
template <class T>
struct Shares {
    std::vector<int64_t> start;  // of each bin; [bins + 1]
    std::unique_ptr<Share<T>[]> list;

    template <class Weights>
    Shares(const SampleParams& p, const ScatterPlan& plan, const Weights& weights) : start(plan.bins + 1) {
        const int64_t room = kSortRows * p.kh * p.kw * p.groups * 4 + 1;
        std::unique_ptr<Share<T>[]> unsorted(new Share<T>[plan.sort_units * room]);
        std::unique_ptr<int32_t[]> bin_of(new int32_t[plan.sort_units * room]);
        std::vector<int64_t> listed(plan.sort_units);
        std::vector<int64_t> next(plan.sort_units * plan.bins, 0);  // per unit and bin: first its count, then its place
#pragma omp parallel for schedule(static) if (worth_threads(p))
        for (int64_t unit = 0; unit < plan.sort_units; unit++) {
            const int64_t begin = p.row_begin + unit * kSortRows, end = std::min(begin + kSortRows, p.row_end);
            const int32_t* bin = bin_of.get() + unit * room;
            listed[unit] = list_shares(p, plan, begin, end, weights, unsorted.get() + unit * room, bin_of.get() + unit * room);
            for (int64_t i = 0; i < listed[unit]; i++) next[unit * plan.bins + bin[i]]++;
        }
        int64_t total = 0;
        for (int64_t bin = 0; bin < plan.bins; bin++) {
            start[bin] = total;
            for (int64_t unit = 0; unit < plan.sort_units; unit++) {
                int64_t& place = next[unit * plan.bins + bin];
                const int64_t count = place;
                place = total;
                total += count;
            }
        }
        start[plan.bins] = total;
        list.reset(new Share<T>[total]);
#pragma omp parallel for schedule(static) if (worth_threads(p))
        for (int64_t unit = 0; unit < plan.sort_units; unit++) {
            const Share<T>* share = unsorted.get() + unit * room;
            const int32_t* bin = bin_of.get() + unit * room;
            int64_t* place = next.data() + unit * plan.bins;
            for (int64_t i = 0; i < listed[unit]; i++) list[place[bin[i]]++] = share[i];
        }
    }
};

// grad_x(corner, c) += weight(corner) * columns[n, k, c], for every corner inside the image.
//
// In:          offset, columns, and what `weights` reads.   Out: grad_x (added to).
// Threads:     each takes a block of pixels and a channel slice.
// Determinism: a pixel's sum is in ascending order of (row, tap).
template <class T, class Weights>
void scatter_columns(const SampleParams& p, const Weights& weights) {
    const ScatterPlan plan(p);
    const Shares<T> shares(p, plan, weights);
#pragma omp parallel for schedule(dynamic) if (worth_threads(p))
    for (int64_t unit = 0; unit < plan.bins * plan.slices; unit++) {
        const int64_t bin = unit / plan.slices, slice = unit % plan.slices, block = bin % plan.blocks;
        const int64_t group = bin / plan.blocks % p.groups, image = plan.first_image + bin / plan.blocks / p.groups;
        const int64_t channel = group * (p.C / p.groups) + plan.slice_begin(p, slice);
        const int64_t width = plan.slice_width(p, slice);
        T* block_x = static_cast<T*>(p.grad_x) + (image * p.H * p.W + (block << plan.block_log2)) * p.C + channel;
        for (int64_t i = shares.start[bin]; i < shares.start[bin + 1]; i++) {
            const Share<T>& share = shares.list[i];
            if (i + kAhead < shares.start[bin + 1]) {
                const T* ahead = static_cast<const T*>(p.columns) + int64_t(shares.list[i + kAhead].column) * p.C + channel;
                for (int64_t c = 0; c < width; c += 64 / sizeof(T)) __builtin_prefetch(ahead + c);
            }
            const T* column = static_cast<const T*>(p.columns) + int64_t(share.column) * p.C + channel;
            T *x0 = block_x + int64_t(share.place & ~kPair) * p.C, *x1 = x0 + p.C;
            const T w0 = share.weight[0], w1 = share.weight[1];
            if (share.place < 0) {
#pragma omp simd
                for (int64_t c = 0; c < width; c++) {
                    x0[c] += w0 * column[c];
                    x1[c] += w1 * column[c];
                }
            } else {
#pragma omp simd
                for (int64_t c = 0; c < width; c++) x0[c] += w0 * column[c];
            }
        }
    }
}

}  // namespace
