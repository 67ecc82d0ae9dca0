// Conversion between NCHW and NHWC on CUDA: transposes each image's [rows, columns], for any type of 2, 4 or 8 bytes.
#pragma once

#include "cuda_device.h"

// Mirrored by mtm_ops/_matrix.py (class TransposeParams).
struct TransposeParams {
    int64_t batch, rows, columns;
    const void* in;  // [batch, rows, columns]
    void* out;       // [batch, columns, rows]
};

namespace {

// out[b, j, i] = in[b, i, j], through shared memory, so that reads and writes cover whole sectors.
//
// Threads: a block per tile of side 32 * Vector; a lane moves Vector neighbours: two for types of 2 bytes, if both
//          sides allow it.
template <class S, int Vector>
__global__ void __launch_bounds__(kThreadsPerBlock) transpose_kernel(TransposeParams p) {
    constexpr int Side = 32 * Vector;
    __shared__ S tile[Side][Side + Vector];  // an odd number of words per line avoids bank conflicts between lines
    const int lane = threadIdx.x % 32 * Vector, warp = threadIdx.x / 32;
    const int64_t across = (p.columns + Side - 1) / Side, down = (p.rows + Side - 1) / Side;
    const int64_t tiles = p.batch * down * across;
    for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
        const int64_t b = t / (down * across), rest = t - b * down * across;
        const int64_t i0 = rest / across * Side, j0 = rest % across * Side;
        const S* in = static_cast<const S*>(p.in) + b * p.rows * p.columns + j0;
        S* out = static_cast<S*>(p.out) + b * p.rows * p.columns + i0;
#pragma unroll
        for (int i = 0; i < Side; i += kWarpsPerBlock) {
            if (i0 + i + warp >= p.rows || j0 + lane >= p.columns) continue;
            const Pack<S, Vector> v = load_pack<S, Vector>(in + (i0 + i + warp) * p.columns + lane);
#pragma unroll
            for (int a = 0; a < Vector; a++) tile[i + warp][lane + a] = v.v[a];
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < Side; j += kWarpsPerBlock) {
            if (j0 + j + warp >= p.columns || i0 + lane >= p.rows) continue;
            Pack<S, Vector> v;
#pragma unroll
            for (int a = 0; a < Vector; a++) v.v[a] = tile[lane + a][j + warp];
            *reinterpret_cast<Pack<S, Vector>*>(out + (j0 + j + warp) * p.rows + lane) = v;
        }
        __syncthreads();
    }
}

template <class S, int Vector>
void launch_tiles(const TransposeParams& p, void* stream) {
    constexpr int64_t Side = 32 * Vector;
    const int64_t tiles = p.batch * ((p.rows + Side - 1) / Side) * ((p.columns + Side - 1) / Side);
    if (tiles == 0) return;
    MTM_LAUNCH((transpose_kernel<S, Vector>), int(tiles < kMaxBlocks ? tiles : kMaxBlocks), kThreadsPerBlock, stream, p);
}

template <class S>
void launch_transpose(const TransposeParams& p, void* stream) {
    const auto address = reinterpret_cast<uintptr_t>(p.in) | reinterpret_cast<uintptr_t>(p.out);
    if constexpr (sizeof(S) == 2) {
        if (p.rows % 2 == 0 && p.columns % 2 == 0 && address % 4 == 0) return launch_tiles<S, 2>(p, stream);
    }
    launch_tiles<S, 1>(p, stream);
}

}  // namespace
