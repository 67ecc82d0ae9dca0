// The sampling arithmetic: one source for the CPU and the CUDA kernels, independent of torch.
//
// A tap samples x at (y, x) in pixels with bilinear weights a(f) = (1 - f, f) per axis, f the fractional part. The
// derivative weights are a'(f) = (-1, +1). The names say which axes use a': value (none), dy, dx, dxy. Every gradient
// of first and second order is a gather or a scatter over the same four corners with some of these weights.
//
// Corners are numbered 2*row + column: 0 top left, 1 top right, 2 bottom left, 3 bottom right.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MTM_HD __host__ __device__ __forceinline__
#else
#define MTM_HD inline
#endif

// Shapes of one call and the rows it works on. A row is an output pixel: n = (b * Ho + oy) * Wo + ox.
// Mirrored by mtm_ops/_native.py (class SampleParams); all fields are 8 bytes wide.
struct SampleParams {
    int64_t C, H, W;                    // input channels, rows and columns of x
    int64_t Ho, Wo;                     // rows and columns of the output
    int64_t kh, kw;                     // kernel
    int64_t stride_y, stride_x;
    int64_t padding_y, padding_x;
    int64_t dilation_y, dilation_x;
    int64_t groups;                     // G, offset groups: channel ranges of C/G with offsets of their own
    int64_t row_begin, row_end;         // rows of this call
    int64_t channels_first;             // CPU: gather's columns are [rows, C, kh*kw], the order of a weight [O, C, kh, kw]
    int64_t index_begin, index_end;     // CUDA: the rows in the inverse index, which include this call's rows
    int64_t parts;                      // CUDA: segments of the inverse index per image and group (cuda_index.h)
    int64_t first_call;                 // CUDA: the first call for these rows: gradients are written, not added to
    int64_t stored_grad_x;              // CUDA: grad_x has the dtype of x, not that of the sums
    int64_t keep_columns;               // gradients: the columns are read afterwards; if 0, they need not be written
    // x-like tensors are channels-last [B, H, W, C]; offset-like [B, 2*G*kh*kw, Ho, Wo]; mask-like [B, G*kh*kw, Ho,
    // Wo]; columns [row_end - row_begin, kh*kw, C]. Pointers a kernel does not name are not read; mask may be null.
    const void* x;
    const void* offset;
    const void* mask;
    void* columns;
    void* grad_x;                       // gradients are added to; null: not requested
    void* grad_offset;
    void* grad_mask;
    const void* gg_x;                   // cotangents of grad_x, grad_offset, grad_mask (double backward)
    const void* gg_offset;
    const void* gg_mask;
    void* index;                        // CUDA: the inverse index, and its scratch memory (cuda_index.h)
    void* index_keys;
    void* index_spare;
    void* index_starts;
};

// Whether a gradient kernel has nothing to compute except grad_x.
MTM_HD bool only_grad_x(const SampleParams& p) { return !p.grad_offset && !p.grad_mask && !p.keep_columns; }

// Where one tap samples: the pixel and weight of each corner. Weights of corners outside the image are zero.
template <class T>
struct Tap {
    int64_t pixel[4];                   // y * W + x, or -1 outside
    T value[4], dy[4], dx[4], dxy[4];
};

// In: y, x in pixels (any value, including NaN and infinity). A position a pixel or more outside, or not finite, has no
//     corner.
// Requires H, W >= 1. Specified by mtm_ops/reference.py, sample_columns.
template <class T>
MTM_HD void locate_tap(T y, T x, int64_t H, int64_t W, Tap<T>& tap) {
    // Written so that NaN fails the test: the cast to an integer is only defined if it passes.
    const bool near = y > T(-1) && y < T(H) && x > T(-1) && x < T(W);
    const T y_near = near ? y : T(0), x_near = near ? x : T(0);
    const T y_floor = std::floor(y_near), x_floor = std::floor(x_near);
    const int64_t y0 = int64_t(y_floor), x0 = int64_t(x_floor);
    const T fy = y_near - y_floor, fx = x_near - x_floor;
    const T ay[2] = {T(1) - fy, fy}, ax[2] = {T(1) - fx, fx};
    for (int corner = 0; corner < 4; corner++) {
        const int i = corner >> 1, j = corner & 1;
        const int64_t cy = y0 + i, cx = x0 + j;
        const bool inside = near && cy >= 0 && cy < H && cx >= 0 && cx < W;
        const T on = inside ? T(1) : T(0);
        const T sy = i ? on : -on, sx = j ? T(1) : T(-1);
        tap.pixel[corner] = inside ? cy * W + cx : -1;
        tap.value[corner] = on * ay[i] * ax[j];
        tap.dy[corner] = sy * ax[j];
        tap.dx[corner] = on * ay[i] * sx;
        tap.dxy[corner] = sy * sx;
    }
}

