// x's gradient on CUDA: each pixel gathers the shares of the taps that sampled it, in the order of the inverse index.
#pragma once

#include "cuda_index.h"

namespace {

constexpr uint32_t kCrowd = 1024;  // largest number of addends of a pixel that one team sums alone

// Which tap a lane adds next, and with which weight.
template <class T>
struct Addend {
    uint32_t column;  // number of the tap within the columns: row from the index's first, then tap
    T weight;
};

// Addend number i of a pixel, counted through its index parts in order.
template <class T, bool Second>
__device__ __forceinline__ Addend<T> find_addend(const SampleParams& p, const Chunk& indexed, uint32_t image, uint32_t g,
                                                 uint32_t pixel, uint32_t i) {
    Segment segment;
    uint32_t begin = 0;
    for (uint32_t part = 0;; part++) {
        segment = locate_segment(indexed, image, g, part);
        const uint32_t* starts = static_cast<const uint32_t*>(p.index_starts) + segment.starts + pixel;
        const uint32_t count = starts[1] - starts[0];
        begin = starts[0];
        if (i < count) break;
        i -= count;
    }
    const uint32_t id = static_cast<const uint32_t*>(p.index)[segment.entries + begin + i];
    const uint32_t t = id / 4, k = t / segment.rows, r = t - k * segment.rows;
    const Row row = row_at(indexed, image, segment.place + r);
    Tap<T> tap;
    T weight[4];
    locate(p, indexed, row, g, k, tap);
    scatter_weights<T, Second>(p, row, g, k, tap, weight);
    // Selected, not indexed: indexing with a runtime value would move the weights to local memory.
    const T upper = id & 1 ? weight[1] : weight[0], lower = id & 1 ? weight[3] : weight[2];
    return {(segment.row + r) * indexed.taps + k, id & 2 ? lower : upper};
}

__device__ __forceinline__ uint32_t count_addends(const SampleParams& p, const Chunk& indexed, uint32_t image, uint32_t g,
                                                  uint32_t pixel) {
    uint32_t count = 0;
    for (uint32_t part = 0; part < indexed.parts; part++) {
        const int64_t at = locate_segment(indexed, image, g, part).starts + pixel;
        const uint32_t* starts = static_cast<const uint32_t*>(p.index_starts) + at;
        count += starts[1] - starts[0];
    }
    return count;
}

// What a team sums: Vector channels per lane of one pixel and offset group, from channel c on.
struct PixelTask {
    uint32_t image, listed;  // the image, from the chunk's first and from the index's first
    uint32_t pixel, g, c;
    bool live;               // whether the lane has channels

