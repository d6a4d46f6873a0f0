// What each build of the kernel consists of; see Kernel.
#pragma once

#include "kernel.hpp"

#if !defined(IGC_BUILD)
#error "IGC_BUILD names this build of the kernel"
#endif

namespace igc::IGC_BUILD {

void fwht(float* x, int64_t n, int64_t rows, int threads);
void project(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, float* out, int threads);
void add_expanded(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, const float* x, float alpha,
                  int threads);
void partition_project(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, float* out, int threads);
void partition_add_expanded(const Layout& layout, const Piece* pieces, int64_t count, int64_t start, const float* x,
                            float alpha, int threads);
void flip(float* x, int64_t count, uint64_t seed, uint32_t stream, uint64_t start, int threads);
void words(int64_t* out, int64_t count, uint64_t seed, uint32_t stream, uint64_t first, int threads);

}  // namespace igc::IGC_BUILD
