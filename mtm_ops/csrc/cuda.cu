// The entry points of the CUDA library, which launch its kernels. They are loaded with ctypes, so a build needs no
// torch header and takes seconds. Arithmetic and tensor layouts: sampling.h. Launch shapes: launch.h. Kernels:
// cuda_sample.h (columns, and the gradients of offset and mask), cuda_index.h and cuda_grad_x.h (x's gradient),
// cuda_demodulate.h, cuda_layout.h.
//
// Streams:     everything runs on the given stream; nothing synchronises or allocates, so CUDA graphs can capture it.
// Determinism: every sum has a fixed order, so the bits are the same on every call.
#include "cuda_demodulate.h"
#include "cuda_device.h"
#include "cuda_grad_x.h"
#include "cuda_index.h"
#include "cuda_layout.h"
#include "cuda_sample.h"

namespace {

// Calls launch(vector, team) with the launch shape's values as compile-time constants.
template <int N>
struct Constant {
    static constexpr int value = N;
};

template <class S, class Launch>
void with_shape(const LaunchShape& shape, const Launch& launch) {
    constexpr int kVector = int(16 / sizeof(S));
    if (shape.vector == 1 && shape.team == 8) return launch(Constant<1>(), Constant<8>());
    if (shape.vector == 1) return launch(Constant<1>(), Constant<32>());
    if (shape.team == 8) return launch(Constant<kVector>(), Constant<8>());
    if (shape.team == 16) return launch(Constant<kVector>(), Constant<16>());
    launch(Constant<kVector>(), Constant<32>());
}

uintptr_t addresses(const SampleParams& p) {
    return reinterpret_cast<uintptr_t>(p.x) | reinterpret_cast<uintptr_t>(p.columns) | reinterpret_cast<uintptr_t>(p.gg_x) |
           reinterpret_cast<uintptr_t>(p.grad_x);
}

template <class S>
LaunchShape shape_of(const SampleParams& p, const Chunk& chunk) {
    return choose_launch(p.C, chunk.width, sizeof(S), addresses(p), chunk.rows, chunk.taps * chunk.groups);
}

template <class S, class T>
void launch_index(const SampleParams& p, void* stream) {
    const Chunk indexed(p, p.index_begin, p.index_end);
    const int64_t segments = int64_t(indexed.images) * indexed.groups * indexed.parts;
    if (segments == 0) return;
    MTM_LAUNCH((index_kernel<T>), int(segments < kMaxBlocks ? segments : kMaxBlocks), kSortThreads, stream, p, indexed);
}

template <class S, class T, bool Second>
void launch_grad_x(const SampleParams& p, const Chunk& chunk, void* stream) {
    const Chunk indexed(p, p.index_begin, p.index_end);
    const int64_t pixels = int64_t(chunk.images) * chunk.pixels * chunk.groups;
    const LaunchShape shape = choose_pixel_launch(p.C, chunk.width, sizeof(S), addresses(p), pixels);
    with_shape<S>(shape, [&](auto vector, auto team) {
        MTM_LAUNCH((grad_x_kernel<S, T, decltype(vector)::value, decltype(team)::value, Second>), shape.blocks,
                   shape.threads, stream, p, chunk, indexed);
    });
}

template <class S, class T>
void launch_gather(const SampleParams& p, void* stream) {
    const Chunk chunk(p, p.row_begin, p.row_end);
    const LaunchShape shape = shape_of<S>(p, chunk);
    with_shape<S>(shape, [&](auto vector, auto team) {
        MTM_LAUNCH((gather_kernel<S, T, decltype(vector)::value, decltype(team)::value>), shape.blocks, shape.threads,
                   stream, p, chunk, uint32_t(shape.tile));
    });
}

// grad_x comes first: it needs g, which the other kernel overwrites, and the inverse index of these rows. The other
// kernel runs only if its results are needed. If only the columns of the first order are needed, gather computes them
// instead.
template <class S, class T, bool Second>
void launch_gradients(const SampleParams& p, void* stream) {
    const Chunk chunk(p, p.row_begin, p.row_end);
    if (chunk.rows == 0) return;
    if (p.grad_x) launch_grad_x<S, T, Second>(p, chunk, stream);
    if (only_grad_x(p)) return;
    if (!Second && !p.grad_offset && !p.grad_mask) return launch_gather<S, T>(p, stream);
    const LaunchShape shape = shape_of<S>(p, chunk);
    with_shape<S>(shape, [&](auto vector, auto team) {
        MTM_LAUNCH((tap_gradient_kernel<S, T, decltype(vector)::value, decltype(team)::value, Second>), shape.blocks,
                   shape.threads, stream, p, chunk, uint32_t(shape.tile));
    });
}

template <class S, class T>
void launch_backward(const SampleParams& p, void* stream) {
    launch_gradients<S, T, false>(p, stream);
}

template <class S, class T>
void launch_double_backward(const SampleParams& p, void* stream) {
    launch_gradients<S, T, true>(p, stream);
}

// The launch's error message, or null.
const char* launch_error() {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

#define MTM_EXPORT(name, suffix, Params, S, T)                                             \
    extern "C" const char* launch_##name##_##suffix(const Params* p, void* stream) {       \
        launch_##name<S, T>(*p, stream);                                                   \
        return launch_error();                                                             \
    }

#define MTM_EXPORT_ALL(suffix, S, T)                                \
    MTM_EXPORT(gather, suffix, SampleParams, S, T)                  \
    MTM_EXPORT(index, suffix, SampleParams, S, T)                   \
    MTM_EXPORT(backward, suffix, SampleParams, S, T)                \
    MTM_EXPORT(double_backward, suffix, SampleParams, S, T)         \
    MTM_EXPORT(demodulate, suffix, DemodulateParams, S, T)          \
    MTM_EXPORT(demodulate_backward, suffix, DemodulateParams, S, T)

#define MTM_EXPORT_TRANSPOSE(suffix, S)                                                              \
    extern "C" const char* launch_transpose_##suffix(const TransposeParams* p, void* stream) {        \
        launch_transpose<S>(*p, stream);                                                              \
        return launch_error();                                                                        \
    }

MTM_EXPORT_TRANSPOSE(f16, uint16_t)
MTM_EXPORT_TRANSPOSE(bf16, uint16_t)
MTM_EXPORT_TRANSPOSE(f32, uint32_t)
MTM_EXPORT_TRANSPOSE(f64, uint64_t)

MTM_EXPORT_ALL(f32, float, float)
MTM_EXPORT_ALL(f64, double, double)
MTM_EXPORT_ALL(bf16, __nv_bfloat16, float)
#ifndef MTM_CUDA_ON_HOST
MTM_EXPORT_ALL(f16, __half, float)
#endif

extern "C" int64_t sample_params_size() { return sizeof(SampleParams); }
extern "C" int64_t demodulate_params_size() { return sizeof(DemodulateParams); }
