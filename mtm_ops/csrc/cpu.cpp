// The CPU kernels of the sampling: gather, its gradient, and the gradient's gradient. They are loaded with ctypes, so a
// build needs a C++17 compiler and no torch header. Arithmetic and tensor layouts: sampling.h.
//
// Threads:     OpenMP, in torch's own thread pool.
// Determinism: the work is divided by shapes only, and every sum runs in a fixed order within one thread, so the bits
//              do not depend on the number of threads. No atomics.
// Precision:   T throughout, float or double. mtm_ops/_native.py widens half types before and rounds the results.
#include "scatter.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace {

// The four corners of a tap in x-like t [B, H, W, C] as pointers to `channel`; corners outside point to zeros.
template <class T>
void corner_pointers(const SampleParams& p, const T* t, const Row& row, const int64_t* pixel, int64_t channel,
                     const T* zeros, const T** corner) {
    const T* image = t + row.image * p.H * p.W * p.C + channel;
    for (int i = 0; i < 4; i++) corner[i] = pixel[i] >= 0 ? image + pixel[i] * p.C : zeros;
}

// columns[n, k, c] = m * sum_corner value(corner) * x(corner, c)
//
// In:        x [B, H, W, C], offset, mask.   Out: columns [rows, kh*kw, C], or [rows, C, kh*kw] if channels_first.
// Threads:   each takes one row (output pixel) at a time, with all its taps and channels.
// Border:    corners outside read a row of zeros.
// Reference: mtm_ops/reference.py, sample_columns.
template <class T>
void gather_kernel(const SampleParams& p) {
    const int64_t taps = p.kh * p.kw, width = p.C / p.groups;
    const std::vector<T> zeros(width, T(0));
#pragma omp parallel if (worth_threads(p))
    {
        std::vector<T> row_columns(p.channels_first ? taps * p.C : 0);
#pragma omp for schedule(static)
        for (int64_t n = p.row_begin; n < p.row_end; n++) {
            const Row row = locate_row(p, n);
            T* const columns = static_cast<T*>(p.columns) + (n - p.row_begin) * taps * p.C;
            T* out = p.channels_first ? row_columns.data() : columns;
            for (int64_t k = 0; k < taps; k++) {
                for (int64_t g = 0; g < p.groups; g++, out += width) {
                    Tap<T> tap;
                    locate_tap_of_row(p, row, g, k, tap);
                    const T m = mask_of<T>(p, row, g, k);
                    const T v0 = m * tap.value[0], v1 = m * tap.value[1], v2 = m * tap.value[2], v3 = m * tap.value[3];
                    const T* x[4];
                    corner_pointers(p, static_cast<const T*>(p.x), row, tap.pixel, g * width, zeros.data(), x);
#pragma omp simd
                    for (int64_t c = 0; c < width; c++)
                        out[c] = v0 * x[0][c] + v1 * x[1][c] + v2 * x[2][c] + v3 * x[3][c];
                }
            }
            if (p.channels_first)
                for (int64_t c = 0; c < p.C; c++)
                    for (int64_t k = 0; k < taps; k++) columns[c * taps + k] = row_columns[k * p.C + c];
        }
    }
}

template <class T>
void add_tap_gradients(const SampleParams& p, const Row& row, int64_t g, int64_t k, T to_y, T to_x, T to_m) {
    if (p.grad_offset) {
        T* offset = static_cast<T*>(p.grad_offset) + offset_index(p, row, g, k);
        offset[0] += to_y;
        offset[p.Ho * p.Wo] += to_x;
    }
    if (p.grad_mask) static_cast<T*>(p.grad_mask)[mask_index(p, row, g, k)] += to_m;
}

// The part of a row's columns that belongs to one tap and offset group: channels [channel, channel + width) of image
// row.image.
template <class T>
struct TapWork {
    Row row;
    int64_t g, k, width, channel;
    Tap<T> tap;
    T m;
    T* column;  // [width], holding the columns' gradient
};

// Calls body(TapWork) for every tap of every row.
//
// Threads: each takes one row at a time, with all its taps; body may add only to memory of that row.
template <class T, class Body>
void for_each_tap(const SampleParams& p, const Body& body) {
    const int64_t taps = p.kh * p.kw, width = p.C / p.groups;
#pragma omp parallel for schedule(static) if (worth_threads(p))
    for (int64_t n = p.row_begin; n < p.row_end; n++) {
        TapWork<T> work;
        work.row = locate_row(p, n), work.width = width;
        for (work.k = 0; work.k < taps; work.k++) {
            for (work.g = 0; work.g < p.groups; work.g++) {
                locate_tap_of_row(p, work.row, work.g, work.k, work.tap);
                work.m = mask_of<T>(p, work.row, work.g, work.k);
                work.channel = work.g * width;
                work.column = static_cast<T*>(p.columns) + ((n - p.row_begin) * taps + work.k) * p.C + work.channel;
                body(work);
            }
        }
    }
}

