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
            signs->reach(first, n, false);
            int64_t i = 0;
            for (; i + lanes <= n; i += lanes) store(points + i, signs->flipped(load(points + i), first + i));
            for (; i < n; ++i) points[i] = signs->flipped(points[i], first + i);
        };
    });
}

void words(int64_t* out, int64_t count, uint64_t seed, uint32_t stream, uint64_t first, int threads) {
    constexpr int64_t task_counters = 1 << 12;
    in_parallel((count + task_counters - 1) / task_counters, 4 * count, threads, [&] {
        return [&, narrow = allocate<uint32_t>(4 * task_counters)](int64_t task) {
            const int64_t begin = task * task_counters, n = std::min(task_counters, count - begin);
            sign_words(seed, stream, first + uint64_t(begin), n, narrow.get());
            for (int64_t i = 0; i < 4 * n; ++i) out[4 * begin + i] = int64_t(narrow[size_t(i)]);
        };
    });
}

}  // namespace igc::IGC_BUILD