    __device__ __forceinline__ PixelTask(const Chunk& chunk, const Chunk& indexed, int64_t number, uint32_t slices,
                                         uint32_t slice_lanes, uint32_t lane, uint32_t vector) {
        const uint32_t per_pixel = slices * chunk.groups;
        const int64_t image_pixel = number / per_pixel;
        image = uint32_t(image_pixel / chunk.pixels);
        pixel = uint32_t(image_pixel - int64_t(image) * chunk.pixels);
        listed = image + uint32_t(chunk.first_image - indexed.first_image);
        const uint32_t rest = uint32_t(number - image_pixel * per_pixel);
        g = rest / slices;
        const uint32_t in_group = ((rest - g * slices) * slice_lanes + lane) * vector;
        c = g * chunk.width + in_group;
        live = in_group < chunk.width;
    }
};

// sum += weight * g(c) of the task's addends [begin, begin + Team), [begin + step, begin + step + Team) and so on.
template <class S, class T, int Vector, int Team, bool Second>
__device__ __forceinline__ void sum_addends(const SampleParams& p, const Chunk& chunk, const Chunk& indexed,
                                            const PixelTask& task, uint32_t count, uint32_t begin, uint32_t step,
                                            T (&sum)[Vector]) {
    const uint32_t lane = threadIdx.x % Team;
    const unsigned team = Team == 32 ? kAllLanes : ((1u << Team % 32) - 1) << (threadIdx.x % 32 / Team * Team);
    // Points to where the columns of the index's first row would be.
    const S* columns = static_cast<const S*>(p.columns) - (p.row_begin - p.index_begin) * chunk.taps * chunk.C + task.c;
    for (uint32_t base = begin; base < count; base += step) {
        Addend<T> mine{0, T(0)};
        if (base + lane < count) mine = find_addend<T, Second>(p, indexed, task.listed, task.g, task.pixel, base + lane);
        const int here = count - base < Team ? int(count - base) : Team;
#pragma unroll 4
        for (int j = 0; j < here; j++) {
            const uint32_t column = __shfl_sync(team, mine.column, j, Team);
            const T weight = __shfl_sync(team, mine.weight, j, Team);
            if (!task.live) continue;
            const Pack<S, Vector> v = load_pack<S, Vector>(columns + int64_t(column) * chunk.C);
#pragma unroll
            for (int a = 0; a < Vector; a++) sum[a] += weight * widen<T>(v.v[a]);
        }
    }
}

// grad_x(pixel, c) = sum over the corners at that pixel of weight * g(c); g: the columns; weight: see scatter_weights.
//
// In:          index, offset, mask, columns; if Second, gg_offset and gg_mask.   Out: grad_x [B, H, W, C], in T, or in
//              S if p.stored_grad_x. The first call for an image's first row writes it, later calls add to it.
// Threads:     a team per pixel, group and slice of Team * Vector channels. Each lane looks up one of Team addends.
//              A pixel with more than kCrowd addends is shared among all teams of its block.
// Determinism: a pixel's sum has the index's order; how it is split among teams depends on the number of addends only.
// Reference:   first and second order autograd of mtm_ops/reference.py, sample_columns.
template <class S, class T, int Vector, int Team, bool Second>
__global__ void __launch_bounds__(kThreadsPerBlock, 4) grad_x_kernel(SampleParams p, Chunk chunk, Chunk indexed) {
    constexpr uint32_t Teams = kThreadsPerBlock / Team;
    __shared__ uint32_t counts[Teams];
    __shared__ T partial[Vector][kThreadsPerBlock];
    const uint32_t lane = threadIdx.x % Team, team = threadIdx.x / Team;
    const uint32_t slices = (chunk.width + Team * Vector - 1) / (Team * Vector);
    const int64_t tasks = int64_t(chunk.images) * chunk.pixels * slices * chunk.groups, step = int64_t(gridDim.x) * Teams;
    const auto task_of = [&](int64_t i) { return PixelTask(chunk, indexed, i, slices, Team, lane, Vector); };
    const auto write = [&](const PixelTask& task, const T(&sum)[Vector]) {
        if (!task.live) return;
        const int64_t at = ((chunk.first_image + task.image) * chunk.pixels + task.pixel) * chunk.C + task.c;
        const bool first = p.first_call && (task.image || chunk.first_place == 0);
        if (p.stored_grad_x) {
            add_or_write<T, S, Vector>(static_cast<S*>(p.grad_x) + at, sum, first);
        } else {
            add_or_write<T, T, Vector>(static_cast<T*>(p.grad_x) + at, sum, first);
        }
    };
    for (int64_t base = int64_t(blockIdx.x) * Teams; base < tasks; base += step) {
        if (base + team < tasks) {
            const PixelTask task = task_of(base + team);
            const uint32_t count = count_addends(p, indexed, task.listed, task.g, task.pixel);
            if (lane == 0) counts[team] = count;
            if (count <= kCrowd) {
                T sum[Vector] = {};
                sum_addends<S, T, Vector, Team, Second>(p, chunk, indexed, task, count, 0, Team, sum);
                write(task, sum);
            }
        } else if (lane == 0) {
            counts[team] = 0;
        }
        __syncthreads();
        for (uint32_t crowded = 0; crowded < Teams; crowded++) {
            if (counts[crowded] <= kCrowd) continue;
            const PixelTask task = task_of(base + crowded);
            T sum[Vector] = {};
            sum_addends<S, T, Vector, Team, Second>(p, chunk, indexed, task, counts[crowded], team * Team, kThreadsPerBlock,
                                                    sum);
#pragma unroll
            for (int a = 0; a < Vector; a++) partial[a][threadIdx.x] = sum[a];
            __syncthreads();
            if (team == crowded) {
#pragma unroll
                for (int a = 0; a < Vector; a++) {
                    sum[a] = T(0);
                    for (uint32_t of = 0; of < Teams; of++) sum[a] += partial[a][of * Team + lane];
                }
                write(task, sum);
            }
            __syncthreads();
        }
        __syncthreads();
    }
}

}  // namespace
