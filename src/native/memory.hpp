// Memory that vectors can be loaded from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace igc::IGC_BUILD {

struct Free {
    void operator()(void* p) const { std::free(p); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Free>;

template <class T>
Buffer<T> allocate(int64_t count) {
    int64_t bytes = (std::max<int64_t>(count, 1) * int64_t(sizeof(T)) + 63) / 64 * 64;
    void* p = std::aligned_alloc(64, size_t(bytes));
    if (!p) throw std::bad_alloc();
    return Buffer<T>(static_cast<T*>(p));
}

}  // namespace igc::IGC_BUILD
