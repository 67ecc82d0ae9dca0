// Runs mtm_ops/csrc/cuda.cu on the CPU, so that its indices, weights, reductions and launch shapes are tested where there
// is no GPU: float and double only. A warp's 32 lanes are threads that meet at every shuffle; warps run one after the
// other, in a shuffled order so that nothing can rely on it.
#pragma once

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#define MTM_CUDA_ON_HOST
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct Index3 {
    int x;
};
inline thread_local Index3 threadIdx, blockIdx, blockDim, gridDim;

struct Warp {
    std::barrier<> meeting{32};
    double slot[32];
};
inline thread_local Warp* warp;

template <class T>
T __shfl_xor_sync(unsigned, T v, int lanes) {
    warp->slot[threadIdx.x % 32] = double(v);
    warp->meeting.arrive_and_wait();
    const T other = T(warp->slot[(threadIdx.x % 32) ^ lanes]);
    warp->meeting.arrive_and_wait();
    return other;
}

inline std::mutex memory;
inline int64_t atomics = 0;  // how many there were
template <class T>
T atomicAdd(T* to, T v) {
    const std::lock_guard<std::mutex> lock(memory);
    atomics++;
    const T before = *to;
    *to += v;
    return before;
}

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

template <class Kernel, class Params>
void run_on_host(Kernel kernel, int blocks, int threads, const Params& params) {
    std::vector<int> warps(size_t(blocks) * (threads / 32));
    for (size_t i = 0; i < warps.size(); i++) warps[i] = int(i);
    std::shuffle(warps.begin(), warps.end(), std::mt19937(1));
    Warp shared;
    std::vector<std::thread> lanes;
    for (int lane = 0; lane < 32; lane++)
        lanes.emplace_back([&, lane] {
            warp = &shared;
            blockDim.x = threads, gridDim.x = blocks;
            for (const int i : warps) {
                blockIdx.x = i / (threads / 32), threadIdx.x = i % (threads / 32) * 32 + lane;
                kernel(params);
                shared.meeting.arrive_and_wait();
            }
        });
    for (std::thread& lane : lanes) lane.join();
}

#define MTM_UNWRAP(...) __VA_ARGS__
#define MTM_LAUNCH(kernel, blocks, threads, stream, params) run_on_host(MTM_UNWRAP kernel, blocks, threads, params)
