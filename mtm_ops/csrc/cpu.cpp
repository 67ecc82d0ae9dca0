// The CPU kernels of the sampling: gather, its gradient, and the gradient's gradient. Loaded with ctypes, so that a
// build needs a C++17 compiler and no torch header. Arithmetic and tensor layouts: sampling.h.
//
// Threads:     OpenMP, the pool that torch itself runs on.
// Determinism: work is cut by shapes alone and every sum runs in a fixed order within one thread, so the bits do not
//              depend on the number of threads. No atomics.
// Precision:   T throughout, float or double. Half types are widened before and rounded after, in mtm_ops/_native.py.
#include "sampling.h"

#include <algorithm>
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

// The four corners of a tap as pointers to `channel` of channels-last pixels; corner i outside points to
// outside + i * step.
template <class P>
void corner_pointers(P* image, const int64_t* pixel, int64_t C, int64_t channel, P* outside, int64_t step, P** corner) {
    for (int i = 0; i < 4; i++) corner[i] = pixel[i] >= 0 ? image + pixel[i] * C + channel : outside + i * step;
}

// columns[n, k, c] = m * sum_corner value(corner) * x(corner, c)
//
// In:        x [B, H, W, C], offset, mask.   Out: columns [rows, kh*kw, C].
// Threads:   one row (output pixel) at a time, all its taps and channels.
// Border:    corners outside read a row of zeros.
// Reference: mtm_ops/reference.py, sample_columns.
template <class T>
void gather_kernel(const SampleParams& p) {
    const int64_t taps = p.kh * p.kw, width = p.C / p.groups;
    const std::vector<T> zeros(width, T(0));
#pragma omp parallel for schedule(static) if (worth_threads(p))
    for (int64_t n = p.row_begin; n < p.row_end; n++) {
        const Row row = locate_row(p, n);
        const T* image = static_cast<const T*>(p.x) + row.image * p.H * p.W * p.C;
        T* out = static_cast<T*>(p.columns) + (n - p.row_begin) * taps * p.C;
        for (int64_t k = 0; k < taps; k++) {
            for (int64_t g = 0; g < p.groups; g++, out += width) {
                Tap<T> tap;
                locate_tap_of_row(p, row, g, k, tap);
                const T m = mask_of<T>(p, row, g, k);
                const T v0 = m * tap.value[0], v1 = m * tap.value[1], v2 = m * tap.value[2], v3 = m * tap.value[3];
                const T* x[4];
                corner_pointers(image, tap.pixel, p.C, g * width, zeros.data(), 0, x);
#pragma omp simd
                for (int64_t c = 0; c < width; c++)
                    out[c] = v0 * x[0][c] + v1 * x[1][c] + v2 * x[2][c] + v3 * x[3][c];
            }
        }
    }
}

// What a gradient kernel sees of one tap, in one slice of the channels.
template <class T>
struct TapWork {
    Row row;
    int64_t group, k, width;
    Tap<T> tap;
    T m;
    const T *x[4], *gg_x[4];  // gg_x only in the double backward
    T* grad_x[4];
    T* column;                // [width]
    T* dots;
};

// Calls body(TapWork) for every row and tap of every channel slice.
//
// Threads: an image and a channel slice each, which alone adds to that part of grad_x, its rows in ascending order.
// Slices are at most ceil(C/G / slices) channels wide. Corners outside read zeros and write to bins.
template <class T, class Body>
void for_each_tap(const SampleParams& p, int64_t dots_per_tap, const Body& body) {
    const int64_t taps = p.kh * p.kw, places = p.Ho * p.Wo, slices = p.groups * p.slices, group_width = p.C / p.groups;
    const int64_t first = p.row_begin / places, images = (p.row_end + places - 1) / places - first;
    const std::vector<T> zeros(group_width, T(0));
#pragma omp parallel for schedule(dynamic) if (worth_threads(p))
    for (int64_t unit = 0; unit < images * slices; unit++) {
        const int64_t b = first + unit / slices, slice = unit % slices, part = slice % p.slices;
        TapWork<T> work;
        work.group = slice / p.slices;
        const int64_t channel = work.group * group_width + group_width * part / p.slices;
        work.width = work.group * group_width + group_width * (part + 1) / p.slices - channel;
        std::vector<T> bins(4 * work.width);
        const int64_t image = b * p.H * p.W * p.C;
        const int64_t end = std::min(p.row_end, (b + 1) * places);
        for (int64_t n = std::max(p.row_begin, b * places); n < end; n++) {
            work.row = locate_row(p, n);
            for (work.k = 0; work.k < taps; work.k++) {
                locate_tap_of_row(p, work.row, work.group, work.k, work.tap);
                work.m = mask_of<T>(p, work.row, work.group, work.k);
                const int64_t* pixel = work.tap.pixel;
                corner_pointers(static_cast<const T*>(p.x) + image, pixel, p.C, channel, zeros.data(), 0, work.x);
                if (p.gg_x)
                    corner_pointers(static_cast<const T*>(p.gg_x) + image, pixel, p.C, channel, zeros.data(), 0,
                                    work.gg_x);
                corner_pointers(static_cast<T*>(p.grad_x) + image, pixel, p.C, channel, bins.data(), work.width, work.grad_x);
                const int64_t at = (n - p.row_begin) * taps + work.k;
                work.column = static_cast<T*>(p.columns) + at * p.C + channel;
                work.dots = static_cast<T*>(p.dots) + (at * slices + slice) * dots_per_tap;
                body(work);
            }
        }
    }
}

