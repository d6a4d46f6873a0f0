// Philox4x32-10 (Salmon et al., SC 2011): sign bits, 128 to a counter, as docs/projections.md lays them out.
#pragma once

#include <cstdint>

namespace igc {

enum Stream : uint32_t { row_signs = 0, column_signs = 1 };

// Sign words of the counters first .. first + count of a stream; four words a counter.
inline void sign_words(uint64_t seed, uint32_t stream, uint64_t first, int64_t count, uint32_t* out) {
    constexpr int group = 8;  // counters at once, for the compiler to vectorise
    for (int64_t base = 0; base < count; base += group) {
        uint32_t c0[group], c1[group], c2[group], c3[group];
        for (int i = 0; i < group; ++i) {
            uint64_t index = first + base + i;
            c0[i] = uint32_t(index), c1[i] = uint32_t(index >> 32), c2[i] = stream, c3[i] = 0;
        }
        uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
        for (int round = 0; round < 10; ++round) {
            for (int i = 0; i < group; ++i) {
                uint64_t p0 = uint64_t(c0[i]) * 0xD2511F53u, p1 = uint64_t(c2[i]) * 0xCD9E8D57u;
                c0[i] = uint32_t(p1 >> 32) ^ c1[i] ^ k0;
                c1[i] = uint32_t(p1);
                c2[i] = uint32_t(p0 >> 32) ^ c3[i] ^ k1;
                c3[i] = uint32_t(p0);
            }
            k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
        }
        int n = count - base < group ? int(count - base) : group;
        for (int i = 0; i < n; ++i) {
            uint32_t* w = out + 4 * (base + i);
            w[0] = c0[i], w[1] = c1[i], w[2] = c2[i], w[3] = c3[i];
        }
    }
}

}  // namespace igc
