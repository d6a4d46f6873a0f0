// Projections on the CPU: what every build of the kernel exports.
//
// The matrices are docs/projections.md's. Blocked Hadamard: block b of n rows owns segment q = b mod S of s columns, and there
// A_b = R_b H_n[:, :s] C_b / sqrt(s). The kernel is compiled once for each instruction set (see CMakeLists.txt) and chosen
// at run time (dispatch.cpp). Butterflies run over the bits of an index from the lowest to the highest, whatever the
// register width and the grouping in passes, so that every build gives the same bits.
#pragma once

#include <atomic>
#include <cstdint>

namespace igc {

enum class Dtype : int32_t { float32 = 0, bfloat16 = 1, float16 = 2 };

// A contiguous part of the flat view of the parameters. A sum is written to `data`; what it is added to is read from `base`,
// which is `data` itself for a sum in place, and may overlap it in no other way. Its rows of A are multiplied by `scale`.
struct Piece {
    void* data;
    const void* base;
    int64_t size;
    Dtype dtype;
    float scale;
};

struct Layout {
    int64_t d;
    int64_t n;
    uint64_t seed;
};

// Runs work(argument) on a number of threads at once, the calling one among them, and returns when all have; the fourth
// argument is 0. It is OpenMP's own (GOMP_parallel) where PyTorch computes by it: its threads, which wait for work by spinning,
// are then ours, too, and are not in the way of ours. Null: threads are started for each call.
using Team = void (*)(void (*work)(void*), void* argument, unsigned threads, unsigned flags);
extern std::atomic<Team> team;

struct Kernel {
    const char* name;
    // In-place, unnormalised transform of `rows` rows of n floats.
    void (*fwht)(float* x, int64_t n, int64_t rows, int threads);
    // out (d) += A[start : start + sum of sizes].T g, for a g that lies in pieces.
    void (*project)(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, float* out, int threads);
    // y = base + alpha A[start : start + sum of sizes] x, for a y that lies in pieces.
    void (*add_expanded)(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, const float* x,
                         float alpha, int threads);
    // The same two for the partition, where n is of no meaning.
    void (*partition_project)(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, float* out, int threads);
    void (*partition_add_expanded)(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, const float* x,
                                   float alpha, int threads);
    // x[i] times the sign at index start + i of a stream, in place.
    void (*flip)(float* x, int64_t count, uint64_t seed, uint32_t stream, uint64_t start, int threads);
    // The random words of the counters first .. first + count of a stream, four words a counter.
    void (*words)(int64_t* out, int64_t count, uint64_t seed, uint32_t stream, uint64_t first, int threads);
};

}  // namespace igc