// Sums the dots over a group's slices in ascending order, and calls body(row, g, k, sums) for every row and tap.
template <class T, int Dots, class Body>
void reduce_dots(const SampleParams& p, const Body& body) {
    const int64_t taps = p.kh * p.kw;
#pragma omp parallel for schedule(static) if (worth_threads(p))
    for (int64_t n = p.row_begin; n < p.row_end; n++) {
        const Row row = locate_row(p, n);
        for (int64_t k = 0; k < taps; k++) {
            const T* dots = static_cast<const T*>(p.dots) + ((n - p.row_begin) * taps + k) * p.groups * p.slices * Dots;
            for (int64_t g = 0; g < p.groups; g++) {
                T sum[Dots] = {};
                for (int64_t s = 0; s < p.slices; s++, dots += Dots)
                    for (int i = 0; i < Dots; i++) sum[i] += dots[i];
                body(row, g, k, sum);
            }
        }
    }
}

template <class T>
void add_tap_gradients(const SampleParams& p, const Row& row, int64_t g, int64_t k, T to_y, T to_x, T to_m) {
    T* offset = static_cast<T*>(p.grad_offset) + offset_index(p, row, g, k);
    offset[0] += to_y;
    offset[p.Ho * p.Wo] += to_x;
    if (p.grad_mask) static_cast<T*>(p.grad_mask)[mask_index(p, row, g, k)] += to_m;
}

