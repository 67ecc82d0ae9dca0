// Runs mtm_ops/csrc/cuda.cu on the CPU, so that indices, weights, reductions and launch shapes can be tested without
// a GPU, for every type except half. Each thread of a block is a fiber with its own stack; all fibers share one CPU
// thread, and blocks run one after the other. A fiber runs until it has to wait for others, at __syncthreads or at a
// warp operation; a warp runs until all its fibers wait for other warps. Blocks, warps and lanes run in an order that
// `seed` determines and that is shuffled again and again, so that no kernel can rely on one order.
#pragma once

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include <ucontext.h>

#define MTM_CUDA_ON_HOST
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one copy is enough because blocks run one after the other

struct Index3 {
    int x;
};
inline Index3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

// Rounds to nearest, ties to even. NaN stays NaN.
struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float v) {
        uint32_t raw;
        std::memcpy(&raw, &v, 4);
        bits = uint16_t(v != v ? 0x7fc0 : (raw + 0x7fff + (raw >> 16 & 1)) >> 16);
    }
    explicit operator float() const {
        const uint32_t raw = uint32_t(bits) << 16;
        float v;
        std::memcpy(&v, &raw, 4);
        return v;
    }
};

constexpr size_t kStackBytes = 64 << 10;

struct Fiber {
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    ucontext_t start;
    jmp_buf resume;
    bool started, done;
};

// A barrier: `arrived` counts the fibers that wait now, `round` how often all of them have met.
struct Meeting {
    int arrived = 0;
    int64_t round = 0;
};

struct Block {
    std::vector<Fiber> fibers;
    std::map<std::pair<int, unsigned>, Meeting> meetings;  // key: (warp, or -1 for the whole block; mask)
    std::vector<double> slot;                              // the value that each thread shows to its warp
    std::function<void()> kernel;
    ucontext_t scheduler_start;
    jmp_buf scheduler;
};
inline Block block;

inline int64_t progress = 0;  // meetings held plus threads done; a scheduling round that adds none is a deadlock

inline void run_fiber() {
    block.kernel();
    block.fibers[threadIdx.x].done = true;
    progress++;
    _longjmp(block.scheduler, 1);
}

inline void give_way() {
    const int self = threadIdx.x;
    if (_setjmp(block.fibers[self].resume) == 0) _longjmp(block.scheduler, 1);
}

inline void meet(int warp, unsigned mask, int count) {
    Meeting& meeting = block.meetings[{warp, mask}];
    const int64_t round = meeting.round;
    if (++meeting.arrived == count) {
        meeting.arrived = 0;
        meeting.round++;
        progress++;
        return;
    }
    while (meeting.round == round) give_way();
}

inline void __syncthreads() { meet(-1, 0, blockDim.x); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { meet(threadIdx.x / 32, mask, __builtin_popcount(mask)); }

// Exchanges values within `mask`: each lane stores its own, meets the others, and reads another lane's before the next
// meeting.
template <class T, class Read>
T exchange(unsigned mask, T v, const Read& read) {
    block.slot[threadIdx.x] = double(v);
    __syncwarp(mask);
    const T result = read(block.slot.data() + threadIdx.x / 32 * 32, threadIdx.x % 32);
    __syncwarp(mask);
    return result;
}

template <class T>
T __shfl_xor_sync(unsigned mask, T v, int lanes) {
    return exchange(mask, v, [&](const double* slot, int lane) { return T(slot[lane ^ lanes]); });
}

template <class T>
T __shfl_sync(unsigned mask, T v, int from, int width) {
    return exchange(mask, v, [&](const double* slot, int lane) { return T(slot[lane / width * width + from % width]); });
}

inline unsigned __match_any_sync(unsigned mask, uint32_t v) {
    return exchange<uint32_t>(mask, v, [&](const double* slot, int lane) {
        uint32_t same = 0;
        for (int i = 0; i < 32; i++) same |= uint32_t((mask >> i & 1) && slot[i] == slot[lane]) << i;
        return same;
    });
}

inline int __popc(unsigned v) { return __builtin_popcount(v); }

inline int64_t atomics = 0;  // number of atomicAdd calls
template <class T>
T atomicAdd(T* to, T v) {
    atomics++;
    const T before = *to;
    *to += v;
    return before;
}

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

inline int64_t launches = 0;  // number of kernel launches
inline unsigned seed = 1;     // for the order in which blocks and threads run

// Runs a thread until it waits or finishes; returns whether it has finished.
inline bool run_fiber_on(int i) {
    Fiber& fiber = block.fibers[i];
    threadIdx.x = i;
    if (_setjmp(block.scheduler) == 0) {
        if (fiber.started) _longjmp(fiber.resume, 1);
        fiber.started = true;
        setcontext(&fiber.start);
    }
    return block.fibers[threadIdx.x].done;
}

// Runs one block until all threads have finished: warps in shuffled order, each as far as it gets without the others.
inline void run_block(std::mt19937& random) {
    std::vector<int> warps(blockDim.x / 32), lanes(32);
    for (size_t i = 0; i < warps.size(); i++) warps[i] = int(i);
    for (int i = 0; i < 32; i++) lanes[i] = i;
    for (Fiber& fiber : block.fibers) fiber.started = fiber.done = false;
    int left = blockDim.x;
    while (left > 0) {
        const int64_t before = progress;
        std::shuffle(warps.begin(), warps.end(), random);
        for (const int warp : warps) {
            int64_t got_so_far;
            do {
                got_so_far = progress;
                std::rotate(lanes.begin(), lanes.begin() + random() % 32, lanes.end());
                for (const int lane : lanes)
                    if (!block.fibers[warp * 32 + lane].done) left -= run_fiber_on(warp * 32 + lane);
            } while (progress != got_so_far);
        }
        if (progress == before) std::fprintf(stderr, "cuda_on_host: all threads of a block wait\n"), std::abort();
    }
}

template <class Kernel, class... Params>
void run_on_host(Kernel kernel, int blocks, int threads, const Params&... params) {
    launches++;
    std::mt19937 random(seed);
    std::vector<int> order(blocks);
    for (int i = 0; i < blocks; i++) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    blockDim.x = threads, gridDim.x = blocks;
    block.kernel = [&] { kernel(params...); };
    block.slot.assign(threads, 0);
    if (block.fibers.size() < size_t(threads)) block.fibers = std::vector<Fiber>(threads);
    for (Fiber& fiber : block.fibers) {
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = kStackBytes;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, run_fiber, 0);
    }
    for (const int i : order) {
        blockIdx.x = i;
        block.meetings.clear();
        run_block(random);
    }
}

#define MTM_UNWRAP(...) __VA_ARGS__
#define MTM_LAUNCH(kernel, blocks, threads, stream, ...) run_on_host(MTM_UNWRAP kernel, blocks, threads, __VA_ARGS__)
