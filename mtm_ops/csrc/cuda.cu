// The CUDA kernels of the sampling: gather, its gradient, and the gradient's gradient. Loaded with ctypes: no torch header,
// so a build takes seconds. Arithmetic and tensor layouts: sampling.h. Launch shapes: launch.h.
//
// Types:       S is what x, columns and gg_x are stored in (float, double, half, bfloat16); T, float or double, is what
//              offsets, masks, weights and every sum are in.
// Threads:     a team per tap, row and group (launch.h), its threads striding over the channels, 16 bytes at a time.
// Streams:     everything runs on the stream that is passed; nothing synchronises or allocates, so graphs capture it.
// Determinism: all but grad_x is free of atomics. With params.deterministic, grad_x is too: scatter_kernel, where a
//              thread owns a channel of an image, adds in a fixed order.
#include "launch.h"
#include "sampling.h"

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

// Vector neighbouring channels, moved as one access of up to 16 bytes.
template <class S, int Vector>
struct alignas(sizeof(S) * Vector) Pack {
    S v[Vector];
};

template <class T, class S, int Vector>
__device__ __forceinline__ void load(const S* from, T (&to)[Vector]) {
    const Pack<S, Vector> pack = *reinterpret_cast<const Pack<S, Vector>*>(from);
#pragma unroll
    for (int i = 0; i < Vector; i++) to[i] = widen<T>(pack.v[i]);
}

template <class T, class S, int Vector>
__device__ __forceinline__ void store(S* to, const T (&from)[Vector]) {
    Pack<S, Vector> pack;
#pragma unroll
    for (int i = 0; i < Vector; i++) pack.v[i] = narrow<S>(from[i]);
    *reinterpret_cast<Pack<S, Vector>*>(to) = pack;
}

// Adds Vector floats to global memory; four at a time where the hardware can.
template <class T, int Vector>
__device__ __forceinline__ void add_atomically(T* to, const T (&v)[Vector]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (sizeof(T) == 4 && Vector % 4 == 0) {
#pragma unroll
        for (int i = 0; i < Vector; i += 4)
            atomicAdd(reinterpret_cast<float4*>(to + i), make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]));
    } else
#endif
    {
#pragma unroll
        for (int i = 0; i < Vector; i++) atomicAdd(to + i, v[i]);
    }
}

// Sum over a team, in a fixed order. Every lane of the warp takes part.
template <int Team, class T>
__device__ __forceinline__ T team_sum(T v) {
#pragma unroll
    for (int lanes = Team / 2; lanes > 0; lanes /= 2) v += __shfl_xor_sync(kAllLanes, v, lanes);
    return v;
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

template <class T>
__device__ __forceinline__ void add_tap_gradients(const SampleParams& p, const Row& row, int64_t g, int64_t k, T to_y,
                                                  T to_x, T to_m) {
    T* offset = static_cast<T*>(p.grad_offset) + offset_index(p, row, g, k);
    offset[0] += to_y;
    offset[p.Ho * p.Wo] += to_x;
    if (p.grad_mask) static_cast<T*>(p.grad_mask)[mask_index(p, row, g, k)] += to_m;
}

// One team's share of a kernel: which row, tap and group, where they sample, and where their channels lie.
template <class S, class T>
struct Task {
    Row row;
    int64_t g, k;
    Tap<T> tap;
    T m;
    int64_t image;   // first element of the image in an x-like tensor, at this group's first channel
    int64_t column;  // first element of the tap's channels in columns
};

template <class S, class T>
__device__ __forceinline__ Task<S, T> locate_task(const SampleParams& p, int64_t index) {
    const int64_t taps = p.kh * p.kw, width = p.C / p.groups;
    Task<S, T> task;
    const int64_t n = index / (taps * p.groups), rest = index - n * taps * p.groups;
    task.k = rest / p.groups;
    task.g = rest - task.k * p.groups;
    task.row = locate_row(p, p.row_begin + n);
    locate_tap_of_row(p, task.row, task.g, task.k, task.tap);
    task.m = mask_of<T>(p, task.row, task.g, task.k);
    task.image = task.row.image * p.H * p.W * p.C + task.g * width;
    task.column = (n * taps + task.k) * p.C + task.g * width;
    return task;
}

// Loads Vector channels of each corner; zero outside the image. As stored: widened they would not fit the registers.
template <class S, class T, int Vector>
__device__ __forceinline__ void load_corners(const SampleParams& p, const void* x, const Task<S, T>& task, int64_t c,
                                             Pack<S, Vector> (&corner)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        corner[i] = Pack<S, Vector>{};
        if (task.tap.pixel[i] >= 0)
            corner[i] = *reinterpret_cast<const Pack<S, Vector>*>(static_cast<const S*>(x) + task.image +
                                                                  task.tap.pixel[i] * p.C + c);
    }
}

