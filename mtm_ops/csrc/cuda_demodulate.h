// Demodulation on CUDA: what a modulated convolution needs besides the convolution, in one launch for the forward and
// one for the backward. Plain torch takes about twenty, which at 8x8 and 16x16 cost more than the convolution.
//
// f and r are the factors that bring weight and style to at most 1 (1 without p.rescale), constants for the gradient:
//   weight'[o, c, k] = f[o] * weight[o, c, k]          style'[b, c] = r[b] * style[b, c]
//   energy[o, c] = sum_k weight'[o, c, k]^2
//   gain[b, o] = 1 / sqrt(sum_c style'[b, c]^2 * energy[o, c] + eps)
// c counts the channels of o's weight group; style' has the channels of all groups.
//
// Reference: mtm_ops/_demodulation.py, reference. Determinism: every sum has a fixed order.
#pragma once

#include "cuda_device.h"

// Mirrored by mtm_ops/_demodulation.py (class DemodulateParams); all fields are 8 bytes wide.
struct DemodulateParams {
    int64_t B, O, width, taps, groups;  // width: channels of a weight group; style has groups * width
    int64_t channel_step, tap_step;     // of weight and grad_weight, in elements; weight' is [O, taps, width]
    int64_t rescale;
    double eps, tiny_weight, tiny_style;  // tiny: lower bound of a largest magnitude
    const void* weight;         // S
    const void* style;          // T [B, groups * width]; so are the tensors below that have no S
    void* scaled_weight;        // S
    void* scaled_style;
    void* energy;               // [O, width]
    void* factors;              // f, then r
    void* gain;                 // [B, O]
    void* style_out;            // style' and gain in S
    void* gain_out;
    const void* grad_scaled_weight;  // S; null: 0
    const void* grad_style_out;      // the same
    const void* grad_gain_out;       // S
    void* grad_weight;          // S
    void* grad_style;
};

namespace {

// Sum or maximum of a block's 256 values, returned to every thread. `shared` has room for one value per warp.
template <bool Largest, class T>
__device__ __forceinline__ T over_warp(T v) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const T other = __shfl_xor_sync(kAllLanes, v, lanes);
        v = Largest ? (v > other ? v : other) : v + other;
    }
    return v;
}

template <class T>
__device__ __forceinline__ T largest_of_block(T v, T* shared) {
    v = over_warp<true>(v);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    T largest = shared[0];
    for (int w = 1; w < kWarpsPerBlock; w++) largest = largest > shared[w] ? largest : shared[w];
    __syncthreads();
    return largest;
}

template <class T>
__device__ __forceinline__ T magnitude(T v) {
    return v < T(0) ? -v : v;
}

// In: weight, style.   Out: scaled_weight, scaled_style, energy, factors, gain, style_out, gain_out.
// Threads: a block per output channel; each of its warps takes one sample at a time.
template <class S, class T>
__global__ void __launch_bounds__(kThreadsPerBlock) demodulate_kernel(DemodulateParams p) {
    const T tiny_weight = T(p.tiny_weight), tiny_style = T(p.tiny_style);
    __shared__ T shared[kWarpsPerBlock];
    const int64_t o = blockIdx.x, all = p.groups * p.width, group = o / (p.O / p.groups) * p.width;
    const S* weight = static_cast<const S*>(p.weight) + o * p.width * p.taps;
    T f = T(1);
    if (p.rescale) {
        T largest = T(0);
        for (int64_t i = threadIdx.x; i < p.width * p.taps; i += kThreadsPerBlock) {
            const T v = magnitude(widen<T>(weight[i]));
            largest = v > largest ? v : largest;
        }
        largest = largest_of_block(largest, shared);
        f = T(1) / (T(sqrt(double(p.width * p.taps))) * (largest > tiny_weight ? largest : tiny_weight));
    }
    T* energy = static_cast<T*>(p.energy) + o * p.width;
    for (int64_t c = threadIdx.x; c < p.width; c += kThreadsPerBlock) {
        T sum = T(0);
        for (int64_t k = 0; k < p.taps; k++) {
            const S v = narrow<S>(widen<T>(weight[c * p.channel_step + k * p.tap_step]) * f);
            static_cast<S*>(p.scaled_weight)[(o * p.taps + k) * p.width + c] = v;
            sum += widen<T>(v) * widen<T>(v);
        }
        energy[c] = sum;
    }
    if (threadIdx.x == 0) static_cast<T*>(p.factors)[o] = f;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    for (int64_t b = threadIdx.x / 32; b < p.B; b += kWarpsPerBlock) {
        const T* style = static_cast<const T*>(p.style) + b * all;
        T r = T(1);
        if (p.rescale) {
            T largest = T(0);
            for (int64_t c = lane; c < all; c += 32) {
                const T v = magnitude(style[c]);
                largest = v > largest ? v : largest;
            }
            largest = over_warp<true>(largest);
            r = T(1) / (largest > tiny_style ? largest : tiny_style);
        }
        T sum = T(0);
        for (int64_t c = lane; c < p.width; c += 32) sum += (r * style[group + c]) * (r * style[group + c]) * energy[c];
        sum = over_warp<false>(sum);
        if (lane == 0) {
            const T gain = T(1) / T(sqrt(sum + T(p.eps)));
            static_cast<T*>(p.gain)[b * p.O + o] = gain;
            static_cast<S*>(p.gain_out)[b * p.O + o] = narrow<S>(gain);
        }
        if (o == 0) {
            if (lane == 0) static_cast<T*>(p.factors)[p.O + b] = r;
            for (int64_t c = lane; c < all; c += 32) {
                static_cast<T*>(p.scaled_style)[b * all + c] = r * style[c];
                static_cast<S*>(p.style_out)[b * all + c] = narrow<S>(r * style[c]);
            }
        }
    }
}

