// Shared by the CUDA kernels: 16-byte loads and stores, sums over a team, and the location of a tap's data.
//
// S is the storage type of x, columns and gg_x (float, double, half, bfloat16); T, float or double, is the type of
// offsets, masks, weights and all sums.
#pragma once

#include "launch.h"
#include "sampling.h"

#include <cstring>

#ifndef MTM_CUDA_ON_HOST  // tests/ops/cuda_on_host.h runs these kernels on the CPU instead
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define MTM_LAUNCH(kernel, blocks, threads, stream, ...) \
    kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#endif

namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

template <class T, class S>
__device__ __forceinline__ T widen(S v) {
    return static_cast<T>(v);
}
template <class S, class T>
__device__ __forceinline__ S narrow(T v) {
    return static_cast<S>(v);
}

// Vector neighbouring channels.
template <class S, int Vector>
struct alignas(sizeof(S) * Vector < 16 ? sizeof(S) * Vector : 16) Pack {
    S v[Vector];
};

// One 16-byte access for a whole vector: for half types, the compiler would make four 4-byte accesses of it.
template <class S, int Vector>
__device__ __forceinline__ Pack<S, Vector> load_pack(const S* from) {
    Pack<S, Vector> pack;
    if constexpr (sizeof(pack) == 16) {
        const uint4 raw = *reinterpret_cast<const uint4*>(from);
        memcpy(&pack, &raw, 16);
    } else if constexpr (sizeof(pack) == 32) {  // float sums of 8 halves
        const uint4 raw[2] = {reinterpret_cast<const uint4*>(from)[0], reinterpret_cast<const uint4*>(from)[1]};
        memcpy(&pack, raw, 32);
    } else {
        pack = *reinterpret_cast<const Pack<S, Vector>*>(from);
    }
    return pack;
}

template <class T, class S, int Vector>
__device__ __forceinline__ void store(S* to, const T (&from)[Vector]) {
    Pack<S, Vector> pack;
#pragma unroll
    for (int i = 0; i < Vector; i++) pack.v[i] = narrow<S>(from[i]);
    if constexpr (sizeof(pack) == 16) {
        uint4 raw;
        memcpy(&raw, &pack, 16);
        *reinterpret_cast<uint4*>(to) = raw;
    } else if constexpr (sizeof(pack) == 32) {
        uint4 raw[2];
        memcpy(raw, &pack, 32);
        reinterpret_cast<uint4*>(to)[0] = raw[0];
        reinterpret_cast<uint4*>(to)[1] = raw[1];
    } else {
        *reinterpret_cast<Pack<S, Vector>*>(to) = pack;
    }
}

// to = v, or to += v.
template <class T, class S, int Vector>
__device__ __forceinline__ void add_or_write(S* to, const T (&v)[Vector], bool write) {
    if (write) return store<T, S, Vector>(to, v);
    const Pack<S, Vector> before = load_pack<S, Vector>(to);
    T sum[Vector];
#pragma unroll
    for (int i = 0; i < Vector; i++) sum[i] = widen<T>(before.v[i]) + v[i];
    store<T, S, Vector>(to, sum);
}

// Sum over a team, in a fixed order. Every lane of the warp takes part.
template <int Team, class T>
__device__ __forceinline__ T team_sum(T v) {
#pragma unroll
    for (int lanes = Team / 2; lanes > 0; lanes /= 2) v += __shfl_xor_sync(kAllLanes, v, lanes);
    return v;
}

// A range of rows, in 32 bits: 64-bit divisions would cost more than the sampling. mtm_ops/_native.py and _chunks.py
// ensure that H*W is below 2^31, and that 4*taps*groups times the rows of a range is below 2^32.
struct Chunk {
    int64_t first_image;
    uint32_t first_place;  // of the first row within its image
    uint32_t rows, images;
    uint32_t places, pixels, taps, groups, width, C, Wo, kw, parts;

    Chunk(const SampleParams& p, int64_t begin, int64_t end) {
        const int64_t all_places = p.Ho * p.Wo;
        first_image = begin / all_places;
        first_place = uint32_t(begin - first_image * all_places);
        rows = uint32_t(end - begin);
        images = rows ? uint32_t((end + all_places - 1) / all_places - first_image) : 0;
        places = uint32_t(all_places), pixels = uint32_t(p.H * p.W), taps = uint32_t(p.kh * p.kw);
        groups = uint32_t(p.groups), C = uint32_t(p.C), width = C / groups;
        Wo = uint32_t(p.Wo), kw = uint32_t(p.kw), parts = uint32_t(p.parts);
    }
};

// image: counted from the chunk's first.
__device__ __forceinline__ Row row_at(const Chunk& chunk, uint32_t image, uint32_t place) {
    const uint32_t oy = place / chunk.Wo;
    return {chunk.first_image + image, place, oy, place - oy * chunk.Wo};
}

template <class T>
__device__ __forceinline__ void locate(const SampleParams& p, const Chunk& chunk, const Row& row, uint32_t g, uint32_t k,
                                       Tap<T>& tap) {
    const uint32_t ky = k / chunk.kw;
    locate_tap_at(p, row, g, k, ky, k - ky * chunk.kw, tap);
}

template <class T>
__device__ __forceinline__ T mask_of(const SampleParams& p, const Row& row, int64_t g, int64_t k) {
    return p.mask ? static_cast<const T*>(p.mask)[mask_index(p, row, g, k)] : T(1);
}

template <class T>
__device__ __forceinline__ void load_cotangents(const SampleParams& p, const Row& row, int64_t g, int64_t k, T (&gg)[3]) {
    const T* offset = static_cast<const T*>(p.gg_offset) + offset_index(p, row, g, k);
    gg[0] = offset[0];
    gg[1] = offset[p.Ho * p.Wo];
    gg[2] = p.gg_mask ? static_cast<const T*>(p.gg_mask)[mask_index(p, row, g, k)] : T(0);
}

// The weights with which a tap's column is added to the corners in grad_x: m * value, or tangent_weights with Second.
template <class T, bool Second>
__device__ __forceinline__ void scatter_weights(const SampleParams& p, const Row& row, int64_t g, int64_t k,
                                                const Tap<T>& tap, T (&weight)[4]) {
    const T m = mask_of<T>(p, row, g, k);
    if constexpr (Second) {
        T gg[3];
        load_cotangents<T>(p, row, g, k, gg);
        tangent_weights(tap, m, gg[0], gg[1], gg[2], weight);
    } else {
#pragma unroll
        for (int a = 0; a < 4; a++) weight[a] = m * tap.value[a];
    }
}

}  // namespace
