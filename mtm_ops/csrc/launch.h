// How a CUDA kernel of the sampling is launched: one decision for all kernels, based on shapes and alignment only. Host
// code without CUDA, so that a test can check every shape on a machine without a GPU.
//
// A warp works on a tile of up to 32 neighbouring output pixels, for one tap and offset group at a time. First its
// lanes compute where each pixel of the tile samples, one pixel per lane, and write that to shared memory. Then each
// team of lanes (a power of two, at most a warp) takes one pixel and loops over its channels, `vector` neighbouring
// ones at a time, 16 bytes if alignment allows. A block has 256 threads. If there is more work than the grid has
// threads, it loops.
#pragma once

#include <cstdint>

struct LaunchShape {
    int32_t vector;   // channels that a thread loads at once
    int32_t team;     // threads per pixel: 8, 16 or 32
    int32_t tile;     // pixels per warp: 32 / team to 32
    int32_t threads;  // per block
    int32_t blocks;
};

constexpr int32_t kThreadsPerBlock = 256;
constexpr int64_t kWarpsPerBlock = kThreadsPerBlock / 32;
constexpr int64_t kMaxBlocks = 1 << 20;  // far below the grid's limit of 2^31 - 1, far above what a GPU holds at once
constexpr int64_t kEnoughWarps = 1 << 13;  // what the largest GPUs hold at once: tiles grow only if there are more

inline int32_t blocks_for(int64_t warps) {
    const int64_t wanted = (warps + kWarpsPerBlock - 1) / kWarpsPerBlock;
    return int32_t(wanted < 1 ? 1 : wanted < kMaxBlocks ? wanted : kMaxBlocks);
}

// width: channels per offset group; bytes: size of a channel; address: all loaded pointers, or-ed together.
inline LaunchShape choose_team(int64_t C, int64_t width, int64_t bytes, uintptr_t address) {
    LaunchShape shape{};
    const int64_t widest = 16 / bytes;
    const bool aligned = address % 16 == 0 && C % widest == 0 && width % widest == 0;
    shape.vector = aligned ? int32_t(widest) : 1;
    shape.team = 8;
    while (shape.team < 32 && int64_t(shape.team) * shape.vector < width) shape.team *= 2;
    if (!aligned && shape.team == 16) shape.team = 32;  // one variant fewer to build
    shape.threads = kThreadsPerBlock;
    return shape;
}

// For kernels over the rows: rows are output pixels; taps is the number of taps times groups.
inline LaunchShape choose_launch(int64_t C, int64_t width, int64_t bytes, uintptr_t address, int64_t rows, int64_t taps) {
    LaunchShape shape = choose_team(C, width, bytes, address);
    shape.tile = 32 / shape.team;
    while (shape.tile < 32 && (rows + 2 * shape.tile - 1) / (2 * shape.tile) * taps >= kEnoughWarps) shape.tile *= 2;
    shape.blocks = blocks_for((rows + shape.tile - 1) / shape.tile * taps);
    return shape;
}

// For grad_x: a team per input pixel, group and slice of the channels.
inline LaunchShape choose_pixel_launch(int64_t C, int64_t width, int64_t bytes, uintptr_t address, int64_t pixels) {
    LaunchShape shape = choose_team(C, width, bytes, address);
    const int64_t slice = int64_t(shape.team) * shape.vector, teams = pixels * ((width + slice - 1) / slice);
    shape.tile = 32 / shape.team;
    shape.blocks = blocks_for((teams + shape.tile - 1) / shape.tile);
    return shape;
}
