// The CUDA kernels over output pixels: gather, and the gradients of columns, offset and mask to the second order.
#pragma once

#include "cuda_device.h"

namespace {

// Where one pixel of a warp's tile samples, for one tap and group. Computed by one lane, read by a team.
template <class T>
struct Place {
    int32_t pixel[4];  // as in Tap
    uint32_t image;    // counted from the chunk's first
    T weight[4];
};

template <class T>
__device__ __forceinline__ void set_place(Place<T>& place, uint32_t image, const Tap<T>& tap, T m) {
    place.image = image;
#pragma unroll
    for (int a = 0; a < 4; a++) {
        place.pixel[a] = int32_t(tap.pixel[a]);
        place.weight[a] = m * tap.value[a];
    }
}

// A warp's tile: neighbouring rows, for one tap and group.
struct Tile {
    uint32_t row, rows;  // row: counted from the chunk's first
    uint32_t g, k;

    __device__ __forceinline__ Tile(const Chunk& chunk, uint32_t size, uint32_t number) {
        const uint32_t kinds = chunk.taps * chunk.groups, tile = number / kinds, kind = number - tile * kinds;
        row = tile * size;
        rows = chunk.rows - row < size ? chunk.rows - row : size;
        k = kind / chunk.groups;
        g = kind - k * chunk.groups;
    }

    // Position of the tap's first channel in the columns, for row r of the tile.
    __device__ __forceinline__ int64_t column(const Chunk& chunk, uint32_t r) const {
        return (int64_t(row + r) * chunk.taps + k) * chunk.C + g * chunk.width;
    }
};

__device__ __forceinline__ uint32_t count_tiles(const Chunk& chunk, uint32_t size) {
    return (chunk.rows + size - 1) / size * chunk.taps * chunk.groups;
}

// The image that a chunk's row belongs to, and its place there.
struct Located {
    uint32_t image, place;  // image: counted from the chunk's first