// Adds weight * g to grad_x at each corner, with atomics.
template <class S, class T, int Vector>
__device__ __forceinline__ void scatter(const SampleParams& p, const Task<S, T>& task, int64_t c, const T (&weight)[4],
                                        const T (&g)[Vector]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (task.tap.pixel[i] < 0) continue;
        T part[Vector];
#pragma unroll
        for (int j = 0; j < Vector; j++) part[j] = weight[i] * g[j];
        add_atomically(static_cast<T*>(p.grad_x) + task.image + task.tap.pixel[i] * p.C + c, part);
    }
}

__device__ __forceinline__ int64_t count_tasks(const SampleParams& p) {
    return (p.row_end - p.row_begin) * p.kh * p.kw * p.groups;
}

// columns[n, k, c] = m * sum_corner value(corner) * x(corner, c)
//
// In:        x [B, H, W, C] S, offset, mask T.   Out: columns [rows, kh*kw, C] S.
// Threads:   a team per tap. Border: corners outside count as zero. Requires: pointers aligned to Vector * sizeof(S).
// Memory:    each corner is read once per tap (neighbouring taps share them through the caches), columns written once.
// Reference: mtm_ops/reference.py, sample_columns.
template <class S, class T, int Vector, int Team>
__global__ void __launch_bounds__(kThreadsPerBlock) gather_kernel(SampleParams p) {
    const int lane = threadIdx.x % Team;
    const int64_t tasks = count_tasks(p), width = p.C / p.groups, step = int64_t(gridDim.x) * (blockDim.x / Team);
    for (int64_t i = int64_t(blockIdx.x) * (blockDim.x / Team) + threadIdx.x / Team; i < tasks; i += step) {
        const Task<S, T> task = locate_task<S, T>(p, i);
        for (int64_t c = lane * Vector; c < width; c += Team * Vector) {
            Pack<S, Vector> corner[4];
            T out[Vector];
            load_corners<S, T, Vector>(p, p.x, task, c, corner);
#pragma unroll
            for (int j = 0; j < Vector; j++) {
                T sum = T(0);
#pragma unroll
                for (int a = 0; a < 4; a++) sum += task.tap.value[a] * widen<T>(corner[a].v[j]);
                out[j] = task.m * sum;
            }
            store<T, S, Vector>(static_cast<S*>(p.columns) + task.column + c, out);
        }
    }
}

