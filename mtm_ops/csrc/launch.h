// How a CUDA kernel of the sampling is launched: one decision for all kernels, from shapes and alignment alone. Host code
// without CUDA, so that a test can go through every shape where there is no GPU.
//
// A team of threads (a power of two, at most a warp) works on one tap of one output pixel and offset group; its threads
// take `vector` neighbouring channels at a time, 16 bytes where alignment allows. A block is 256 threads; what the grid
// does not cover in one go, it covers in strides.
#pragma once

#include <cstdint>

struct LaunchShape {
    int32_t vector;   // channels that a thread loads at once
    int32_t team;     // threads per tap: 4, 8, 16 or 32
    int32_t threads;  // per block
    int32_t blocks;
};

constexpr int32_t kThreadsPerBlock = 256;
constexpr int64_t kMaxBlocks = 1 << 20;  // far below the grid's limit of 2^31 - 1, far above what a GPU holds at once

// width: channels per offset group; bytes: size of one; address: all pointers that are loaded from, or-ed together;
// tasks: taps in all.
inline LaunchShape choose_launch(int64_t C, int64_t width, int64_t bytes, uintptr_t address, int64_t tasks) {
    LaunchShape shape;
    const int64_t widest = 16 / bytes;
    const bool aligned = address % 16 == 0 && C % widest == 0 && width % widest == 0;
    shape.vector = aligned ? int32_t(widest) : 1;
    shape.team = 4;
    while (shape.team < 32 && int64_t(shape.team) * shape.vector < width) shape.team *= 2;
    shape.threads = kThreadsPerBlock;
    const int64_t per_block = kThreadsPerBlock / shape.team, wanted = (tasks + per_block - 1) / per_block;
    shape.blocks = int32_t(wanted < 1 ? 1 : wanted < kMaxBlocks ? wanted : kMaxBlocks);
    return shape;
}