    __device__ __forceinline__ Located(const Chunk& chunk, uint32_t row) {
        image = (chunk.first_place + row) / chunk.places;
        place = chunk.first_place + row - image * chunk.places;
    }
};

// Loads Vector channels of each corner; zero outside the image. In storage type: widened, they would not fit into
// registers. `image`: the image's first element, at the lane's channel.
template <class S, class T, int Vector>
__device__ __forceinline__ void load_corners(const S* image, const Place<T>& place, uint32_t C,
                                             Pack<S, Vector> (&corner)[4]) {
#pragma unroll
    for (int a = 0; a < 4; a++) {
        corner[a] = Pack<S, Vector>{};
        if (place.pixel[a] >= 0) corner[a] = load_pack<S, Vector>(image + int64_t(place.pixel[a]) * C);
    }
}

template <class T>
__device__ __forceinline__ void add_gradient(const SampleParams& p, void* to, int64_t at, T v) {
    T* place = static_cast<T*>(to) + at;
    *place = p.first_call ? v : *place + v;
}

template <class T>
__device__ __forceinline__ void add_tap_gradients(const SampleParams& p, const Row& row, int64_t g, int64_t k, T to_y,
                                                  T to_x, T to_m) {
    if (p.grad_offset) {
        const int64_t at = offset_index(p, row, g, k);
        add_gradient(p, p.grad_offset, at, to_y);
        add_gradient(p, p.grad_offset, at + p.Ho * p.Wo, to_x);
    }
    if (p.grad_mask) add_gradient(p, p.grad_mask, mask_index(p, row, g, k), to_m);
}

// columns[n, k, c] = m * sum_corner value(corner) * x(corner, c)
//
// In:        x [B, H, W, C] S, offset, mask T.   Out: columns [rows, kh*kw, C] S.
// Threads:   launch.h. Border: corners outside count as zero. Requires: pointers aligned to Vector * sizeof(S).
// Memory:    each corner is read once per tap (neighbouring taps share them through the caches), columns written once.
// Reference: mtm_ops/reference.py, sample_columns.
template <class S, class T, int Vector, int Team>
__global__ void __launch_bounds__(kThreadsPerBlock, 4) gather_kernel(SampleParams p, Chunk chunk, uint32_t tile_size) {
    __shared__ Place<T> places[kThreadsPerBlock];
    const uint32_t in_warp = threadIdx.x % 32, lane = threadIdx.x % Team, first = in_warp / Team;
    Place<T>* const own = places + threadIdx.x / 32 * 32;
    const uint32_t tiles = count_tiles(chunk, tile_size), step = gridDim.x * uint32_t(kWarpsPerBlock);
    for (uint32_t i = blockIdx.x * uint32_t(kWarpsPerBlock) + threadIdx.x / 32; i < tiles; i += step) {
        const Tile tile(chunk, tile_size, i);
        if (in_warp < tile.rows) {
            const Located at(chunk, tile.row + in_warp);
            const Row row = row_at(chunk, at.image, at.place);
            Tap<T> tap;
            locate(p, chunk, row, tile.g, tile.k, tap);
            const T m = mask_of<T>(p, row, tile.g, tile.k);
            set_place(own[in_warp], at.image, tap, m);
        }
        __syncwarp();
        for (uint32_t r = first; r < tile.rows; r += 32 / Team) {
            const Place<T>& place = own[r];
            const int64_t image = chunk.first_image + place.image;
            const S* x = static_cast<const S*>(p.x) + image * chunk.pixels * chunk.C + tile.g * chunk.width;
            S* out = static_cast<S*>(p.columns) + tile.column(chunk, r);
            for (uint32_t c = lane * Vector; c < chunk.width; c += Team * Vector) {
                Pack<S, Vector> corner[4];
                T sum[Vector] = {};
                load_corners<S, T, Vector>(x + c, place, chunk.C, corner);
#pragma unroll
                for (int a = 0; a < 4; a++) {
#pragma unroll
                    for (int j = 0; j < Vector; j++) sum[j] += place.weight[a] * widen<T>(corner[a].v[j]);
                }
                store<T, S, Vector>(out + c, sum);
            }
        }
        __syncwarp();
    }
}

// Without Second, with g the gradient of the columns:
//   grad_offset, grad_mask += first_order(sum_c g * x(corner))
//   columns[n, k, c] = as in gather_kernel; overwrites g
// With Second, the gradient of these and of grad_x_kernel's, for cotangents gg_x, gg_offset, gg_mask;
// e = tangent_weights:
//   grad_offset, grad_mask += second_order(sum_c g * x(corner), sum_c g * gg_x(corner))
//   columns[n, k, c] = sum_corner m * value(corner) * gg_x(corner, c) + e(corner) * x(corner, c); overwrites g
//
// In:        x, offset, mask, columns (holding g); if Second, gg_x [B, H, W, C] S, gg_offset, gg_mask T.
// Out:       columns if keep_columns; grad_offset and grad_mask T: the first call for these rows writes them, later
//            calls add to them.
// Threads:   launch.h; the lane that located a pixel's tap adds to that tap's offset and mask gradients.
// Reference: first and second order autograd of mtm_ops/reference.py, sample_columns.
template <class S, class T, int Vector, int Team, bool Second>
__global__ void __launch_bounds__(kThreadsPerBlock, 2)
    tap_gradient_kernel(SampleParams p, Chunk chunk, uint32_t tile_size) {
    constexpr int Dots = Second ? 8 : 4;  // products with x, and, if Second, with gg_x
    __shared__ Place<T> places[kThreadsPerBlock];
    __shared__ T tangent[Second ? kThreadsPerBlock : 1][4];  // e
    __shared__ T dots[kThreadsPerBlock][Dots];
    const uint32_t in_warp = threadIdx.x % 32, lane = threadIdx.x % Team, warp_begin = threadIdx.x / 32 * 32;
    const uint32_t tiles = count_tiles(chunk, tile_size), step = gridDim.x * uint32_t(kWarpsPerBlock);
    for (uint32_t i = blockIdx.x * uint32_t(kWarpsPerBlock) + threadIdx.x / 32; i < tiles; i += step) {
        const Tile tile(chunk, tile_size, i);
        const Located own(chunk, tile.row + (in_warp < tile.rows ? in_warp : 0));
        const Row row = row_at(chunk, own.image, own.place);
        if (in_warp < tile.rows) {
            Place<T>& place = places[threadIdx.x];
            Tap<T> tap;
            locate(p, chunk, row, tile.g, tile.k, tap);
            const T m = mask_of<T>(p, row, tile.g, tile.k);
            set_place(place, own.image, tap, m);
            if constexpr (Second) scatter_weights<T, true>(p, row, tile.g, tile.k, tap, tangent[threadIdx.x]);
        }
        __syncwarp();
        // All teams of a warp run the same number of iterations, because team_sum needs all its lanes.
        for (uint32_t begin = 0; begin < tile.rows; begin += 32 / Team) {
            const uint32_t r = begin + in_warp / Team;
            T dot[Dots] = {};
            if (r < tile.rows) {
                const Place<T>& place = places[warp_begin + r];
                const int64_t image = chunk.first_image + place.image;
                const int64_t x = image * chunk.pixels * chunk.C + tile.g * chunk.width;
                S* column = static_cast<S*>(p.columns) + tile.column(chunk, r);
                for (uint32_t c = lane * Vector; c < chunk.width; c += Team * Vector) {
                    const Pack<S, Vector> g = load_pack<S, Vector>(column + c);
                    Pack<S, Vector> corner[4];
                    T out[Vector] = {};
                    load_corners<S, T, Vector>(static_cast<const S*>(p.x) + x + c, place, chunk.C, corner);
#pragma unroll
                    for (int a = 0; a < 4; a++) {
                        const T weight = Second ? tangent[warp_begin + r][a] : place.weight[a];
#pragma unroll
                        for (int j = 0; j < Vector; j++) {
                            const T v = widen<T>(corner[a].v[j]);
                            dot[a] += widen<T>(g.v[j]) * v;
                            out[j] += weight * v;
                        }
                    }
                    if constexpr (Second) {
                        load_corners<S, T, Vector>(static_cast<const S*>(p.gg_x) + x + c, place, chunk.C, corner);
#pragma unroll
                        for (int a = 0; a < 4; a++) {
#pragma unroll
                            for (int j = 0; j < Vector; j++) {
                                const T v = widen<T>(corner[a].v[j]);
                                dot[4 + a] += widen<T>(g.v[j]) * v;
                                out[j] += place.weight[a] * v;
                            }
                        }
                    }
                    if (p.keep_columns) store<T, S, Vector>(column + c, out);
                }
            }
#pragma unroll
            for (int a = 0; a < Dots; a++) {
                dot[a] = team_sum<Team>(dot[a]);
                if (lane == 0 && r < tile.rows) dots[warp_begin + r][a] = dot[a];
            }
        }
        __syncwarp();
        if (in_warp < tile.rows) {
            Tap<T> tap;  // recomputed: kept, it would take twenty registers from the loop above
            locate(p, chunk, row, tile.g, tile.k, tap);
            const T m = mask_of<T>(p, row, tile.g, tile.k);
            const T* dot = dots[threadIdx.x];
            T to_y, to_x, to_m;
            if constexpr (Second) {
                T gg[3];
                load_cotangents<T>(p, row, tile.g, tile.k, gg);
                second_order(tap, m, gg[0], gg[1], gg[2], dot, dot + 4, to_y, to_x, to_m);
            } else {
                first_order(tap, m, dot, to_y, to_x, to_m);
            }
            add_tap_gradients(p, row, tile.g, tile.k, to_y, to_x, to_m);
        }
        __syncwarp();
    }
}

}  // namespace