// With g the gradient of the columns:
//   grad_x(corner, c) += m * value(corner) * g(c);   grad_offset, grad_mask += first_order(sum_c g * x(corner))
//   columns[n, k, c] = what gather_kernel gives, in g's place
//
// In:        x, offset, mask, columns (holding g).   Out: grad_x [B, H, W, C] T, grad_offset, grad_mask T (added to),
//            columns.
// Threads:   a team per tap, which alone adds to that tap's offset and mask gradient; grad_x with atomics, or, with
//            params.deterministic, not at all: then scatter_kernel has run before.
// Reference: autograd of mtm_ops/reference.py, sample_columns.
template <class S, class T, int Vector, int Team>
__global__ void __launch_bounds__(kThreadsPerBlock) backward_kernel(SampleParams p) {
    const int lane = threadIdx.x % Team;
    const int64_t tasks = count_tasks(p), width = p.C / p.groups, step = int64_t(gridDim.x) * (blockDim.x / Team);
    const int64_t first = int64_t(blockIdx.x) * (blockDim.x / Team);
    // All teams of a block go round together, since all lanes of a warp take part in team_sum.
    for (int64_t base = first; base < tasks; base += step) {
        const int64_t i = base + threadIdx.x / Team;
        T dot[4] = {};
        Task<S, T> task;
        if (i < tasks) {
            task = locate_task<S, T>(p, i);
            T weight[4];
#pragma unroll
            for (int a = 0; a < 4; a++) weight[a] = task.m * task.tap.value[a];
            S* column = static_cast<S*>(p.columns) + task.column;
            for (int64_t c = lane * Vector; c < width; c += Team * Vector) {
                Pack<S, Vector> corner[4];
                T g[Vector], out[Vector];
                load<T, S, Vector>(column + c, g);
                load_corners<S, T, Vector>(p, p.x, task, c, corner);
#pragma unroll
                for (int j = 0; j < Vector; j++) {
                    out[j] = T(0);
#pragma unroll
                    for (int a = 0; a < 4; a++) {
                        const T v = widen<T>(corner[a].v[j]);
                        dot[a] += g[j] * v;
                        out[j] += weight[a] * v;
                    }
                }
                if (!p.deterministic) scatter<S, T, Vector>(p, task, c, weight, g);
                store<T, S, Vector>(column + c, out);
            }
        }
#pragma unroll
        for (int a = 0; a < 4; a++) dot[a] = team_sum<Team>(dot[a]);
        if (i < tasks && lane == 0) {
            T to_y, to_x, to_m;
            first_order(task.tap, task.m, dot, to_y, to_x, to_m);
            add_tap_gradients(p, task.row, task.g, task.k, to_y, to_x, to_m);
        }
    }
}

// The gradient of backward_kernel's gradients, for their cotangents gg_x, gg_offset and gg_mask; e = tangent_weights:
//   columns[n, k, c] = sum_corner m * value(corner) * gg_x(corner, c) + e(corner) * x(corner, c), in g's place
//   grad_x(corner, c) += e(corner) * g(c)
//   grad_offset, grad_mask += second_order(sum_c g * x(corner), sum_c g * gg_x(corner))
//
// In:        x, gg_x [B, H, W, C] S, offset, mask, gg_offset, gg_mask T, columns (holding g).
// Out:       columns (the gradient to g), grad_x, grad_offset, grad_mask (added to).
// Threads:   as backward_kernel.
// Reference: second-order autograd of mtm_ops/reference.py, sample_columns.
template <class S, class T, int Vector, int Team>
__global__ void __launch_bounds__(kThreadsPerBlock) double_backward_kernel(SampleParams p) {
    const int lane = threadIdx.x % Team;
    const int64_t tasks = count_tasks(p), width = p.C / p.groups, step = int64_t(gridDim.x) * (blockDim.x / Team);
    const int64_t first = int64_t(blockIdx.x) * (blockDim.x / Team);
    for (int64_t base = first; base < tasks; base += step) {
        const int64_t i = base + threadIdx.x / Team;
        T dot[4] = {}, dot_gg[4] = {}, gg[3] = {};
        Task<S, T> task;
        if (i < tasks) {
            task = locate_task<S, T>(p, i);
            load_cotangents<T>(p, task.row, task.g, task.k, gg);
            T weight[4], e[4];
            tangent_weights(task.tap, task.m, gg[0], gg[1], gg[2], e);
#pragma unroll
            for (int a = 0; a < 4; a++) weight[a] = task.m * task.tap.value[a];
            S* column = static_cast<S*>(p.columns) + task.column;
            for (int64_t c = lane * Vector; c < width; c += Team * Vector) {
                Pack<S, Vector> corner[4], corner_gg[4];
                T g[Vector], out[Vector];
                load<T, S, Vector>(column + c, g);
                load_corners<S, T, Vector>(p, p.x, task, c, corner);
                load_corners<S, T, Vector>(p, p.gg_x, task, c, corner_gg);
#pragma unroll
                for (int j = 0; j < Vector; j++) {
                    out[j] = T(0);
#pragma unroll
                    for (int a = 0; a < 4; a++) {
                        const T v = widen<T>(corner[a].v[j]), v_gg = widen<T>(corner_gg[a].v[j]);
                        dot[a] += g[j] * v;
                        dot_gg[a] += g[j] * v_gg;
                        out[j] += weight[a] * v_gg + e[a] * v;
                    }
                }
                if (!p.deterministic) scatter<S, T, Vector>(p, task, c, e, g);
                store<T, S, Vector>(column + c, out);
            }
        }
#pragma unroll
        for (int a = 0; a < 4; a++) {
            dot[a] = team_sum<Team>(dot[a]);
            dot_gg[a] = team_sum<Team>(dot_gg[a]);
        }
        if (i < tasks && lane == 0) {
            T to_y, to_x, to_m;
            second_order(task.tap, task.m, gg[0], gg[1], gg[2], dot, dot_gg, to_y, to_x, to_m);
            add_tap_gradients(p, task.row, task.g, task.k, to_y, to_x, to_m);
        }
    }
}