// With g the gradient of the columns:
//   grad_x(corner, c) += m * value(corner) * g(c);   grad_offset, grad_mask += first_order(sum_c g * x(corner))
//   columns[n, k, c] = what gather_kernel gives, in g's place
//
// In:        x, offset, mask, columns (holding g).   Out: grad_x, grad_offset, grad_mask (added to), columns.
// Scratch:   dots [rows, kh*kw, G*slices, 4].
// Reference: autograd of mtm_ops/reference.py, sample_columns.
template <class T>
void backward_kernel(const SampleParams& p) {
    for_each_tap<T>(p, 4, [](const TapWork<T>& work) {
        T v[4];
        for (int i = 0; i < 4; i++) v[i] = work.m * work.tap.value[i];
        T* column = work.column;
        const T *x0 = work.x[0], *x1 = work.x[1], *x2 = work.x[2], *x3 = work.x[3];
        T *gx0 = work.grad_x[0], *gx1 = work.grad_x[1], *gx2 = work.grad_x[2], *gx3 = work.grad_x[3];
        T d0 = 0, d1 = 0, d2 = 0, d3 = 0;
#pragma omp simd reduction(+ : d0, d1, d2, d3)
        for (int64_t c = 0; c < work.width; c++) {
            const T g = column[c];
            gx0[c] += v[0] * g;
            gx1[c] += v[1] * g;
            gx2[c] += v[2] * g;
            gx3[c] += v[3] * g;
            d0 += g * x0[c];
            d1 += g * x1[c];
            d2 += g * x2[c];
            d3 += g * x3[c];
            column[c] = v[0] * x0[c] + v[1] * x1[c] + v[2] * x2[c] + v[3] * x3[c];
        }
        const T dots[4] = {d0, d1, d2, d3};
        std::copy(dots, dots + 4, work.dots);
    });
    reduce_dots<T, 4>(p, [&p](const Row& row, int64_t g, int64_t k, const T* dot) {
        Tap<T> tap;
        locate_tap_of_row(p, row, g, k, tap);
        T to_y, to_x, to_m;
        first_order(tap, mask_of<T>(p, row, g, k), dot, to_y, to_x, to_m);
        add_tap_gradients(p, row, g, k, to_y, to_x, to_m);
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
//   columns[n, k, c] = sum_corner m * value(corner) * gg_x(corner, c) + e(corner) * x(corner, c), in g's place
//   grad_x(corner, c) += e(corner) * g(c)
//   grad_offset, grad_mask += second_order(sum_c g * x(corner), sum_c g * gg_x(corner))
//
// In:        x, offset, mask, gg_x, gg_offset, gg_mask (null without mask), columns (holding g).
// Out:       columns (the gradient to g), grad_x, grad_offset, grad_mask (added to).
// Scratch:   dots [rows, kh*kw, G*slices, 8].
// Reference: second-order autograd of mtm_ops/reference.py, sample_columns.
template <class T>
void double_backward_kernel(const SampleParams& p) {
    for_each_tap<T>(p, 8, [&p](const TapWork<T>& work) {
        T gg[3], e[4], v[4];
        load_cotangents(p, work.row, work.group, work.k, gg);
        tangent_weights(work.tap, work.m, gg[0], gg[1], gg[2], e);
        for (int i = 0; i < 4; i++) v[i] = work.m * work.tap.value[i];
        T* column = work.column;
        const T *x0 = work.x[0], *x1 = work.x[1], *x2 = work.x[2], *x3 = work.x[3];
        T *gx0 = work.grad_x[0], *gx1 = work.grad_x[1], *gx2 = work.grad_x[2], *gx3 = work.grad_x[3];
        const T *t0 = work.gg_x[0], *t1 = work.gg_x[1], *t2 = work.gg_x[2], *t3 = work.gg_x[3];
        T d0 = 0, d1 = 0, d2 = 0, d3 = 0, h0 = 0, h1 = 0, h2 = 0, h3 = 0;
#pragma omp simd reduction(+ : d0, d1, d2, d3, h0, h1, h2, h3)
        for (int64_t c = 0; c < work.width; c++) {
            const T g = column[c];
            gx0[c] += e[0] * g;
            gx1[c] += e[1] * g;
            gx2[c] += e[2] * g;
            gx3[c] += e[3] * g;
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
        const T dots[8] = {d0, d1, d2, d3, h0, h1, h2, h3};
        std::copy(dots, dots + 8, work.dots);
    });
    reduce_dots<T, 8>(p, [&p](const Row& row, int64_t g, int64_t k, const T* dot) {
        Tap<T> tap;
        T gg[3], to_y, to_x, to_m;
        locate_tap_of_row(p, row, g, k, tap);
        load_cotangents(p, row, g, k, gg);
        second_order(tap, mask_of<T>(p, row, g, k), gg[0], gg[1], gg[2], dot, dot + 4, to_y, to_x, to_m);
        add_tap_gradients(p, row, g, k, to_y, to_x, to_m);
    });
}

// out[b, j, i] = in[b, i, j] for in [batch, rows, columns], in blocks that fit the first cache: several times faster than
// a general strided copy, and as costly as the sampling itself at few channels if left to one.
template <class T>
void transpose_kernel(const T* in, T* out, int64_t batch, int64_t rows, int64_t columns) {
    constexpr int64_t Block = 16;
    const int64_t row_blocks = (rows + Block - 1) / Block;
#pragma omp parallel for schedule(static) if (batch * rows * columns >= kWorthThreads)
    for (int64_t unit = 0; unit < batch * row_blocks; unit++) {
        const int64_t b = unit / row_blocks, i0 = unit % row_blocks * Block, n = std::min(Block, rows - i0);
        const T* from = in + b * rows * columns;
        T* to = out + b * rows * columns;
        for (int64_t j0 = 0; j0 < columns; j0 += Block) {
            const int64_t m = std::min(Block, columns - j0);
            T tile[Block][Block];
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < m; j++) tile[j][i] = from[(i0 + i) * columns + j0 + j];
            for (int64_t j = 0; j < m; j++) std::copy(tile[j], tile[j] + n, to + (j0 + j) * rows + i0);
        }
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

extern "C" int64_t sample_params_size() { return sizeof(SampleParams); }

// 1 where the kernels were built with OpenMP: the doctor tells.
extern "C" int threads_built_in() {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}