// One output pixel: its image, and its place within the offset and mask planes.
struct Row {
    int64_t image, place, oy, ox;
};

MTM_HD Row locate_row(const SampleParams& p, int64_t n) {
    const int64_t places = p.Ho * p.Wo;
    Row row;
    row.image = n / places;
    row.place = n - row.image * places;
    row.oy = row.place / p.Wo;
    row.ox = row.place - row.oy * p.Wo;
    return row;
}

// Index of the dy of tap k of group g in an offset-like tensor; its dx follows one plane (Ho*Wo) later.
MTM_HD int64_t offset_index(const SampleParams& p, const Row& row, int64_t g, int64_t k) {
    const int64_t taps = p.kh * p.kw, places = p.Ho * p.Wo;
    return ((row.image * p.groups + g) * taps + k) * 2 * places + row.place;
}

MTM_HD int64_t mask_index(const SampleParams& p, const Row& row, int64_t g, int64_t k) {
    const int64_t taps = p.kh * p.kw, places = p.Ho * p.Wo;
    return ((row.image * p.groups + g) * taps + k) * places + row.place;
}

// Locates tap k, which is (ky, kx) of the kernel.
template <class T>
MTM_HD void locate_tap_at(const SampleParams& p, const Row& row, int64_t g, int64_t k, int64_t ky, int64_t kx, Tap<T>& tap) {
    const T* offset = static_cast<const T*>(p.offset) + offset_index(p, row, g, k);
    const T y = T(row.oy * p.stride_y - p.padding_y + ky * p.dilation_y) + offset[0];
    const T x = T(row.ox * p.stride_x - p.padding_x + kx * p.dilation_x) + offset[p.Ho * p.Wo];
    locate_tap(y, x, p.H, p.W, tap);
}

template <class T>
MTM_HD void locate_tap_of_row(const SampleParams& p, const Row& row, int64_t g, int64_t k, Tap<T>& tap) {
    const int64_t ky = k / p.kw;
    locate_tap_at(p, row, g, k, ky, k - ky * p.kw, tap);
}

template <class T>
MTM_HD T weighted_sum(const T* weight, const T* v) {
    return weight[0] * v[0] + weight[1] * v[1] + weight[2] * v[2] + weight[3] * v[3];
}

// First order. dot[corner] = sum over channels of g * x(corner), g the columns' gradient.
//   grad_mask = value . dot;  grad_offset_y = m * dy . dot;  grad_offset_x = m * dx . dot
template <class T>
MTM_HD void first_order(const Tap<T>& tap, T m, const T* dot, T& grad_y, T& grad_x, T& grad_m) {
    grad_y = m * weighted_sum(tap.dy, dot);
    grad_x = m * weighted_sum(tap.dx, dot);
    grad_m = weighted_sum(tap.value, dot);
}

// Second order: the weights of x's corners in the columns' tangent, for cotangents ggy, ggx, ggm of the offset's and
// the mask's gradient: m * (ggy * dy + ggx * dx) + ggm * value. The same weights scatter g into x's gradient.
template <class T>
MTM_HD void tangent_weights(const Tap<T>& tap, T m, T ggy, T ggx, T ggm, T* weight) {
    for (int corner = 0; corner < 4; corner++)
        weight[corner] = m * (ggy * tap.dy[corner] + ggx * tap.dx[corner]) + ggm * tap.value[corner];
}

// Second order, with respect to offset and mask. dot as above; dot_gg[corner] = sum over channels of g * gg_x(corner).
//   to y: m * (dy . dot_gg + ggx * dxy . dot) + ggm * dy . dot   (to x likewise; d2/dy2 of a bilinear function is 0)
//   to m: value . dot_gg + ggy * dy . dot + ggx * dx . dot
template <class T>
MTM_HD void second_order(const Tap<T>& tap, T m, T ggy, T ggx, T ggm, const T* dot, const T* dot_gg, T& to_y, T& to_x,
                         T& to_m) {
    const T twist = weighted_sum(tap.dxy, dot), by_y = weighted_sum(tap.dy, dot), by_x = weighted_sum(tap.dx, dot);
    to_y = m * (weighted_sum(tap.dy, dot_gg) + ggx * twist) + ggm * by_y;
    to_x = m * (weighted_sum(tap.dx, dot_gg) + ggy * twist) + ggm * by_x;
    to_m = weighted_sum(tap.value, dot_gg) + ggy * by_y + ggx * by_x;
}
