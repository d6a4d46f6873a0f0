#include "signs.hpp"

#include "build.hpp"
#include "memory.hpp"
#include "threads.hpp"

namespace igc::IGC_BUILD {

using namespace simd;

void flip(float* x, int64_t count, uint64_t seed, uint32_t stream, uint64_t start, int threads) {
    constexpr int64_t task_points = 1 << 16;
    in_parallel((count + task_points - 1) / task_points, count, threads, [&] {
        return [&, signs = std::make_shared<Signs>(seed, stream, task_points)](int64_t task) {
            float* points = x + task * task_points;
            const int64_t n = std::min(task_points, count - task * task_points);
            const int64_t first = int64_t(start) + task * task_points;
            signs->reach(first, n);
            int64_t i = 0;
            for (; i + lanes <= n; i += lanes) store(points + i, signs->flipped(load(points + i), first + i));
            for (; i < n; ++i) points[i] = signs->flipped(points[i], first + i);
        };
    });
}

}  // namespace igc::IGC_BUILD