// With g the gradient of the columns:
//   grad_x(corner, c) += m * value(corner) * g(c);   grad_offset, grad_mask += first_order(sum_c g * x(corner))
//   columns[n, k, c] = as in gather_kernel; overwrites g
//
// In:        x, offset, mask, columns (holding g).   Out: grad_x, grad_offset, grad_mask (added to), columns.
// Reference: autograd of mtm_ops/reference.py, sample_columns.
template <class T>
void backward_kernel(const SampleParams& p) {
    const auto weights = [&p](const Row& row, int64_t g, int64_t k, const Tap<T>& tap, T* weight) {
        const T m = mask_of<T>(p, row, g, k);
        for (int i = 0; i < 4; i++) weight[i] = m * tap.value[i];
    };
    if (p.grad_x) scatter_columns<T>(p, weights);
    if (only_grad_x(p)) return;
    const std::vector<T> zeros(p.C / p.groups, T(0));
    for_each_tap<T>(p, [&p, &zeros](const TapWork<T>& work) {
        const T* x[4];
        corner_pointers(p, static_cast<const T*>(p.x), work.row, work.tap.pixel, work.channel, zeros.data(), x);
        const T *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3], m = work.m;
        const T v0 = m * work.tap.value[0], v1 = m * work.tap.value[1], v2 = m * work.tap.value[2],
                v3 = m * work.tap.value[3];
        T* column = work.column;
        T d0 = 0, d1 = 0, d2 = 0, d3 = 0;
#pragma omp simd reduction(+ : d0, d1, d2, d3)
        for (int64_t c = 0; c < work.width; c++) {
            const T g = column[c];
            d0 += g * x0[c];
            d1 += g * x1[c];
            d2 += g * x2[c];
            d3 += g * x3[c];
            column[c] = v0 * x0[c] + v1 * x1[c] + v2 * x2[c] + v3 * x3[c];
        }
        const T dot[4] = {d0, d1, d2, d3};
        T to_y, to_x, to_m;
        first_order(work.tap, m, dot, to_y, to_x, to_m);
        add_tap_gradients(p, work.row, work.g, work.k, to_y, to_x, to_m);
    });
}

// Cotangents (ggy, ggx, ggm) of one tap's gradients.
template <class T>
void load_cotangents(const SampleParams& p, const Row& row, int64_t g, int64_t k, T* gg) {
    const T* offset = static_cast<const T*>(p.gg_offset) + offset_index(p, row, g, k);
    gg[0] = offset[0];
    gg[1] = offset[p.Ho * p.Wo];
    gg[2] = p.gg_mask ? static_cast<const T*>(p.gg_mask)[mask_index(p, row, g, k)] : T(0);
}

// The gradient of backward_kernel's gradients, for their cotangents gg_x, gg_offset and gg_mask; e = tangent_weights:
//   columns[n, k, c] = sum_corner m * value(corner) * gg_x(corner, c) + e(corner) * x(corner, c); overwrites g
//   grad_x(corner, c) += e(corner) * g(c)
//   grad_offset, grad_mask += second_order(sum_c g * x(corner), sum_c g * gg_x(corner))
//
// In:        x, offset, mask, gg_x, gg_offset, gg_mask (null without mask), columns (holding g).
// Out:       columns (the gradient to g), grad_x, grad_offset, grad_mask (added to).
// Reference: second-order autograd of mtm_ops/reference.py, sample_columns.
template <class T>
void double_backward_kernel(const SampleParams& p) {
    const auto weights = [&p](const Row& row, int64_t g, int64_t k, const Tap<T>& tap, T* weight) {
        T gg[3];
        load_cotangents(p, row, g, k, gg);
        tangent_weights(tap, mask_of<T>(p, row, g, k), gg[0], gg[1], gg[2], weight);
    };
    if (p.grad_x) scatter_columns<T>(p, weights);
    if (only_grad_x(p)) return;
    const std::vector<T> zeros(p.C / p.groups, T(0));
    for_each_tap<T>(p, [&p, &zeros](const TapWork<T>& work) {
        T gg[3], e[4], v[4];
        load_cotangents(p, work.row, work.g, work.k, gg);
        tangent_weights(work.tap, work.m, gg[0], gg[1], gg[2], e);
        for (int i = 0; i < 4; i++) v[i] = work.m * work.tap.value[i];
        const T *x[4], *t[4];
        corner_pointers(p, static_cast<const T*>(p.x), work.row, work.tap.pixel, work.channel, zeros.data(), x);
        corner_pointers(p, static_cast<const T*>(p.gg_x), work.row, work.tap.pixel, work.channel, zeros.data(), t);
        const T *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3], *t0 = t[0], *t1 = t[1], *t2 = t[2], *t3 = t[3];
        T* column = work.column;
        T d0 = 0, d1 = 0, d2 = 0, d3 = 0, h0 = 0, h1 = 0, h2 = 0, h3 = 0;
#pragma omp simd reduction(+ : d0, d1, d2, d3, h0, h1, h2, h3)
        for (int64_t c = 0; c < work.width; c++) {
            const T g = column[c];
            d0 += g * x0[c];
            d1 += g * x1[c];
            d2 += g * x2[c];
            d3 += g * x3[c];
            h0 += g * t0[c];
            h1 += g * t1[c];
            h2 += g * t2[c];
            h3 += g * t3[c];
            column[c] = v[0] * t0[c] + v[1] * t1[c] + v[2] * t2[c] + v[3] * t3[c] + e[0] * x0[c] + e[1] * x1[c] +
                        e[2] * x2[c] + e[3] * x3[c];
        }
        const T dot[4] = {d0, d1, d2, d3}, dot_gg[4] = {h0, h1, h2, h3};
        T to_y, to_x, to_m;
        second_order(work.tap, work.m, gg[0], gg[1], gg[2], dot, dot_gg, to_y, to_x, to_m);
        add_tap_gradients(p, work.row, work.g, work.k, to_y, to_x, to_m);
    });
}