// grad_x(corner, c) += weight(corner) * g(c) without atomics: weight = m * value, or tangent_weights with Second.
//
// In:        offset, mask, columns (holding g), with Second gg_offset and gg_mask.   Out: grad_x (added to).
// Threads:   one per channel of an image, which alone adds to that channel, its rows and taps in ascending order.
// Reference: as backward_kernel and double_backward_kernel.
template <class S, class T, bool Second>
__global__ void __launch_bounds__(kThreadsPerBlock, 1) scatter_kernel(SampleParams p) {
    const int64_t places = p.Ho * p.Wo, taps = p.kh * p.kw, width = p.C / p.groups;
    const int64_t first = p.row_begin / places, images = (p.row_end + places - 1) / places - first;
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < images * p.C; i += step) {
        const int64_t b = first + i / p.C, c = i % p.C, g = c / width;
        T* grad_x = static_cast<T*>(p.grad_x) + b * p.H * p.W * p.C + c;
        const int64_t begin = b * places > p.row_begin ? b * places : p.row_begin;
        const int64_t end = (b + 1) * places < p.row_end ? (b + 1) * places : p.row_end;
        for (int64_t n = begin; n < end; n++) {
            const Row row = locate_row(p, n);
            for (int64_t k = 0; k < taps; k++) {
                Tap<T> tap;
                locate_tap_of_row(p, row, g, k, tap);
                const T m = mask_of<T>(p, row, g, k);
                T weight[4];
                if constexpr (Second) {
                    T gg[3];
                    load_cotangents<T>(p, row, g, k, gg);
                    tangent_weights(tap, m, gg[0], gg[1], gg[2], weight);
                } else {
#pragma unroll
                    for (int a = 0; a < 4; a++) weight[a] = m * tap.value[a];
                }
                const T v = widen<T>(static_cast<const S*>(p.columns)[((n - p.row_begin) * taps + k) * p.C + c]);
#pragma unroll
                for (int a = 0; a < 4; a++)
                    if (tap.pixel[a] >= 0) grad_x[tap.pixel[a] * p.C] += weight[a] * v;
            }
        }
    }
}

// Calls launch(vector, team) with the launch shape's numbers as compile-time constants.
template <int N>
struct Constant {
    static constexpr int value = N;
};

