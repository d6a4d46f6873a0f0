// The C interface that igc.projection.kernels.native calls, and the choice of an instruction set.

#include <pthread.h>

#include <cstring>
#include <exception>

#include "kernel.hpp"

#define IGC_EXPORT extern "C" __attribute__((visibility("default")))

namespace igc {

std::atomic<Team> team{nullptr};

namespace portable {
extern const Kernel kernel;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernel kernel;
}
namespace avx512 {
extern const Kernel kernel;
}
#endif

namespace {

const Kernel* by_name(const char* name) {
    const Kernel* found = nullptr;
    auto consider = [&](const Kernel& kernel, bool runs) {
        if (runs && !found && (!name || std::strcmp(name, kernel.name) == 0)) found = &kernel;
    };
#if defined(__x86_64__)
    __builtin_cpu_init();
    consider(avx512::kernel, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"));
    consider(avx2::kernel, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
#endif
    consider(portable::kernel, true);
    return found;
}

template <class Call>
int guarded(Call call) {
    try {
        call();
        return 0;
    } catch (const std::exception&) {  // no memory, or no thread to be had
        return 1;
    }
}

}  // namespace
}  // namespace igc

// Bumped when a signature changes, so that a stale library is refused and not called.
IGC_EXPORT int igc_abi() { return 8; }

// What runs work on threads; see Team. A forked process has none of the threads: there, threads are started as if null were given.
IGC_EXPORT void igc_use_team(igc::Team team) {
    static const int once = pthread_atfork(nullptr, nullptr, [] { igc::team = nullptr; });
    igc::team = once == 0 ? team : nullptr;
}

// The build for an instruction set, by name; null: the best. Null is returned where this machine cannot run it.
IGC_EXPORT const igc::Kernel* igc_find(const char* name) { return igc::by_name(name); }

IGC_EXPORT const char* igc_name(const igc::Kernel* kernel) { return kernel->name; }

IGC_EXPORT int igc_fwht(const igc::Kernel* kernel, float* x, int64_t n, int64_t rows, int threads) {
    return igc::guarded([&] { kernel->fwht(x, n, rows, threads); });
}

IGC_EXPORT int igc_project(const igc::Kernel* kernel, int64_t d, int64_t n, uint64_t seed, const igc::Piece* pieces,
                           int64_t count, int64_t start, float* out, int threads) {
    return igc::guarded([&] { kernel->project({d, n, seed}, pieces, count, start, out, threads); });
}

IGC_EXPORT int igc_add_expanded(const igc::Kernel* kernel, int64_t d, int64_t n, uint64_t seed,
                                const igc::Piece* pieces, int64_t count, int64_t start, const float* x, float alpha,
                                int threads) {
    return igc::guarded([&] { kernel->add_expanded({d, n, seed}, pieces, count, start, x, alpha, threads); });
}

IGC_EXPORT int igc_partition_project(const igc::Kernel* kernel, int64_t d, int64_t n, uint64_t seed, const igc::Piece* pieces,
                                     int64_t count, int64_t start, float* out, int threads) {
    return igc::guarded([&] { kernel->partition_project({d, n, seed}, pieces, count, start, out, threads); });
}

IGC_EXPORT int igc_partition_add_expanded(const igc::Kernel* kernel, int64_t d, int64_t n, uint64_t seed,
                                          const igc::Piece* pieces, int64_t count, int64_t start, const float* x,
                                          float alpha, int threads) {
    return igc::guarded([&] { kernel->partition_add_expanded({d, n, seed}, pieces, count, start, x, alpha, threads); });
}

IGC_EXPORT int igc_flip(const igc::Kernel* kernel, float* x, int64_t count, uint64_t seed, uint32_t stream, uint64_t start,
                        int threads) {
    return igc::guarded([&] { kernel->flip(x, count, seed, stream, start, threads); });
}

IGC_EXPORT int igc_words(const igc::Kernel* kernel, int64_t* out, int64_t count, uint64_t seed, uint32_t stream,
                         uint64_t first, int threads) {
    return igc::guarded([&] { kernel->words(out, count, seed, stream, first, threads); });
}