// to[j, i] = from[i, j] for i < n, j < m, both at most Block; lines start `from_step` and `to_step` elements apart.
template <class T, int64_t Block>
void transpose_tile(const T* from, T* to, int64_t from_step, int64_t to_step, int64_t n, int64_t m) {
    T tile[Block][Block];
    if (n == Block && m == Block) {
        // Copy a whole line at a time, in and out: lines a power of two apart map to one set of the first-level cache,
        // which does not hold 16 of them. The bounds are constants, so the compiler transposes in registers.
        T lines[Block][Block];
        for (int64_t i = 0; i < Block; i++) std::memcpy(lines[i], from + i * from_step, sizeof(lines[i]));
        for (int64_t i = 0; i < Block; i++)
            for (int64_t j = 0; j < Block; j++) tile[j][i] = lines[i][j];
        for (int64_t j = 0; j < Block; j++) std::memcpy(to + j * to_step, tile[j], sizeof(tile[j]));
    } else if (n == Block) {
        for (int64_t j = 0; j < m; j++)
            for (int64_t i = 0; i < Block; i++) to[j * to_step + i] = from[i * from_step + j];
    } else {
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < m; j++) tile[j][i] = from[i * from_step + j];
        for (int64_t j = 0; j < m; j++) std::copy(tile[j], tile[j] + n, to + j * to_step);
    }
}

// out[b, j, i] = in[b, i, j] for in [batch, rows, columns]: several times faster than a general strided copy, which at
// few channels takes as long as the sampling itself.
template <class T>
void transpose_kernel(const T* in, T* out, int64_t batch, int64_t rows, int64_t columns) {
    constexpr int64_t Block = 64 / sizeof(T);  // a cache line
    const int64_t row_blocks = (rows + Block - 1) / Block;
#pragma omp parallel for schedule(static) if (batch * rows * columns >= kWorthThreads)
    for (int64_t unit = 0; unit < batch * row_blocks; unit++) {
        const int64_t b = unit / row_blocks, i0 = unit % row_blocks * Block, n = std::min(Block, rows - i0);
        const T* from = in + b * rows * columns + i0 * columns;
        T* to = out + b * rows * columns + i0;
        for (int64_t j0 = 0; j0 < columns; j0 += Block)
            transpose_tile<T, Block>(from + j0, to + j0 * rows, columns, rows, n, std::min(Block, columns - j0));
    }
}

}  // namespace

#define MTM_EXPORT(suffix, T)                                                                                      \
    extern "C" void launch_gather_##suffix(const SampleParams* p) { gather_kernel<T>(*p); }                        \
    extern "C" void launch_backward_##suffix(const SampleParams* p) { backward_kernel<T>(*p); }                    \
    extern "C" void launch_double_backward_##suffix(const SampleParams* p) { double_backward_kernel<T>(*p); }      \
    extern "C" void launch_transpose_##suffix(const T* in, T* out, int64_t batch, int64_t rows, int64_t columns) { \
        transpose_kernel(in, out, batch, rows, columns);                                                           \
    }

MTM_EXPORT(f32, float)
MTM_EXPORT(f64, double)

// Returns the number of work units into which the scatter of p's rows is divided, which does not depend on the number
// of threads. Writes to `sizes`, if not null, how many elements each unit adds: a test checks how evenly work is
// divided.
extern "C" int64_t scatter_units_f32(const SampleParams* p, int64_t* sizes) {
    const ScatterPlan plan(*p);
    if (sizes) {
        const Shares<float> shares(*p, plan, [](const Row&, int64_t, int64_t, const Tap<float>&, float*) {});
        for (int64_t unit = 0; unit < plan.bins * plan.slices; unit++) {
            const int64_t bin = unit / plan.slices;
            sizes[unit] = (shares.start[bin + 1] - shares.start[bin]) * plan.slice_width(*p, unit % plan.slices);
        }
    }
    return plan.bins * plan.slices;
}

extern "C" int64_t sample_params_size() { return sizeof(SampleParams); }

// 1 if the kernels were built with OpenMP; mtm_ops.doctor reports it.
extern "C" int threads_built_in() {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}