template <int Vector, class Launch>
void with_team(int team, const Launch& launch) {
    if (team == 4) launch(Constant<Vector>(), Constant<4>());
    if (team == 8) launch(Constant<Vector>(), Constant<8>());
    if (team == 16) launch(Constant<Vector>(), Constant<16>());
    if (team == 32) launch(Constant<Vector>(), Constant<32>());
}

template <class S, class Launch>
void with_shape(const LaunchShape& shape, const Launch& launch) {
    if (shape.vector == 1) return with_team<1>(shape.team, launch);
    with_team<int(16 / sizeof(S))>(shape.team, launch);
}

template <class S>
LaunchShape shape_of(const SampleParams& p) {
    const auto address = reinterpret_cast<uintptr_t>(p.x) | reinterpret_cast<uintptr_t>(p.columns) |
                         reinterpret_cast<uintptr_t>(p.gg_x) | reinterpret_cast<uintptr_t>(p.grad_x);
    const int64_t tasks = (p.row_end - p.row_begin) * p.kh * p.kw * p.groups;
    return choose_launch(p.C, p.C / p.groups, sizeof(S), address, tasks);
}

template <class S, class T, bool Second>
void launch_scatter(const SampleParams& p, void* stream) {
    const int64_t places = p.Ho * p.Wo, images = (p.row_end + places - 1) / places - p.row_begin / places;
    const int64_t wanted = (images * p.C + kThreadsPerBlock - 1) / kThreadsPerBlock;
    const int blocks = int(wanted < 1 ? 1 : wanted < kMaxBlocks ? wanted : kMaxBlocks);
    MTM_LAUNCH((scatter_kernel<S, T, Second>), blocks, kThreadsPerBlock, stream, p);
}

template <class S, class T>
void launch_gather(const SampleParams& p, void* stream) {
    const LaunchShape shape = shape_of<S>(p);
    with_shape<S>(shape, [&](auto vector, auto team) {
        MTM_LAUNCH((gather_kernel<S, T, decltype(vector)::value, decltype(team)::value>), shape.blocks, shape.threads,
                   stream, p);
    });
}

template <class S, class T>
void launch_backward(const SampleParams& p, void* stream) {
    if (p.deterministic) launch_scatter<S, T, false>(p, stream);
    const LaunchShape shape = shape_of<S>(p);
    with_shape<S>(shape, [&](auto vector, auto team) {
        MTM_LAUNCH((backward_kernel<S, T, decltype(vector)::value, decltype(team)::value>), shape.blocks, shape.threads,
                   stream, p);
    });
}

template <class S, class T>
void launch_double_backward(const SampleParams& p, void* stream) {
    if (p.deterministic) launch_scatter<S, T, true>(p, stream);
    const LaunchShape shape = shape_of<S>(p);
    with_shape<S>(shape, [&](auto vector, auto team) {
        MTM_LAUNCH((double_backward_kernel<S, T, decltype(vector)::value, decltype(team)::value>), shape.blocks,
                   shape.threads, stream, p);
    });
}

// What went wrong with the launch, or null.
const char* launch_error() {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

#define MTM_EXPORT(name, suffix, S, T)                                                            \
    extern "C" const char* launch_##name##_##suffix(const SampleParams* p, void* stream) {        \
        launch_##name<S, T>(*p, stream);                                                          \
        return launch_error();                                                                    \
    }

#define MTM_EXPORT_ALL(suffix, S, T)          \
    MTM_EXPORT(gather, suffix, S, T)          \
    MTM_EXPORT(backward, suffix, S, T)        \
    MTM_EXPORT(double_backward, suffix, S, T)

MTM_EXPORT_ALL(f32, float, float)
MTM_EXPORT_ALL(f64, double, double)
#ifndef MTM_CUDA_ON_HOST
MTM_EXPORT_ALL(f16, __half, float)
MTM_EXPORT_ALL(bf16, __nv_bfloat16, float)
#endif

extern "C" int64_t sample_params_size() { return sizeof(SampleParams); }
