// Vectors times signs of a stream.
#pragma once

#include <cstring>

#include "half.hpp"
#include "memory.hpp"
#include "philox.hpp"
#include "simd.hpp"

namespace igc::IGC_BUILD {

constexpr int signs_a_counter = 128;

// n points times the signs from bit `shift` of `words` on, one by one.
inline void flip_plainly(float* x, int64_t n, const uint32_t* words, int shift) {
    for (int64_t i = 0; i < n; ++i) {
        uint32_t bit = words[(i + shift) >> 5] >> ((i + shift) & 31) & 1u;
        x[i] = as_float(as_bits(x[i]) ^ bit << 31);
    }
}

// Signs of a stream, `count` at a time, from any index on: made anew only where those at hand do not reach.
class Signs {
   public:
    Signs(uint64_t seed, uint32_t stream, int64_t count)
        // One word more, which is read with the last of them and not used.
        : seed_(seed), stream_(stream), counters_((count + 2 * signs_a_counter - 2) / signs_a_counter),
          words_(allocate<uint32_t>(4 * counters_ + 1)) {}

    // Have the signs of indices first .. first + many, which are `count` at most; `all`: and those that follow, up to `count`.
    void reach(int64_t first, int64_t many, bool all = true) {
        if (first >= begin_ && first + many <= begin_ + filled_) return;
        begin_ = first / signs_a_counter * signs_a_counter;
        const int64_t last = first + many, needed = (last - begin_ + signs_a_counter - 1) / signs_a_counter;
        const int64_t counters = all ? counters_ : needed;
        filled_ = counters * signs_a_counter;
        sign_words(seed_, stream_, uint64_t(first) / signs_a_counter, counters, words_.get());
    }

    // A vector times the signs from an index on.
    simd::vf flipped(simd::vf v, int64_t index) const {
        const int64_t bit = index - begin_;
        // A vector's signs may begin in one word and end in the next.
        const uint32_t* word = words_.get() + (bit >> 5);
        const uint64_t pair = uint64_t(word[1]) << 32 | word[0];
        return simd::flip_bits(v, uint32_t(pair >> (bit & 31)), 0);
    }

    float flipped(float x, int64_t index) const {
        const int64_t bit = index - begin_;
        return as_float(as_bits(x) ^ (words_[size_t(bit >> 5)] >> (bit & 31) & 1u) << 31);
    }

   private:
    uint64_t seed_;
    uint32_t stream_;
    int64_t counters_, begin_ = 0, filled_ = 0;
    Buffer<uint32_t> words_;
};

}  // namespace igc::IGC_BUILD