// d loss / d (the sum inside the square root) of sample b and output channel o.
template <class S, class T>
__device__ __forceinline__ T grad_of_norm(const DemodulateParams& p, int64_t b, int64_t o) {
    const T gain = static_cast<const T*>(p.gain)[b * p.O + o];
    return T(-0.5) * gain * gain * gain * widen<T>(static_cast<const S*>(p.grad_gain_out)[b * p.O + o]);
}

// grad_weight[o, c, k] = f[o] * (grad_weight' + 2 weight' * sum_b grad_of_norm[b, o] * style'[b, c]^2)
// grad_style[b, c]     = r[b] * (grad_style' + 2 style' * sum_o grad_of_norm[b, o] * energy[o, c])
//
// In: the forward's results and their gradients.   Out: grad_weight, grad_style.
// Threads: a block per output channel, then one per sample; a thread per channel.
template <class S, class T>
__global__ void __launch_bounds__(kThreadsPerBlock) demodulate_backward_kernel(DemodulateParams p) {
    const int64_t all = p.groups * p.width, per_group = p.O / p.groups;
    const T* style = static_cast<const T*>(p.scaled_style);
    if (int64_t(blockIdx.x) < p.O) {
        const int64_t o = blockIdx.x, group = o / per_group * p.width;
        const T f = static_cast<const T*>(p.factors)[o];
        for (int64_t c = threadIdx.x; c < p.width; c += kThreadsPerBlock) {
            T sum = T(0);
            for (int64_t b = 0; b < p.B; b++) {
                const T s = style[b * all + group + c];
                sum += grad_of_norm<S, T>(p, b, o) * s * s;
            }
            for (int64_t k = 0; k < p.taps; k++) {
                const int64_t at = (o * p.taps + k) * p.width + c;
                const T w = widen<T>(static_cast<const S*>(p.scaled_weight)[at]);
                const T from = p.grad_scaled_weight ? widen<T>(static_cast<const S*>(p.grad_scaled_weight)[at]) : T(0);
                S* to = static_cast<S*>(p.grad_weight) + o * p.width * p.taps + c * p.channel_step + k * p.tap_step;
                *to = narrow<S>(f * (from + T(2) * w * sum));
            }
        }
        return;
    }
    const int64_t b = int64_t(blockIdx.x) - p.O;
    const T r = static_cast<const T*>(p.factors)[p.O + b];
    for (int64_t c = threadIdx.x; c < all; c += kThreadsPerBlock) {
        const int64_t group = c / p.width, in_group = c - group * p.width;
        T sum = T(0);
        for (int64_t o = group * per_group; o < (group + 1) * per_group; o++)
            sum += grad_of_norm<S, T>(p, b, o) * static_cast<const T*>(p.energy)[o * p.width + in_group];
        const T from = p.grad_style_out ? widen<T>(static_cast<const S*>(p.grad_style_out)[b * all + c]) : T(0);
        static_cast<T*>(p.grad_style)[b * all + c] = r * (from + T(2) * style[b * all + c] * sum);
    }
}

template <class S, class T>
void launch_demodulate(const DemodulateParams& p, void* stream) {
    MTM_LAUNCH((demodulate_kernel<S, T>), int(p.O), kThreadsPerBlock, stream, p);
}

template <class S, class T>
void launch_demodulate_backward(const DemodulateParams& p, void* stream) {
    MTM_LAUNCH((demodulate_backward_kernel<S, T>), int(p.O + p.B), kThreadsPerBlock, stream, p);
}

}  // namespace
