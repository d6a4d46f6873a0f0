// Work on several threads: PyTorch's where there are such, others where not.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "kernel.hpp"

namespace igc::IGC_BUILD {

// Rows below which threads cost more than they bring.
constexpr int64_t rows_worth_a_thread = 1 << 16;

// Calls loop() on as many threads as are useful, this one among them.
template <class Loop>
void run_on(int64_t useful, int threads, Loop& loop) {
    if (useful <= 1) return loop();
    // All of PyTorch's threads are called, useful or not: OpenMP ends the threads that a smaller team leaves out.
    if (const Team all = team.load())
        return all([](void* argument) { (*static_cast<Loop*>(argument))(); }, &loop, unsigned(threads), 0);
    std::vector<std::thread> others;
    others.reserve(size_t(useful - 1));
    try {
        for (int64_t i = 1; i < useful; ++i) others.emplace_back(std::ref(loop));
    } catch (const std::exception&) {
        // No further thread, or no memory for one, is to be had: those that are there do all tasks.
    }
    loop();
    for (auto& other : others) other.join();
}

// Calls work(task) for each task, on this thread and others; which thread takes which never matters to the result.
template <class MakeWorker>
void in_parallel(int64_t tasks, int64_t rows, int threads, MakeWorker make_worker) {
    int64_t useful = std::min<int64_t>({tasks, std::max<int64_t>(rows / rows_worth_a_thread, 1), threads});
    std::atomic<int64_t> next{0};
    std::mutex guard;
    std::exception_ptr failure;
    auto loop = [&] {
        try {
            int64_t task = next.fetch_add(1);
            if (task >= tasks) return;  // a thread that is of no use makes nothing
            auto work = make_worker();
            for (; task < tasks; task = next.fetch_add(1)) work(task);
        } catch (...) {  // no memory: nothing may leave a thread, and no thread may be left behind
            std::lock_guard<std::mutex> lock(guard);
            failure = std::current_exception();
        }
    };
    run_on(useful, threads, loop);
    if (failure) std::rethrow_exception(failure);
}

}  // namespace igc::IGC_BUILD
